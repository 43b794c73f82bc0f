"""Which family a host is of, and what its package manager is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import packages
from confined_qemu.launch import collect
from confined_qemu.model import distribution
from confined_qemu.model.distribution import Family, Package
from confined_qemu.model.facts import FileFacts, FileKind
from confined_qemu.model.helper import HelperKind

if TYPE_CHECKING:
    from pathlib import Path

RELEASES = {
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n': Family.DEBIAN,
    "ID=linuxmint\nID_LIKE='ubuntu debian'\n": Family.DEBIAN,
    "NAME=Fedora\nID=fedora\n": Family.FEDORA,
    'ID="centos"\nID_LIKE="rhel fedora"\n': Family.FEDORA,
    'ID="almalinux"\nID_LIKE="rhel centos fedora"\n': Family.FEDORA,
    'ID="eurolinux"\nID_LIKE="rhel fedora centos"\n': Family.FEDORA,
    "ID=amzn\n": Family.FEDORA,
    'ID="opensuse-leap"\nID_LIKE="suse opensuse"\n': Family.SUSE,
    "ID_LIKE=debian\n  ID=fedora\n": Family.FEDORA,
    "ID=nixos\n": None,
    "": None,
    "# ID=debian\nVERSION_ID=fedora\nID\n": None,
}


@pytest.mark.parametrize(("text", "family"), RELEASES.items())
def test_the_family_is_read_from_os_release(text: str, family: Family | None) -> None:
    assert distribution.family(text) is family


def test_each_family_has_its_own_command_and_names() -> None:
    assert distribution.command(Family.DEBIAN, Package.SELINUX) == "apt install python3-selinux"
    assert distribution.command(Family.FEDORA, Package.SELINUX) == "dnf install python3-libselinux"
    assert distribution.command(Family.FEDORA, Package.YAML) == "dnf install python3-pyyaml"
    assert distribution.command(Family.FEDORA, Package.QEMU_IMG) == "dnf install qemu-img"
    assert distribution.command(Family.SUSE, Package.QEMU) == "zypper install qemu-x86"


@pytest.mark.parametrize("package", Package)
def test_where_the_family_is_not_known_both_are_named(package: Package) -> None:
    said = distribution.command(None, package)
    assert distribution.command(Family.DEBIAN, package) in said
    assert distribution.command(Family.FEDORA, package) in said


def test_the_host_is_asked_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "etc", tmp_path / "usr"
    monkeypatch.setattr(packages, "OS_RELEASE", (str(first), str(second)))
    assert packages.family() is None
    second.write_bytes(b"NAME=\xff\nID=fedora\n")
    assert packages.command(Package.QEMU) == "dnf install qemu-kvm"
    first.write_text("ID=debian\n")
    assert packages.command(Package.QEMU) == "apt install qemu-system-x86"


def program(kind: FileKind) -> FileFacts:
    return FileFacts("/usr/bin/swtpm", "/usr/bin/swtpm", kind)


def test_a_launch_asks_only_where_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Family.FEDORA])  # one, so a question too many has none
    monkeypatch.setattr(packages, "family", lambda: next(answers))
    assert collect._distribution({}) is None
    assert collect._distribution({HelperKind.SWTPM: program(FileKind.REGULAR)}) is None
    assert collect._distribution({HelperKind.SWTPM: program(FileKind.MISSING)}) is Family.FEDORA
