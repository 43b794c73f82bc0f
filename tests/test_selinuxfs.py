"""Whether SELinux is on: disabled, permissive, enforcing, and not to be found out are four answers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import lsm, selinuxfs
from confined_qemu.model.errors import LsmError
from confined_qemu.model.facts import SelinuxMode

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.touches_host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel with SELinux, a policy loaded, permissive."""
    root = tmp_path / "selinux"
    (root / "class/process").mkdir(parents=True)
    (root / "enforce").write_text("0")
    (tmp_path / "filesystems").write_text("nodev\tsysfs\nnodev\tselinuxfs\n\text4\n")
    monkeypatch.setattr(selinuxfs, "ROOT", str(root))
    monkeypatch.setattr(selinuxfs, "_KINDS", str(tmp_path / "filesystems"))
    monkeypatch.setattr(selinuxfs, "_MOUNTS", str(tmp_path / "mountinfo"))
    mounted(tmp_path, "selinuxfs")
    return tmp_path


def mounted(host: Path, kind: str) -> None:
    device = os.stat(host).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    rows = ("1 0 255:1 / / rw - ext4 /dev/x rw", f"23 1 {number} / /sys/fs/selinux rw shared:9 - {kind} x rw", "broken")
    (host / "mountinfo").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(("enforce", "mode"), [("0", SelinuxMode.PERMISSIVE), ("1", SelinuxMode.ENFORCING)])
def test_selinux_is_on(host: Path, enforce: str, mode: SelinuxMode) -> None:
    (host / "selinux/enforce").write_text(enforce)
    assert lsm.mode() is mode
    assert not selinuxfs.is_disabled()


def test_selinux_is_off(host: Path) -> None:
    (host / "filesystems").write_text("nodev\tsysfs\n\tnotselinuxfs\n")
    assert lsm.mode() is SelinuxMode.DISABLED
    assert selinuxfs.is_disabled()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("filesystems", "whether SELinux is on cannot be read"),
        ("mountinfo", "whether SELinux is on cannot be read"),
        ("selinux/enforce", "selinuxfs is not mounted"),
    ],
)
def test_what_cannot_be_read_is_no_mode(host: Path, gone: str, said: str) -> None:
    (host / gone).unlink()
    with pytest.raises(LsmError, match=said):
        lsm.mode()
    assert not selinuxfs.is_disabled()
    assert not selinuxfs.allows("a", "b", "file", ("read",))


def test_another_file_system_in_its_place_is_not_believed(host: Path) -> None:
    (host / "selinux/class/file/perms").mkdir(parents=True)
    (host / "selinux/class/file/index").write_text("7")
    (host / "selinux/class/file/perms/read").write_text("1")
    (host / "selinux/access").write_text("ffffffff 0 0 0 0")
    assert selinuxfs.is_genuine()
    mounted(host, "tmpfs")
    with pytest.raises(LsmError, match="another file system is mounted in the place of selinuxfs"):
        lsm.mode()
    assert not selinuxfs.allows("a", "b", "file", ("read",))
