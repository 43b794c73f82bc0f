"""The relay: all bytes, both ways, to the end; and the caller's socket stays as it was."""

from __future__ import annotations

import fcntl
import os
import selectors
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from confined_qemu.launch.companions import relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTEXT = "system_u:system_r:svirt_t:s0:c1,c2"
PATIENCE = 20.0
"""Seconds until a hanging socket fails its test; nothing waits for them to pass."""


class Running:
    """A relay at work in a thread; `vm` is a pipe that stands for QEMU's pidfd: closed, QEMU has ended."""

    def __init__(self) -> None:
        self.relay = relay._Relay(CONTEXT, CONTEXT)
        self.pidfd, self.vm = os.pipe()
        self.thread = threading.Thread(target=self.relay.run, args=(self.pidfd,))

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return the caller's end and QEMU's of a relayed connection."""
        caller, outer = socket.socketpair()
        qemu, inner = socket.socketpair()
        for end in (caller, qemu):
            end.settimeout(PATIENCE)
        self.relay.connect_pair(outer, inner)
        return caller, qemu

    def start(self) -> None:
        self.thread.start()

    def end(self) -> None:
        """Let QEMU end, and wait for the relay."""
        if self.vm >= 0:
            os.close(self.vm)
            self.vm = -1
        if self.thread.ident is not None:
            self.thread.join(PATIENCE)
            assert not self.thread.is_alive()
        for end in (*self.relay.halves, *self.relay.listeners):
            end.close()
        self.relay.selector.close()


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(relay, "_next_process", lambda *_: -1)
    monkeypatch.setattr(relay, "_write_attribute", lambda _: None)
    made = Running()
    yield made
    made.end()


def receive(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := end.recv(count - len(data))):
        data += more
    return data


def to_the_end(end: socket.socket) -> bytes:
    data = b""
    while more := end.recv(65536):
        data += more
    return data


def test_both_ways(running: Running) -> None:
    caller, qemu = running.pair()
    running.start()
    caller.sendall(b"to QEMU")
    assert receive(qemu, 7) == b"to QEMU"
    qemu.sendall(b"to the caller")
    assert receive(caller, 13) == b"to the caller"
    caller.close()
    assert qemu.recv(1) == b""
    qemu.close()


@pytest.mark.parametrize("first", ["caller", "qemu"])
def test_a_side_that_has_said_all_still_hears(running: Running, first: str) -> None:
    ends = running.pair()
    running.start()
    one, other = ends if first == "caller" else ends[::-1]
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    assert to_the_end(other) == b"question"
    other.sendall(b"answer")
    other.shutdown(socket.SHUT_WR)
    assert to_the_end(one) == b"answer"
    one.close()
    other.close()


def test_a_slow_reader_holds_the_writer_up_and_loses_nothing(running: Running) -> None:
    caller, qemu = running.pair()
    running.start()
    sent = bytearray()
    block = bytes(range(256)) * 256
    caller.settimeout(0)
    while len(sent) < 1 << 26:
        try:
            sent += block[: caller.send(block)]
        except BlockingIOError:
            if _holds_up(running):
                break
    assert len(sent) < 1 << 24, "what a slow reader has not taken is held without bound"
    caller.shutdown(socket.SHUT_WR)
    assert to_the_end(qemu) == bytes(sent)
    caller.close()
    qemu.close()


def _holds_up(running: Running) -> bool:
    """Tell whether the relay has stopped reading from somebody."""
    registered = dict(running.relay.registered)
    return len(registered) == 2 and not all(events & selectors.EVENT_READ for events in registered.values())


def test_the_callers_socket_keeps_its_flags(running: Running) -> None:
    """O_NONBLOCK belongs to the open socket, which the caller shares."""
    caller, outer = socket.socketpair()
    shared = outer.dup()
    qemu, inner = socket.socketpair()
    before = [fcntl.fcntl(end, fcntl.F_GETFL) for end in (shared, inner)]
    running.relay.connect_pair(outer, inner)
    running.start()
    caller.sendall(b"x" * 100)
    assert receive(qemu, 100) == b"x" * 100
    assert [fcntl.fcntl(end, fcntl.F_GETFL) for end in (shared, inner)] == before
    assert not before[0] & os.O_NONBLOCK
    for end in (caller, shared, qemu):
        end.close()


def test_what_qemu_wrote_last_arrives(running: Running) -> None:
    caller, qemu = running.pair()
    last = b"reboot: Power down\n" * (2 * relay.CHUNK // 19)
    qemu.sendall(last)
    qemu.close()
    os.close(running.vm)
    running.vm = -1
    running.start()
    assert receive(caller, len(last)) == last
    caller.close()


def test_a_caller_that_went_away_ends_its_connection_only(running: Running) -> None:
    (gone, qemu), (caller, other) = running.pair(), running.pair()
    running.start()
    gone.close()
    assert qemu.recv(1) == b""
    qemu.close()
    caller.sendall(b"still here")
    assert receive(other, 10) == b"still here"
    caller.close()
    other.close()


chunks = st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=3000)), max_size=20)


@given(chunks)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_conversation_arrives_as_it_was_said(said: list[tuple[bool, bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "_next_process", lambda *_: -1)
        running = Running()
        caller, qemu = running.pair()
        running.start()
        for by_caller, data in said:
            (caller if by_caller else qemu).sendall(data)
        for end in (caller, qemu):
            end.shutdown(socket.SHUT_WR)
        heard = to_the_end(qemu), to_the_end(caller)
        running.end()
        caller.close()
        qemu.close()
    assert heard[0] == b"".join(data for by_caller, data in said if by_caller)
    assert heard[1] == b"".join(data for by_caller, data in said if not by_caller)


# ---- listening


def listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen(5)
    made.settimeout(PATIENCE)
    return made


def connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(PATIENCE)
    made.connect(str(path))
    return made


def test_clients_reach_qemu_each_by_a_socket_of_the_vms_label(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[str] = []
    monkeypatch.setattr(relay, "_write_attribute", labels.append)
    inner = listening(tmp_path / "inner")
    outer = listening(tmp_path / "outer")
    outer.settimeout(None)
    running.relay.listen(outer, str(tmp_path / "inner"))
    running.start()
    for number in range(2):
        client = connected(tmp_path / "outer")
        qemu, _ = inner.accept()
        qemu.settimeout(PATIENCE)
        client.sendall(b"%d" % number)
        assert receive(qemu, 1) == b"%d" % number
        client.close()
        assert qemu.recv(1) == b""
        qemu.close()
    assert labels == [CONTEXT, ""] * 2
    inner.close()


def test_a_link_that_the_vm_put_in_its_sockets_place_leads_nowhere(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_write_attribute", lambda _: None)
    others = listening(tmp_path / "others")
    (tmp_path / "inner").symlink_to(tmp_path / "others")
    outer = listening(tmp_path / "outer")
    outer.settimeout(None)
    running.relay.listen(outer, str(tmp_path / "inner"))
    running.start()
    client = connected(tmp_path / "outer")
    assert client.recv(1) == b""
    others.settimeout(0)
    with pytest.raises(BlockingIOError):
        others.accept()
    client.close()
    others.close()


def test_a_client_that_comes_too_late_is_told_so(running: Running, tmp_path: Path) -> None:
    outer = listening(tmp_path / "outer")
    outer.settimeout(None)
    gone = listening(tmp_path / "gone")
    gone.close()
    running.relay.listen(outer, str(tmp_path / "gone"))
    running.start()
    client = connected(tmp_path / "outer")
    assert client.recv(1) == b""
    client.close()


def test_a_client_that_comes_before_qemu_has_made_its_socket_waits(running: Running, tmp_path: Path) -> None:
    outer = listening(tmp_path / "outer")
    outer.settimeout(None)
    running.relay.listen(outer, str(tmp_path / "later"))
    running.start()
    client = connected(tmp_path / "outer")
    client.sendall(b"hello")
    inner = listening(tmp_path / "later")
    qemu, _ = inner.accept()
    qemu.settimeout(PATIENCE)
    assert receive(qemu, 5) == b"hello"
    for end in (client, qemu, inner):
        end.close()


def test_a_client_for_which_no_socket_came_is_told_so_at_the_end(running: Running, tmp_path: Path) -> None:
    outer = listening(tmp_path / "outer")
    outer.settimeout(None)
    running.relay.listen(outer, str(tmp_path / "never"))
    running.start()
    client = connected(tmp_path / "outer")
    running.end()
    assert client.recv(1) == b""
    client.close()


# ---- as a program


@pytest.mark.touches_host
def test_the_program_ends_with_the_vm() -> None:
    caller, outer = socket.socketpair()
    qemu, inner = socket.socketpair()
    for end in (caller, qemu):
        end.settimeout(PATIENCE)
    vm = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(vm.pid)
    command = [sys.executable, "-IS", relay.__file__, str(pidfd), "no:such:context", "no:such:client", "-1"]
    keep = (pidfd, outer.fileno(), inner.fileno())
    program = subprocess.Popen([*command, f"pair:{outer.fileno()}:{inner.fileno()}"], pass_fds=keep)
    outer.close()
    inner.close()
    os.close(pidfd)
    with caller, qemu, program, vm:
        try:
            caller.sendall(b"hello")
            assert receive(qemu, 5) == b"hello"
            qemu.sendall(b"bye")
            vm.communicate()
            assert receive(caller, 3) == b"bye"
            assert caller.recv(1) == b""
            assert program.wait(PATIENCE) == 0
        finally:
            vm.kill()
            program.kill()
