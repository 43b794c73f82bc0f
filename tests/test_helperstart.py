"""Helpers as processes: they answer before QEMU starts, end when QEMU's end closes, and say why they did not start."""

from __future__ import annotations

import ast
import os
import select
import signal
import socket
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import lsm, signals
from confined_qemu.launch import helpers
from confined_qemu.launch.companions import watch
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError
from confined_qemu.model.facts import Identity
from confined_qemu.model.helper import HelperKind
from confined_qemu.model.lean import replace
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


SAYS = """
import os, sys
with open("/proc/self/status") as file:
    status = dict(line.split(":\\t", 1) for line in file if ":\\t" in line)
print({
    "stdin": sys.stdin.read(), "umask": os.umask(0), "variables": sorted(os.environ), "session": os.getsid(0),
    "ignored": int(status["SigIgn"], 16), "blocked": int(status["SigBlk"], 16),
})
"""
"""A program that ends at once, and what it says of itself."""
HANGS = "import time; time.sleep(1000)"
VM, OTHER = Context("u", "r", "t", None), Context("u", "r", "other_t", None)


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
        ("import sys; sys.exit('x' * 5000 + '\\nthe last line')", "swtpm ended at once: the last line$"),
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


def killed(watcher: socket.socket) -> bool:
    """Tell whether the helper whose pidfd the watcher was sent has ended."""
    kind, told, _, _ = socket.recv_fds(watcher, 1, 1)
    assert kind == watch.HELPER
    gone = ends(told[0])
    os.close(told[0])
    return gone


def test_it_has_nothing_of_the_callers(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    reading, writing = os.pipe()
    os.write(writing, b"the caller's input")
    os.close(writing)
    stdin = os.dup(0)
    os.dup2(reading, 0)
    try:
        with pytest.raises(HostError, match="swtpm ended at once") as raised:
            helpers.start(step(tmp_path, SAYS), None, None)
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(reading)
        signal.signal(signal.SIGHUP, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    said = ast.literal_eval(raised.value.what.partition(": ")[2])
    assert said.pop("session") != os.getsid(0)
    assert not said.pop("ignored") & 1 << (signal.SIGHUP - 1)
    assert said == {"stdin": "", "umask": 0o077, "variables": ["LANG", "PATH"], "blocked": 0}


@pytest.mark.parametrize(
    ("kind", "user", "entered"),
    [
        (HelperKind.VIRTIOFSD, 1000, True),
        (HelperKind.VIRTIOFSD, 0, False),
        (HelperKind.SWTPM, 1000, False),
        (HelperKind.SWTPM, 0, False),
    ],
)
def test_a_users_virtiofsd_alone_is_root_of_a_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: HelperKind, user: int, *, entered: bool
) -> None:
    def enter() -> None:
        raise HostError("a namespace was entered")

    monkeypatch.setattr(helpers, "_be_root_of_a_namespace", enter)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(HostError, match=f"{kind} ended at once: ") as raised:
        helpers.start(replace(step(tmp_path, "import sys; sys.exit('no namespace')"), kind=kind), None, None)
    said = "cannot be started: a namespace was entered" if entered else "no namespace"
    assert raised.value.what == f"{kind} ended at once: {said}"


def test_one_that_says_nothing_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "_PATIENCE", 0.0)
    mine, watcher = socket.socketpair()
    with mine, watcher:
        with pytest.raises(HostError, match="swtpm did not answer within 0 s") as raised:
            helpers.start(step(tmp_path, HANGS), None, mine)
        assert raised.value.where == sys.executable
        assert killed(watcher)


@pytest.mark.parametrize("found", [VM, OTHER])
def test_one_in_another_context_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Context) -> None:
    monkeypatch.setattr(lsm, "set_exec_context", lambda _: None)
    monkeypatch.setattr(lsm, "process_context", lambda _: found)
    mine, watcher = socket.socketpair()
    with mine, watcher:
        wanted = replace(step(tmp_path, SERVES), context=VM)
        if found == VM:
            os.close(helpers.start(wanted, None, mine).socket)
        else:
            with pytest.raises(HostError, match="swtpm ran as u:r:other_t, not as u:r:t, and was killed"):
                helpers.start(wanted, None, mine)
        assert killed(watcher)


def test_a_user_that_is_none_is_said_without_its_hint(tmp_path: Path) -> None:
    with pytest.raises(HostError) as raised:
        helpers.start(step(tmp_path, SERVES), "no-such-user", None)
    assert raised.value.what == "swtpm ended at once: cannot be started: user: there is no user 'no-such-user'"


def test_no_process_is_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise BlockingIOError(11, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(helpers, "_announce", refused)  # the second child cannot say who it is
        with pytest.raises(HostError, match="no process for swtpm") as raised:
            helpers.start(step(tmp_path, SERVES), None, None)
    assert raised.value.what == "no process for swtpm"
    assert raised.value.hint == "see: ulimit -u"
    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(HostError, match="no process for swtpm: ") as raised:
        helpers.start(step(tmp_path, SERVES), None, None)
    assert raised.value.hint == "see: ulimit -u"


def test_its_log_lies_in_the_vms_folder_and_is_new(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    wanted = replace(step(tmp_path, "import sys; sys.exit('why')"), own_folder=str(own))
    with pytest.raises(HostError, match="swtpm ended at once: why"):
        helpers.start(wanted, None, None)
    [log] = own.iterdir()
    assert (log.name, log.read_text(), log.stat().st_mode & 0o777) == ("tpm.swtpm.log", "why\n", 0o600)
    with pytest.raises(HostError, match="cannot be made: File exists") as raised:
        helpers.start(wanted, None, None)
    assert raised.value.where == str(log)


def test_a_socket_that_listens_has_no_name_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for folder in (None, str(own)):
        mine, listener = helpers._sockets(replace(step(tmp_path, ""), own_folder=folder), listens=True)
        with mine, listener:
            other, _ = listener.accept()
            with other:
                mine.sendall(b"x")
                assert other.recv(2) == b"x"
        assert list(tmp_path.iterdir()) == [own]
        assert list(own.iterdir()) == []


def test_a_socket_that_cannot_be_made_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ("x" * 120)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 120)))
    with pytest.raises(HostError, match="no socket for swtpm: AF_UNIX path too long"):
        helpers._sockets(step(tmp_path, ""), listens=True)
    assert list((tmp_path / ("x" * 120)).iterdir()) == []
    gone = str(tmp_path / "gone")
    with pytest.raises(HostError, match="no socket for swtpm: No such file or directory") as raised:
        helpers._sockets(replace(step(tmp_path, ""), own_folder=gone), listens=True)
    assert raised.value.where == gone


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_start_leaves_no_descriptor_but_the_helpers(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(HostError, match="ended at once"):
        helpers.start(step(tmp_path, "pass"), None, None)
    with pytest.raises(HostError, match="changed during launch"):
        helpers.start(step(tmp_path, "", Identity(1, 1)), None, None)
    assert descriptors() == before
    running = helpers.start(step(tmp_path, SERVES), None, None)
    os.close(running.socket)
    os.close(running.pidfd)
    assert descriptors() == before


def test_the_device_of_its_folder_counts_as_well(tmp_path: Path) -> None:
    found = tmp_path.stat()
    for identity in (Identity(found.st_dev + 1, found.st_ino), Identity(found.st_dev, found.st_ino + 1)):
        with pytest.raises(HostError, match="changed during launch"):
            helpers.start(step(tmp_path, SERVES, identity), None, None)


def test_one_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(signals, "pidfd_send_signal", gone)
    helpers.RunningHelper(-1, -1).end()
