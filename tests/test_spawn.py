"""What stays beside QEMU is apart from the caller in every way: no child, no pipe, no terminal, no shared signal."""

from __future__ import annotations

import json
import os
import pwd
import py_compile
import signal
import socket
import sys
from pwd import struct_passwd
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.launch import companions, spawn
from confined_qemu.model.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.touches_host
PROBE = """
import json, os, sys
links = {}
for name in os.listdir("/proc/self/fd"):
    try:
        links[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
with open("/proc/self/status") as file:
    status = dict(line.split(":\\t", 1) for line in file if ":\\t" in line)
umask = status["Umask"].strip()
said = {
    "argv": sys.argv[1:], "links": links, "cwd": os.getcwd(), "umask": umask, "environment": dict(os.environ),
    "ignored": int(status["SigIgn"], 16), "blocked": int(status["SigBlk"], 16),
    "parent": os.getppid(),
    "session": os.getsid(0), "group": os.getpgid(0), "isolated": sys.flags.isolated, "site": "site" in sys.modules,
}
os.write(int(sys.argv[1]), json.dumps(said).encode())
"""


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what a program that was started says of itself."""
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.setattr(companions, "__file__", str(tmp_path / "__init__.py"))
    mine, its = socket.socketpair()
    other, secret = os.pipe()
    low = [number for number in (3, 4) if os.path.exists(f"/proc/self/fd/{number}")]
    private = [number for number in low if not os.get_inheritable(number)]
    for number in (secret, *private):
        os.set_inheritable(number, True)  # noqa: FBT003 - positional by definition
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        spawn.program("probe", [str(its.fileno()), "a b"], [its.fileno()])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in private:
            os.set_inheritable(number, False)  # noqa: FBT003 - positional by definition
    kept = its.fileno()
    its.close()
    data = b""
    while more := mine.recv(65536):
        data += more
    mine.close()
    os.close(other)
    os.close(secret)
    said: dict[str, Any] = json.loads(data)
    said["kept"] = kept
    return said


def test_a_program_is_taken_as_compiled_unless_that_is_another(tmp_path: Path) -> None:
    source = tmp_path / "probe.py"
    source.write_text(PROBE)
    assert spawn._compiled(str(tmp_path), "probe") == str(source)
    compiled = py_compile.compile(str(source))
    assert spawn._compiled(str(tmp_path), "probe") == compiled
    source.write_text(f"{PROBE}\n")
    assert spawn._compiled(str(tmp_path), "probe") == str(source)
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    assert spawn._compiled(str(tmp_path), "probe") == str(source)


def test_it_is_no_child_and_in_nobodys_session(probe: dict[str, Any]) -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert probe["parent"] != os.getpid()
    assert probe["session"] != os.getsid(0)
    assert probe["group"] != os.getpgid(0)


def test_it_holds_nothing_of_the_callers(probe: dict[str, Any]) -> None:
    links = probe["links"]
    assert [links[str(number)] for number in range(3)] == [os.devnull] * 3
    more = {name: link.partition(":")[0] for name, link in links.items() if int(name) > 2}
    assert more == {str(probe["kept"]): "socket"}
    assert probe["cwd"] == "/"
    assert probe["environment"] in ({}, {"LC_CTYPE": "C.UTF-8"})


def test_it_hears_no_signal_of_a_group_and_is_private(probe: dict[str, Any]) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        assert probe["ignored"] & 1 << (number - 1), number
    assert probe["blocked"] == 0
    assert probe["umask"] == "0077"
    assert probe["isolated"] == 1
    assert not probe["site"]
    assert probe["argv"][1] == "a b"


def test_a_watcher_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    watcher = spawn.watcher(str(tmp_path / "journal"), "a:b:c", (), spawn.Channels())
    with pytest.raises(HostError, match="could not be started") as raised:
        watcher.await_ready()
    os.close(watcher.control)
    assert "try: " in (raised.value.hint or "")


@pytest.mark.parametrize(("said", "ready"), [(b"r", True), (b"a", False), (b"z", False), (b"", False)])
def test_a_watcher_is_ready_by_its_own_word_alone(said: bytes, *, ready: bool) -> None:
    control, its = os.pipe()
    os.write(its, said)
    os.close(its)
    try:
        if ready:
            spawn.Watcher(control).await_ready()
        else:
            with pytest.raises(HostError, match="could not be started"):
                spawn.Watcher(control).await_ready()
    finally:
        os.close(control)


@pytest.mark.parametrize("report", [-1, 0, 7])
def test_the_launcher_keeps_nothing_of_its_watchers_but_the_control(
    monkeypatch: pytest.MonkeyPatch, report: int
) -> None:
    started: list[tuple[list[str], list[int]]] = []
    closed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(spawn, "program", lambda _, arguments, keep: started.append((arguments, list(keep))))
        patch.setattr(os, "pipe", lambda: (100, 101))
        patch.setattr(os, "pidfd_open", lambda _: 102)
        patch.setattr(os, "close", closed.append)
        watcher = spawn.watcher(
            "journal", "a:b:c", [5, 6], spawn.Channels(report=report, live=8, files=(9,), group="/g")
        )
    assert watcher.control == 100
    there = [report] if report >= 0 else []
    assert started == [
        (
            ["journal", "a:b:c", "/g", "102", str(os.getpid()), "101", str(report), "-1", "8", "1", "9"],
            [5, 6, 101, 102, *there, 8, 9],
        )
    ]
    assert closed == [101, 102, *there]


def test_what_is_no_child_of_ours_is_not_waited_for() -> None:
    spawn.await_end(os.getpid())  # as where the caller ignores SIGCHLD


def test_no_process_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "injected")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(HostError, match="no process for the watch") as raised:
        spawn.program("watch", [], [])
    assert "ulimit -u" in (raised.value.hint or "")


def test_a_user_is_become_groups_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, object]] = []
    for name in ("initgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *given, name=name: asked.append((name, given)))
    entry = struct_passwd(("vm", "x", 107, 64055, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwnam", {"vm": entry, "1st": entry}.__getitem__)
    monkeypatch.setattr(pwd, "getpwuid", {107: entry}.__getitem__)
    wanted = [("initgroups", ("vm", 64055)), ("setresgid", (64055,) * 3), ("setresuid", (107,) * 3)]
    for name in ("vm", "107", "1st"):
        asked.clear()
        spawn.become_user(name)
        assert asked == wanted
    for name in ("nobody of this name", "108"):
        with pytest.raises(HostError, match="there is no user") as raised:
            spawn.become_user(name)
        assert raised.value.hint == "name one that exists"


def test_to_become_a_user_takes_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "injected")

    monkeypatch.setattr(os, "initgroups", refused)
    with pytest.raises(HostError, match="user: cannot become root: Operation not permitted") as raised:
        spawn.become_user("root")
    assert raised.value.hint == "start as root, or without user:"


def test_a_watcher_is_given_what_is_there_and_told_what_is_not() -> None:
    channels = spawn.Channels(report=-1, leash=0, live=7, files=(8, 9), leaves=False)
    assert channels.open == (0, 7, 8, 9)
    assert channels.numbers() == (-1, 0, 7, 0, 8, 9)
    assert spawn.Channels().open == ()
    assert spawn.Channels().numbers() == (-1, -1, -1, 1)
