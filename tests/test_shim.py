"""`install-shim DIR`: links for PATH, made once, taken back whole, and nothing of others touched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import emulator
from confined_qemu.install import shim
from confined_qemu.model import paths
from confined_qemu.model.errors import ConfinedQemuError, EmulatorNotFound, HostError
from tests.messages import is_message

if TYPE_CHECKING:
    from pathlib import Path

NAME = "qemu-system-x86_64"


def make(path: Path, content: bytes = b"\x7fELF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of emulators, one of them real, and a launch script."""
    monkeypatch.setattr(emulator, "FOLDERS", ())
    launch = make(tmp_path / "libexec" / "launch", b"#!/bin/sh\n# Written by `confined-qemu policy install`\n")
    monkeypatch.setattr(paths, "LAUNCH_SCRIPT", str(launch))
    make(tmp_path / "bin" / NAME)
    (tmp_path / "ours").mkdir()
    return tmp_path


def listing(folder: Path) -> dict[str, str]:
    return {entry.name: os.readlink(entry) if entry.is_symlink() else "" for entry in folder.iterdir()}


def test_links_for_what_the_host_has_and_back(host: Path) -> None:
    ours, search = host / "ours", f"{host}/ours:{host}/bin"
    done = shim.install(str(ours), search)
    assert listing(ours) == {NAME: paths.LAUNCH_SCRIPT}
    assert done.warnings == ()
    assert shim.install(str(ours), search).lines == (f"{ours}/{NAME} is there already",)
    make(host / "bin" / "qemu-kvm")
    (host / "bin" / "kvm").symlink_to(NAME)
    shim.install(str(ours), search)
    assert set(listing(ours)) == {NAME, "qemu-kvm", "kvm"}
    (ours / "qemu-system-aarch64").symlink_to(paths.LAUNCH_SCRIPT)
    make(ours / "other")
    os.unlink(paths.LAUNCH_SCRIPT)  # `policy remove` came first
    shim.remove(str(ours))
    assert set(listing(ours)) == {"other", "qemu-system-aarch64"}
    assert "no link of confined-qemu" in shim.remove(str(ours)).lines[0]


def test_what_is_not_ours_stays_and_nothing_is_half_made(host: Path) -> None:
    make(host / "bin" / "qemu-kvm")
    mine = make(host / "ours" / "qemu-kvm", b"#!/bin/sh\nmy own\n")
    with pytest.raises(HostError, match="not confined-qemu's link") as raised:
        shim.install(f"{host}/ours", f"{host}/bin")
    assert str(raised.value).endswith(f"mv {mine} {mine}.orig")
    assert listing(host / "ours") == {"qemu-kvm": ""}
    shim.remove(f"{host}/ours")
    assert listing(host / "ours") == {"qemu-kvm": ""}


def test_a_dangling_link_of_another_is_not_ours(host: Path) -> None:
    (host / "ours" / NAME).symlink_to("/nowhere/launch")
    with pytest.raises(HostError, match="not confined-qemu's link"):
        shim.install(f"{host}/ours", f"{host}/bin")


@pytest.mark.parametrize(
    ("search", "said"),
    [("{}/bin:{}/ours", "before {}/bin"), ("{}/bin", "before {}/bin"), ("", "is not on PATH, "), ("{}/ours", None)],
)
def test_it_says_when_path_leads_elsewhere(
    host: Path, search: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "FOLDERS", (f"{host}/bin",))
    monkeypatch.setattr(os, "defpath", "/nowhere")
    done = shim.install(f"{host}/ours", search.replace("{}", str(host)))
    if said is None:
        assert done.warnings == ()
    else:
        (line,) = done.warnings
        assert said.replace("{}", str(host)) in line
        assert line.endswith(f'run: export PATH={host}/ours:"$PATH"')


def test_what_is_missing_is_one_line(host: Path) -> None:
    for folder, search, said in (
        (f"{host}/none", f"{host}/bin", "mkdir -p"),
        (f"{host}/ours", f"{host}/ours", "no emulator on PATH"),
    ):
        with pytest.raises(ConfinedQemuError, match=said) as raised:
            shim.install(folder, search)
        assert is_message(str(raised.value))
    os.unlink(paths.LAUNCH_SCRIPT)
    with pytest.raises(HostError, match="policy install"):
        shim.install(f"{host}/ours", f"{host}/bin")


def test_a_hostile_folder(host: Path) -> None:
    folder = host / "a b\n,'\x1b"
    folder.mkdir()
    done = shim.install(str(folder), f"{host}/bin")
    assert listing(folder) == {NAME: paths.LAUNCH_SCRIPT}
    assert len(done.warnings) == 1
    shim.remove(str(folder))
    assert listing(folder) == {}


def test_without_qemu_there_is_nothing_to_stand_for(host: Path) -> None:
    os.unlink(host / "bin" / NAME)
    with pytest.raises(EmulatorNotFound):
        shim.install(f"{host}/ours", f"{host}/bin:{host}/ours")


# ---- the system's, without dpkg-divert


@pytest.fixture
def fedora(host: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose packages are not dpkg's: its own emulator in `bin`, and `local` before it on the default PATH."""
    (host / "local").mkdir()
    monkeypatch.setattr(shim, "_DIVERT_FOLDERS", (str(host / "none"),))
    monkeypatch.setattr(shim, "LOCAL", str(host / "local"))
    monkeypatch.setattr(shim, "_default_path", lambda: f"{host}/local:{host}/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return host


def test_without_dpkg_divert_the_links_lie_where_they_win_and_go_again(fedora: Path) -> None:
    make(fedora / "bin" / "qemu-kvm")
    before = listing(fedora / "bin")
    done = shim.install_system()
    assert listing(fedora / "local") == {NAME: paths.LAUNCH_SCRIPT, "qemu-kvm": paths.LAUNCH_SCRIPT}
    assert (
        f"no dpkg-divert, so the links lie in {fedora}/local: who names {fedora}/bin/{NAME} itself" in done.warnings[0]
    )
    assert shim.is_system()
    assert emulator.look(NAME, f"{fedora}/local:{fedora}/bin") == f"{fedora}/bin/{NAME}"
    assert all("is there already" in line for line in shim.install_system().lines)
    mine = make(fedora / "local" / "other")
    os.unlink(paths.LAUNCH_SCRIPT)  # `policy remove` came first
    assert len(shim.remove_system().lines) == 2
    assert listing(fedora / "local") == {mine.name: ""}
    assert not shim.is_system()
    assert "no link of confined-qemu" in shim.remove_system().lines[0]
    assert listing(fedora / "bin") == before


def test_a_crash_between_two_links_is_gone_on_from(fedora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(fedora / "bin" / "qemu-kvm")
    symlink, made = os.symlink, list[str]()

    def once(source: str, target: str) -> None:
        if made:
            raise OSError(28, "injected")
        made.append(target)
        symlink(source, target)

    monkeypatch.setattr(os, "symlink", once)
    with pytest.raises(HostError, match="cannot be made"):
        shim.install_system()
    assert listing(fedora / "local") == {NAME: paths.LAUNCH_SCRIPT}
    monkeypatch.setattr(os, "symlink", symlink)
    shim.install_system()
    assert set(listing(fedora / "local")) == {NAME, "qemu-kvm"}


@pytest.mark.parametrize(
    ("search", "said"),
    [("{}/bin:{}/local", f"{{}}/bin/{NAME} comes before it"), ("{}/bin:/usr/bin", "it is not on the default PATH")],
)
def test_where_a_link_would_not_win_nothing_is_made(
    fedora: Path, monkeypatch: pytest.MonkeyPatch, search: str, said: str
) -> None:
    monkeypatch.setattr(shim, "_default_path", lambda: search.replace("{}", str(fedora)))
    with pytest.raises(HostError) as raised:
        shim.install_system()
    assert f"would not be found first: {said.replace('{}', str(fedora))}" in str(raised.value)
    assert str(raised.value).endswith("confined-qemu install-shim DIR")
    assert listing(fedora / "local") == {}


def test_an_emulator_of_the_administrators_own_is_not_replaced(fedora: Path) -> None:
    make(fedora / "local" / NAME)
    with pytest.raises(HostError, match="not confined-qemu's link"):
        shim.install_system()
    shim.remove_system()
    assert listing(fedora / "local") == {NAME: ""}


def test_an_emulator_that_no_path_names_gets_a_name_on_it(fedora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.unlink(fedora / "bin" / NAME)
    make(fedora / "libexec" / "qemu-kvm")
    monkeypatch.setattr(emulator, "FOLDERS", (f"{fedora}/libexec",))
    shim.install_system()
    assert listing(fedora / "local") == {"qemu-kvm": paths.LAUNCH_SCRIPT}


def test_the_systems_emulators_are_roots(fedora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for act, more in ((shim.install_system, ""), (shim.remove_system, " --remove")):
        with pytest.raises(HostError) as raised:
            act()
        assert str(raised.value).endswith(f"sudo confined-qemu install-shim --system{more}")
    assert listing(fedora / "local") == {}
