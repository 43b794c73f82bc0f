"""autopkgtest-virt-qemu 5.28, unchanged: a Debian boots, a test runs in it over the 9p share, and it is shut down.

The client is spoken to as autopkgtest does, by the words of README.virtualisation-server: autopkgtest itself has it run
forty commands more before it comes to the test, two seconds each where two machines emulate each other.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, sides
from integration.suite.observer import Way, watching

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "/var/tmp/clients/debian-image"  # noqa: S108 - in the guest, lent by integration/guestlib/clientdisk.py
DISK, KERNEL, INITRD = (os.path.join(IMAGE, name) for name in ("disk.img", "kernel", "initrd"))
CLIENT = "/usr/bin/autopkgtest-virt-qemu"
OPTIONS = f"-kernel {KERNEL} -initrd {INITRD} -append idle=halt"
"""What the client passes on to QEMU. Left to itself, the bed's kernel loses a timer now and then under nested KVM (it
takes the CPU for an Opteron whose idle state stops them), and sits for a minute."""
TEST = 'cat /etc/hostname; test "$(id -u)" = 0; cat "$0/given"; echo made by the test >"$0/made"; exit 7'
WITHOUT_ITS_CLOCK = """
import runpy, signal, sys
signal.alarm = lambda seconds: 0
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the client, whose limits on a step (5 s for QEMU's sockets) are for a host with a core of its own. Here, bare
QEMU misses them too."""
BOOT_LIMIT = 450
"""Seconds until the bed's login prompt, many times what it takes."""


class Client:
    """One autopkgtest-virt-qemu, told what to do as it goes."""

    def __init__(self, way: Way, temporary: Path) -> None:
        temporary.mkdir()
        self.log = temporary.parent / "log"
        self.process = harness.Process(
            [sys.executable, "-c", WITHOUT_ITS_CLOCK, CLIENT, "--qemu-command", way.emulator(),
             "--timeout-reboot", str(BOOT_LIMIT), "--qemu-options", OPTIONS, DISK],
            env={**os.environ, "TMPDIR": str(temporary), "CONFINED_QEMU_LABEL_TREES": str(temporary), **way.settings()},
            stderr=self.log.open("wb"),
        )  # fmt: skip
        self.process.read_until(b"ok\n")

    def do(self, *words: str) -> list[str]:
        """Have it do something, and return the words of its answer."""
        self.process.seen = b""
        self.process.send(" ".join(words).encode() + b"\n")
        return self.answer()

    def answer(self) -> list[str]:
        """Return the words of its answer."""
        try:
            line = self.process.read_until(b"\n", BOOT_LIMIT).decode()
        except AssertionError as error:
            raise AssertionError(self.log.read_text()) from error
        first, *words = line.split()
        assert first == "ok", (line, self.log.read_text())
        return words

    def open(self) -> str:
        """Have it boot the bed, and return the scratch folder in it.

        It waits for QEMU's sockets in a loop without a pause: it must not take half of this machine's only core from
        what it waits for.
        """
        self.process.seen = b""
        self.process.send(b"open\n")
        child = harness.until("QEMU is about to be started", self._qemu)
        os.setpriority(os.PRIO_PROCESS, self.process.pid, 19)
        harness.until("QEMU runs", lambda: os.readlink(f"/proc/{child}/exe") == harness.QEMU)
        os.setpriority(os.PRIO_PROCESS, self.process.pid, 0)
        return self.answer()[0]

    def _qemu(self) -> int | None:
        pid = self.process.pid
        for child in map(int, sides.text(pid, f"task/{pid}/children").split()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # qemu-img, which ends
                if "-nographic" in sides.words(child, "cmdline"):
                    return child
        return None


@pytest.fixture(autouse=True)
def bed() -> None:
    """The test bed is there, and nested KVM: without it Debian takes minutes to boot."""
    assert os.path.exists(DISK), f"{IMAGE} is not there; the disk of clientdisk.py must be lent"
    harness.run("modprobe", "kvm_amd")


@pytest.mark.parametrize("way", [Way.DROP_IN, Way.LANDLOCK])  # bare QEMU would take minutes more to show nothing new
def test_a_test_runs_in_a_test_bed(way: Way, tmp_path: Path) -> None:
    """The client makes the share in TMPDIR and an overlay there, and unlinks the overlay while QEMU runs."""
    given, made = tmp_path / "given", tmp_path / "made"
    given.write_text("a file of the host\n")
    before = [harness.label(path) for path in (DISK, KERNEL, INITRD)]
    with watching(way, IMAGE, str(tmp_path)) as seen:
        client = Client(way, tmp_path / "tmp")
        scratch = client.open()
        client.do("copydown", str(given), f"{scratch}/given")
        (execute,) = client.do("print-execute-command")
        done = harness.run(*execute.split(","), "sh", "-ec", TEST, scratch, check=False)
        client.do("copyup", f"{scratch}/made", str(made))
        client.process.send(b"quit\n")
        assert client.process.wait() == 0
    assert (done.returncode, done.stdout) == (7, "testbed\na file of the host\n"), done.stderr
    assert "terminating on signal 15" in client.log.read_text()
    assert made.read_text() == "made by the test\n"
    assert [harness.label(path) for path in (DISK, KERNEL, INITRD)] == before
    seen.check(1)
