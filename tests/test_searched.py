"""QEMU's own order of search: a bare name of firmware, folders of `-L`, and a pipe that is one or two."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import searched
from confined_qemu.model.errors import HostError
from confined_qemu.read.qemu.reader import read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with two folders of firmware."""
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two", "two/keymaps"):
        (tmp_path / folder).mkdir()
    return tmp_path


def found(line: str) -> list[str]:
    resources = searched.found(read("qemu-system-x86_64", line.split())).resources
    return [f"{r.path} {r.role} {r.access} {r.sharing}" for r in resources if r.access != "dir"]


def put(here: Path, *names: str) -> None:
    for name in names:
        (here / name).write_text("x")


@pytest.mark.parametrize(
    "option", ["-bios {}", "-option-rom {}", "-device virtio-net-pci,romfile={}", "-boot splash={}"]
)
def test_a_name_is_taken_from_the_first_place_that_has_it(here: Path, option: str) -> None:
    line = f"-L one -L two {option.format('own.fd')}"
    assert [one.partition(" ")[0] for one in found(line)] == ["own.fd"]
    for name in ("two/own.fd", "one/own.fd", "own.fd"):
        put(here, name)
        assert [one.partition(" ")[0] for one in found(line)] == [name]


def test_a_keymap_lies_in_a_folder_of_its_own(here: Path) -> None:
    put(here, "two/keymaps/xx", "two/xx")
    assert found("-L two -k xx")[-1] == "two/keymaps/xx firmware ro content"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("-audiodev pa,id=a", ["run/pulse/native", "pulse-own/native", "server"]),
        ("-audiodev pipewire,id=a", ["run/pipewire-0", "pipewire-own/pipewire-0", "remote"]),
        ("-drive driver=rbd,pool=p,image=i,key-secret=s", ["ceph.conf", ".ceph/ceph.conf", "own.conf"]),
        ("-netdev user,id=u,guestfwd=tcp:10.0.2.4:1-cmd:own", ["bin2/own", "bin1/own"]),
    ],
)
def test_what_a_variable_names_is_found_in_the_order_of_those_who_read_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, line: str, names: list[str]
) -> None:
    for variable, value in {
        "PULSE_SERVER": "unix:@/server", "PULSE_RUNTIME_PATH": "@/pulse-own", "XDG_RUNTIME_DIR": "@/run",
        "PIPEWIRE_REMOTE": "@/remote", "PIPEWIRE_RUNTIME_DIR": "@/pipewire-own",
        "CEPH_CONF": "@/own.conf", "HOME": "@", "PATH": "@/bin1:@/bin2:relative",
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value.replace("@", str(here)))
    for name in names:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        put(here, name)
        expected = name if name == "ceph.conf" else str(here / name)
        assert [one.partition(" ")[0] for one in found(line)] == [expected]


def test_what_no_variable_names_is_a_librarys_own(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    for variable in ("CEPH_KEYRING", "CEPH_CONF", "XDG_RUNTIME_DIR", "PULSE_SERVER", "PULSE_RUNTIME_PATH", "PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(here))
    conf, keyring = found("-drive driver=rbd,pool=p,image=i,user=u")
    assert conf == "/etc/ceph/ceph.conf config ro unlabelled"
    assert keyring == "/etc/ceph/ceph.client.u.keyring secret ro unlabelled"
    assert found("-audiodev pa,id=a") == ["/run/pulse/native socket connect unlabelled"]
    assert found("-netdev user,id=u,guestfwd=tcp:10.0.2.4:1-cmd:own") == ["/usr/bin/own helper ro unlabelled"]


WINDOWS: dict[str, str | None] = {
    "": "default", "-S": "default", "-display gtk": "gtk", "-display type=sdl,gl=off": "sdl",
    "-vnc :0 -display gtk,zoom-to-fit=on": "gtk", "-display gtk -display none": None, "-nographic": None,
    "-vnc :0": None, "-spice port=1": None, "-display curses": None, "-daemonize": None, "-display vnc=:0": None,
}  # fmt: skip


@pytest.mark.parametrize("line", WINDOWS)
def test_a_window_is_the_last_display_or_what_qemu_takes_by_itself(line: str) -> None:
    assert read("qemu-system-x86_64", line.split()).window == WINDOWS[line]


@pytest.mark.parametrize(
    ("line", "changed", "on_x"),
    [
        ("-display gtk", {}, True),
        ("", {}, True),
        ("-display sdl", {}, True),
        ("-display gtk", {"WAYLAND_DISPLAY": "wayland-0"}, False),
        ("-display gtk", {"WAYLAND_DISPLAY": "wayland-0", "GDK_BACKEND": "x11"}, True),
        ("-display sdl", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("-display sdl", {"SDL_VIDEODRIVER": "wayland"}, False),
        ("-display gtk", {"DISPLAY": ""}, False),
        ("-display none", {}, False),
    ],
)
def test_a_window_on_an_x_server_has_the_key_of_its_user(
    here: Path, monkeypatch: pytest.MonkeyPatch, line: str, changed: dict[str, str], *, on_x: bool
) -> None:
    put(here, "key", ".Xauthority")
    for variable in ("WAYLAND_DISPLAY", "GDK_BACKEND", "SDL_VIDEODRIVER", "XAUTHORITY"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in ({"DISPLAY": ":0", "HOME": str(here)} | changed).items():
        monkeypatch.setenv(variable, value)
    made = read("qemu-system-x86_64", line.split())
    if made.window is not None:
        made = searched.with_window(made)
    assert (made.window is not None) is on_x
    assert made.x_key == (str(here / ".Xauthority") if on_x else None)
    if on_x:
        monkeypatch.setenv("XAUTHORITY", str(here / "key"))
        assert searched.with_window(made).x_key == str(here / "key")
        monkeypatch.setenv("XAUTHORITY", "relative")
        assert searched.with_window(made).x_key is None


def test_a_server_in_a_folder_that_nobody_names_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PIPEWIRE_REMOTE", "PIPEWIRE_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    assert found("-audiodev pipewire,id=a") == []
    monkeypatch.setenv("PIPEWIRE_REMOTE", "a-name")
    assert found("-audiodev pipewire,id=a") == []


def test_an_absolute_name_and_one_without_folders_stay(here: Path) -> None:
    put(here, "one/own.fd")
    assert found("-L one -bios /srv/own.fd") == ["/srv/own.fd firmware ro content"]
    assert found("-bios own.fd") == ["own.fd firmware ro content"]


def test_what_qemu_loads_unasked_from_a_folder_of_firmware_is_named_and_nothing_else(here: Path) -> None:
    put(here, "one/bios-256k.bin", "one/vgabios-stdvga.bin", "one/efi-virtio.rom", "one/disk.img", "one/notes.txt")
    put(here, "two/keymaps/en-us")
    (here / "one/pxe-x.rom").mkdir()
    names = [one.partition(" ")[0] for one in found("-L one -L two")]
    assert names == ["one/bios-256k.bin", "one/efi-virtio.rom", "one/vgabios-stdvga.bin", "two/keymaps/en-us"]


def test_the_systems_own_folder_is_left_alone_behind_a_link_too(here: Path) -> None:
    os.symlink("/usr/share", here / "link")
    assert found("-L /usr/share -L link -L nowhere") == []


def test_a_folder_of_too_much_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(here, "one/a", "one/b")
    monkeypatch.setattr(searched, "_MOST", 1)
    with pytest.raises(HostError, match="more than 1 files"):
        found("-L one")


@pytest.mark.parametrize("line", ["-serial pipe:p", "-chardev pipe,id=c,path=p"])
def test_a_pipe_is_two_or_one(here: Path, line: str) -> None:
    assert [one.partition(" ")[0] for one in found(line)] == ["p.in", "p.out"]
    os.mkfifo(here / "p")
    assert found(line) == ["p chardev rw private"]
    os.mkfifo(here / "p.in")
    os.mkfifo(here / "p.out")
    assert [one.partition(" ")[0] for one in found(line)] == ["p.in", "p.out"]
