"""Helpers as processes: they answer before QEMU starts, end when QEMU's end closes, and say why they did not start."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from confined_qemu.launch import helpers
from confined_qemu.model.errors import HostError
from confined_qemu.model.facts import Identity
from confined_qemu.model.helper import HelperKind
from confined_qemu.model.steps import StartHelper
from tests.messages import is_message

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.touches_host
PATIENCE = 20_000
"""Milliseconds until something that hangs fails its test."""
SERVES = """
import os, socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
assert control.recv(4) == bytes((0, 0, 0, 1))
listed = os.listdir("/proc/self/fd")
opened = [int(name) for name in listed if os.path.lexists("/proc/self/fd/" + name)]
control.sendall(bytes(3))
control.sendall(bytes(5))
control.sendall(repr((os.getcwd(), opened)).encode())
control.recv(1)
"""


def step(folder: Path, code: str, identity: Identity | None = None, program: str = sys.executable) -> StartHelper:
    arguments = ("-IS", "-c", code, "{fd}")
    return StartHelper(HelperKind.SWTPM, "tpm", program, arguments, str(folder), identity, None, None, None)


def ends(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(PATIENCE))


def test_it_serves_and_ends_with_the_vm(tmp_path: Path) -> None:
    mine, watcher = socket.socketpair()
    with mine, watcher:
        running = helpers.start(step(tmp_path, SERVES), None, mine)
        _, told, _, _ = socket.recv_fds(watcher, 1, 1)
        with socket.socket(fileno=running.socket) as qemu:
            folder, descriptors = eval(qemu.recv(1000))  # noqa: S307 - the text above
            # streams and its socket: nothing of the caller's
            assert folder == str(tmp_path)
            assert len(descriptors) == 4
            assert not select.select([running.pidfd], (), (), 0)[0]
        assert ends(running.pidfd)
        assert ends(told[0])
    running.end()
    os.close(running.pidfd)
    os.close(told[0])


def test_it_starts_where_the_caller_ignores_sigchld(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        running = helpers.start(step(tmp_path, SERVES), None, None)
    finally:
        signal.signal(signal.SIGCHLD, before)
    os.close(running.socket)
    assert ends(running.pidfd)
    os.close(running.pidfd)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('first\\nno state here')", "swtpm ended at once: no state here"),
        ("pass", "swtpm ended at once: it said nothing"),
        ("import socket, sys; socket.socket(fileno=int(sys.argv[1])).send(b'1')", "swtpm ended at once"),
    ],
)
def test_one_that_ends_at_once_says_why(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(HostError, match=words) as caught:
        helpers.start(step(tmp_path, code), None, None)
    assert is_message(str(caught.value))


def test_a_program_that_cannot_be_executed(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be started: No such file"):
        helpers.start(step(tmp_path, "", program="/nothing/here"), None, None)


def test_another_folder_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="changed during launch"):
        helpers.start(step(tmp_path, SERVES, Identity(1, 1)), None, None)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(HostError, match="cannot be opened"):
        helpers.start(step(tmp_path / "link", SERVES), None, None)


def test_its_folder_is_handed_over_open(tmp_path: Path) -> None:
    """By the time that a helper looks for it, it may have gone elsewhere (virtiofsd goes to the root folder)."""
    code = SERVES.replace(
        "import os, socket, sys", "import os, socket, sys\nos.chdir('/')\nos.chdir('/proc/self/fd/{folder}/.')"
    )
    running = helpers.start(step(tmp_path, code), None, None)
    with socket.socket(fileno=running.socket) as qemu:
        assert str(tmp_path).encode() in qemu.recv(1000)
    assert ends(running.pidfd)
    os.close(running.pidfd)
