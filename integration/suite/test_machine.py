"""QEMU's own `qemu.machine`, unchanged, with QEMU and with the drop-in in its place: the harness sees the same."""

from __future__ import annotations

import os
import subprocess
import sys

from integration.suite import harness, observer, tinyguest
from integration.suite.observer import Way

LIBRARY = "/opt/qemu-machine"
"""Where the suite's guest has qemu.machine and qemu.qmp (integration/guestlib/qemumachine.py)."""
CLIENT = os.path.join(os.path.dirname(__file__), "programs", "machine_client.py")
TOGETHER = 900
"""Seconds for all of it, many times what it takes."""
SEEN = """\
add_fd: the process that was started is qemu-system-x86
add_fd: set 2 ['opaque words', 'opaque words']
add_fd: ['/dev/fdset/2']
add_fd, quit: 0 ''
debug port: 33 ''
kill: -9 running: False None
WARNING: qemu.machine warned
abort: -6 running: False None
terminate: 0 running: False None
its log names the signal: True
with: status running
with, shut down: 0
early failure: 1 qemu-system-x86_64: -device no-such-device: 'no-such-device' is not a valid device model name
"""


def _client(way: Way, image: harness.Image, folder: str) -> str:
    """Run the client in one way and return what it printed; its logs and sockets lie where it wants them."""
    environment = way.environment() | {"PYTHONPATH": LIBRARY}
    with observer.watching(way, folder, "/var/tmp") as seen:  # noqa: S108 - qemu.machine's own default
        done = subprocess.run(
            [sys.executable, CLIENT, way.emulator(), image.path, tinyguest.ROM], env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOGETHER, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    seen.check(vms=7)
    assert not [path for path in seen.after if "qemu-machine-" in path]
    return done.stdout


def test_the_client_sees_the_same(image: harness.Image, folder: str) -> None:
    """Launch, add_fd, console, quit, shutdown, kill and other signals, debug port, early failure."""
    assert _client(Way.BARE, image, folder) == SEEN
    assert _client(Way.DROP_IN, image, folder) == SEEN
