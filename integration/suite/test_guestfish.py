"""guestfish, unchanged, with the drop-in as its emulator: libguestfs 1.48, direct backend, one appliance for all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness
from integration.suite.observer import Way, watching

if TYPE_CHECKING:
    from pathlib import Path

APPLIANCE = "/var/tmp/clients/appliance"  # noqa: S108 - in the guest, lent by integration/guestlib/clientdisk.py
SHARED = [os.path.join(APPLIANCE, name) for name in ("kernel", "initrd", "root")]
CONTENT = "virt_content_t:s0"
DISK_SIZE = 16 << 20
"""Bytes."""
QUERIES = 2
"""`-help` and `-device ?`."""
PROBES = 2
"""Machines that are started only to be asked over QMP: what QEMU knows, and whether it has KVM."""


class Fish:
    """One guestfish, told what to do as it goes, and its disk."""

    def __init__(self, way: Way, folder: Path) -> None:
        folder.mkdir()
        self.disk = str(folder / "disk.img")
        with open(self.disk, "wb") as file:
            file.truncate(DISK_SIZE)
        environment = {
            **os.environ,
            "LIBGUESTFS_BACKEND": "direct",
            "LIBGUESTFS_HV": way.emulator(),
            "LIBGUESTFS_PATH": APPLIANCE,
            "LIBGUESTFS_CACHEDIR": str(folder.parent),  # what it finds out about the emulator: once for each test
            "LIBGUESTFS_MEMSIZE": "384",
            **way.settings(),
        }
        self.process = harness.Process(["guestfish", "--format=raw", "-a", self.disk], env=environment)
        self.do("run", "list-devices")

    def do(self, *commands: str) -> None:
        """Have it run these."""
        self.process.send("".join(f"{command}\n" for command in commands).encode())

    def write(self, text: str) -> None:
        """Write a file into the image; returns when it is there."""
        # the shell's word: guestfish's own output comes when it ends
        self.do("mkfs ext2 /dev/sda", "mount /dev/sda /", f"write /hello {text}", "sync", "!echo written")
        self.process.read_until(b"written\n")

    def quit(self) -> int:
        """Have it shut the appliance down (SIGTERM, and QEMU must end with 0), and return its exit code."""
        self.do("umount-all", "shutdown", "quit")
        self.process.read_until(b"/dev/sda\n")
        return self.process.wait()

    @property
    def written(self) -> str:
        """What the host finds in the file, in the image."""
        return harness.run("debugfs", "-R", "cat /hello", self.disk).stdout


@pytest.fixture(autouse=True)
def appliance() -> None:
    """The appliance is there, and nested KVM: without it an appliance takes minutes."""
    assert all(map(os.path.exists, SHARED)), f"{APPLIANCE} is not there; the disk of clientdisk.py must be lent"
    harness.run("modprobe", "kvm_amd")


@pytest.mark.parametrize("way", [Way.BARE, Way.LANDLOCK])
def test_a_file_is_written(way: Way, tmp_path: Path) -> None:
    """Bare: what the drop-in is compared with."""
    with watching(way, APPLIANCE, str(tmp_path)) as seen:
        fish = Fish(way, tmp_path / "a")
        fish.write(way.value)
        assert fish.quit() == 0
    assert fish.written == way.value
    seen.check(PROBES + 1, QUERIES)


def test_two_confined_at_once(tmp_path: Path) -> None:
    """Two VMs of one appliance: it stays readable to the second when the first ends; both files are written.

    The second guestfish is killed: libguestfs' recovery process then kills its QEMU, and all labels are back.
    """
    before = [harness.label(path) for path in SHARED]
    with watching(Way.DROP_IN, APPLIANCE, str(tmp_path)) as seen:
        first = Fish(Way.DROP_IN, tmp_path / "a")
        first.write("one")
        second = Fish(Way.DROP_IN, tmp_path / "b")
        second.write("two")
        labels = [harness.short_label(fish.disk) for fish in (first, second)]
        assert len(set(labels)) == len(labels)
        assert all(label.startswith("svirt_image_t:s0:c") for label in labels)
        assert {harness.short_label(path) for path in SHARED} == {CONTENT}
        pid = harness.qemu_of(second.disk)
        assert first.quit() == 0
        harness.until("the first disk's label is back", lambda: "user_tmp_t" in harness.label(first.disk))
        assert {harness.short_label(path) for path in SHARED} == {CONTENT}
        second.process.end()
        harness.until("the recovery process has killed QEMU", lambda: not harness.context(pid))
    assert [harness.label(path) for path in SHARED] == before
    assert (first.written, second.written) == ("one", "two")
    seen.check(PROBES + 2, QUERIES)
