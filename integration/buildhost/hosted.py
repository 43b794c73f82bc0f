"""What the tests on the building machine are written with."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from integration.buildhost import bootsector

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MARKER = bootsector.MARKER
DEBUG_EXIT = ["-device", "isa-debug-exit,iobase=0xf4"]
NO_SELINUX = (
    "confined-qemu: SELinux is disabled on this host, so it cannot confine the VM\n"
    "confined-qemu:   boot with SELinux, or choose confinement: landlock\n"
)
UNCONFINED = "confined-qemu: warning: confinement: none: nothing confines this VM; it has all of your rights\n"
PATIENCE = 60.0
"""Seconds after which a thing that should happen is taken for one that never will; nothing is timed by it."""


class Vm:
    """A folder with an image that boots in a moment and the spec of its VM."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.image = os.path.join(folder, "a.img")
        self.spec = os.path.join(folder, "a.yaml")
        with open(self.image, "wb") as file:
            file.write(bootsector.image())
        self.write()

    def write(self, **changes: Any) -> str:
        """Write the spec with these keys changed, or without them where None; JSON is YAML."""
        spec = {
            "name": "a",
            "accel": "tcg",
            "memory": "32M",
            "disks": [{"file": "a.img", "format": "raw", "bus": "ide"}],
            "serial": "stdio",
            "confinement": "none",
        } | changes
        with open(self.spec, "w", encoding="utf-8") as file:
            json.dump({key: value for key, value in spec.items() if value is not None}, file)
        return self.spec

    def raw(self, *more: str) -> list[str]:
        """Return QEMU arguments for the same VM."""
        drive = f"file={self.image},format=raw,if=ide"
        return [
            "-accel", "tcg", "-m", "32M", "-nodefaults", "-display", "none", "-drive", drive, "-serial", "stdio", *more,
        ]  # fmt: skip


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with its output captured."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(argv, check=False, text=True, timeout=PATIENCE, **options)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment with these variables."""
    return {**os.environ, **more}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return a refusal, its line and its hints; nothing else may have been printed."""
    assert done.returncode == 125, done
    assert done.stdout == ""
    first, *hints = done.stderr.splitlines()
    assert first.startswith("confined-qemu: ")
    assert not first.startswith("confined-qemu: warning: ")
    assert all(hint.startswith("confined-qemu:   ") for hint in hints), hints
    return done.stderr


class Started:
    """A started command: on pipes, or on a terminal of its own."""

    def __init__(self, *argv: str, terminal: bool = False, **options: Any) -> None:
        self.seen = b""
        self._popen: subprocess.Popen[bytes] | None = None
        if terminal:
            self.pid, self._out = pty.fork()
            if self.pid == 0:
                os.execvp(argv[0], argv)
            self._in = self._out
        else:
            inner_in, self._in = os.pipe()
            self._out, inner_out = os.pipe()
            self._popen = subprocess.Popen(argv, stdin=inner_in, stdout=inner_out, **options)
            self.pid = self._popen.pid
            os.close(inner_in)
            os.close(inner_out)

    def boot(self) -> Started:
        """Wait for the guest's marker."""
        return self.read_until(MARKER)

    def read_until(self, text: bytes) -> Started:
        """Read its output until this is in it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._out, 65536) if ready else b""
            assert data, f"{text!r} never came; output {self.seen!r}"
            self.seen += data
        return self

    def send(self, data: bytes) -> None:
        """Type."""
        os.write(self._in, data)

    def code(self) -> int:
        """Return its exit code, -n where signal n ended it."""
        handle = os.pidfd_open(self.pid)
        ended = wait_gone(handle)
        if not ended:
            os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        for descriptor in {self._in, self._out}:
            os.close(descriptor)
        code = os.waitstatus_to_exitcode(status)
        if self._popen is not None:
            self._popen.returncode = code
        assert ended, f"{self.pid} never ended; output {self.seen!r}"
        return code


def wait_gone(handle: int) -> bool:
    """Wait until the process of a pidfd is gone; False where it never goes."""
    try:
        return bool(select.select([handle], [], [], PATIENCE)[0])
    finally:
        os.close(handle)


def await_true(tells: Callable[[], bool], otherwise: str) -> None:
    """Wait until something is so that no process can be asked about."""
    deadline = time.monotonic() + PATIENCE
    while not tells():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)
