"""Who lives: a process ends with its last thread, whatever /proc calls it before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.touches_host

HEADLESS = """
import ctypes, os, sys, threading
def stay():
    while open("/proc/self/stat").read().rpartition(") ")[2][0] != "Z":
        pass
    os.write(1, b"r")
    os.read(0, 1)
    os._exit(0)
file = open(sys.argv[1])
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread alone
"""


@pytest.fixture
def headless(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose first thread has ended and whose second one reads; it has a file open."""
    (tmp_path / "file").touch()
    command = [sys.executable, "-c", HEADLESS, str(tmp_path / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"r"
        yield process
        process.kill()


def test_a_process_without_its_first_thread_lives(headless: subprocess.Popen[bytes], tmp_path: Path) -> None:
    with open(f"/proc/{headless.pid}/stat", "rb") as file:
        assert file.read().rpartition(b") ")[2][:1] == b"Z", "/proc shows it so"
    found = os.stat(tmp_path / "file")
    assert not processes.has_ended(headless.pid)
    assert (found.st_dev, found.st_ino) in processes.open_inodes(headless.pid)
    assert processes.has_open(headless.pid, str(tmp_path / "file"))
    assert os.readlink(f"{processes.shown_at(headless.pid)}/cwd") == str(tmp_path)


def test_its_end_is_the_end_of_its_last_thread(headless: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(headless.pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    os.close(pidfd)
    assert processes.has_ended(headless.pid), "it is a zombie, and nothing runs"
    headless.wait()
    assert processes.has_ended(headless.pid)


def test_without_a_descriptor_its_threads_are_asked(
    headless: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    assert not processes.has_ended(headless.pid)
    headless.kill()
    headless.wait()
    assert processes.has_ended(headless.pid)
