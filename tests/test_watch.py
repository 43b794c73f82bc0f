"""The watcher as a program: handshake, whom it kills, and that it puts back whatever happens."""

from __future__ import annotations

import os
import py_compile
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import locks
from confined_qemu.launch import spawn
from confined_qemu.launch.companions import survivors, watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.touches_host
PATIENCE = 20.0
"""Seconds until something that hangs fails its test; nothing waits for them to pass."""

FIND = """
def by_inode(files):
    return files
class Search:
    def __init__(self, held, made):
        pass
"""
ERRORS = "class ConfinedQemuError(Exception): pass\n"
RESTORE = """
import os
from confined_qemu.model.errors import ConfinedQemuError
class Done:
    failed = pending = ()
def restore(path, search):
    with open(path) as file:
        what = file.read()
    os.rename(path, path + ".done")
    if what == "raise":
        raise ConfinedQemuError
    done = Done()
    done.failed = (what,) if what == "fail" else ()
    return None if what == "gone" else done
"""
GROUPS = """
def end(group, context):
    with open(group, "a") as file:
        file.write(f"killed {context}")
def await_end(group, context, tell):
    with open(group, "a") as file:
        file.write(f"awaited {context}")
    tell()
"""
SURVIVORS = """
import os
import select
import signal
def end(context, having=None):
    for pidfd in remaining(context):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [])
def remaining(context):
    try:
        with open({path!r}) as file:
            pid = int(file.read())
        os.unlink({path!r})
    except FileNotFoundError:
        return []
    return [os.pidfd_open(pid)]
"""


class Watched:
    """A process in QEMU's place, its watcher, and what stands for the launcher's and `run`'s ends of its sockets."""

    def __init__(  # noqa: PLR0913 - each a thing that a watcher is told
        self,
        folder: Path,
        *,
        context: str | None = None,
        journal: str = "",
        survivor: int = 0,
        helpers: bool = False,
        leaves: bool = False,
        live: int = -1,
        group: str = "",
        compiled: bool = True,
    ) -> None:
        self.package = folder / "package/confined_qemu"
        self.companions = self.package / "launch/companions"
        self.labels, self.model = self.package / "labels", self.package / "model"
        self.host = self.package / "host"
        self.companions.mkdir(parents=True)
        self.labels.mkdir()
        self.host.mkdir()
        self.model.mkdir()
        self.journal = folder / "journal"
        self.journal.write_text(journal)
        if survivor:
            (folder / "survivor").write_text(str(survivor))
        self._write_package(str(folder / "survivor"))
        if compiled:
            py_compile.compile(str(self.companions / "watch.py"))
        program = spawn._compiled(str(self.companions), "watch")
        assert program.endswith(".pyc") is compiled
        self.vm = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
        self.control, control = os.pipe()
        self.run, report = socket.socketpair()
        self.run.settimeout(PATIENCE)
        pidfd = os.pidfd_open(self.vm.pid)
        expected = context if context is not None else watch._context(self.vm.pid)
        self.leash, its_leash = socket.socketpair()
        channels = spawn.Channels(report.fileno(), its_leash.fileno() if helpers else -1, live, leaves=leaves)
        numbers = (pidfd, self.vm.pid, control, *channels.numbers())
        self.watcher = subprocess.Popen(
            [sys.executable, "-IS", program, self.journal, expected, group, *map(str, numbers)],
            pass_fds=(pidfd, control, *channels.open),
        )
        its_leash.close()
        report.close()
        self.its_control = f"/proc/{self.watcher.pid}/fd/{control}"
        os.close(control)
        os.close(pidfd)
        assert os.read(self.control, 1) == watch.READY

    def _write_package(self, survivor: str) -> None:
        with open(watch.__file__, encoding="utf-8") as file:
            text = file.read()
        # the time that an exec may take is not what is tested
        for patience in ("_EXEC_PATIENCE = 5.0", "_HELPER_PATIENCE = 10_000"):
            assert patience in text
            text = text.replace(patience, f"{patience.partition('=')[0]}= 0")
        (self.companions / "watch.py").write_text(text)
        for folder in (self.package, self.companions.parent, self.companions, self.labels, self.model, self.host):
            (folder / "__init__.py").write_text("")
        shutil.copy(locks.__file__, self.host)
        (self.host / "cgroups.py").write_text(GROUPS)
        (self.model / "errors.py").write_text(ERRORS)
        (self.labels / "restore.py").write_text(RESTORE)
        (self.labels / "find.py").write_text(FIND)
        (self.companions / "survivors.py").write_text(SURVIVORS.format(path=survivor))

    def become(self) -> None:
        """Close the launcher's end, as an exec does."""
        os.close(self.control)
        self.control = -1
        while os.path.lexists(self.its_control):
            os.sched_yield()  # until the watcher has seen it

    def end_vm(self) -> int:
        self.vm.communicate(timeout=PATIENCE)
        return self.vm.returncode

    def ended(self) -> bool:
        """Wait for the watcher; tell whether it restored."""
        assert self.watcher.wait(PATIENCE) == 0
        return os.path.exists(f"{self.journal}.done")

    def close(self) -> None:
        for process in (self.vm, self.watcher):
            process.kill()
            process.wait()
        if self.vm.stdin is not None:
            self.vm.stdin.close()
        if self.control >= 0:
            os.close(self.control)
        self.run.close()
        self.leash.close()


@pytest.fixture
def made() -> Iterator[list[Watched]]:
    watched: list[Watched] = []
    yield watched
    for one in watched:
        one.close()


def start(made: list[Watched], folder: Path, **more: str | int) -> Watched:
    made.append(Watched(folder, **more))  # type: ignore[arg-type] # the fields of Watched
    return made[-1]


@pytest.mark.parametrize(
    ("journal", "word"),
    [("", watch.RESTORED), ("gone", watch.RESTORED), ("fail", watch.FAILED), ("raise", watch.FAILED)],
)
def test_labels_go_back_when_qemu_ends(made: list[Watched], tmp_path: Path, journal: str, word: bytes) -> None:
    watched = start(made, tmp_path, journal=journal)
    watched.become()
    assert not os.path.exists(f"{watched.journal}.done")
    assert watched.end_vm() == 0
    assert watched.run.recv(9) == word
    assert watched.ended()


def test_labels_go_back_where_nothing_is_compiled(made: list[Watched], tmp_path: Path) -> None:
    watched = start(made, tmp_path, compiled=False)
    watched.become()
    assert watched.end_vm() == 0
    assert watched.ended()


def test_a_launcher_that_dies_before_it_becomes_qemu(made: list[Watched], tmp_path: Path) -> None:
    watched = start(made, tmp_path)
    watched.vm.kill()
    assert watched.run.recv(1) == watch.RESTORED
    assert watched.ended()


def test_qemu_in_another_context_is_killed(made: list[Watched], tmp_path: Path) -> None:
    watched = start(made, tmp_path, context="system_u:system_r:svirt_t:s0:c1,c2")
    watched.become()
    assert watched.vm.wait(PATIENCE) == -signal.SIGKILL
    assert watched.run.recv(1) == watch.RESTORED
    assert watched.ended()


@pytest.mark.parametrize("became", [True, False])
def test_a_killed_run_kills_qemu(made: list[Watched], tmp_path: Path, became: bool) -> None:
    watched = start(made, tmp_path)
    if became:
        watched.become()
    watched.run.close()
    assert watched.vm.wait(PATIENCE) == -signal.SIGKILL
    assert watched.ended()


def test_a_daemons_end_is_waited_for(made: list[Watched], tmp_path: Path) -> None:
    daemon = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    watched = start(made, tmp_path, survivor=daemon.pid, leaves=True)
    watched.become()
    watched.end_vm()
    assert watched.run.recv(1) == watch.DAEMON
    assert not os.path.exists(f"{watched.journal}.done")
    daemon.communicate()
    assert watched.run.recv(1) == watch.RESTORED
    assert watched.ended()


@pytest.mark.parametrize("shares", [False, True])
def test_what_outlives_a_vm_that_was_to_leave_nothing_is_ended(
    made: list[Watched], tmp_path: Path, shares: bool
) -> None:
    (tmp_path / "live").touch()
    held = os.open(tmp_path / "live", os.O_RDWR)
    live = os.open(tmp_path / "live", os.O_RDWR) if shares else -1
    assert locks.take(held, locks.EXCLUSIVE)
    survivor = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, pass_fds=(held,))
    os.close(held)
    watched = start(made, tmp_path, survivor=survivor.pid, live=live)
    watched.become()
    watched.end_vm()
    assert survivor.wait(PATIENCE) == -signal.SIGKILL
    # nothing is left that `run` would be told of
    assert watched.run.recv(1) == watch.RESTORED
    assert watched.ended()
    survivor.communicate()
    if shares:
        os.close(live)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_the_group_of_a_vm_is_ended_or_waited_for(
    made: list[Watched], tmp_path: Path, *, leaves: bool, shares: bool
) -> None:
    """Of a daemon whose context is its own, who runs in it is waited for; else who is in the group may be hidden."""
    (tmp_path / "live").touch()
    live = os.open(tmp_path / "live", os.O_RDWR) if shares else -1
    group = tmp_path / "group"
    watched = start(made, tmp_path, leaves=leaves, live=live, group=str(group))
    expected = watch._context(watched.vm.pid)
    watched.become()
    watched.end_vm()
    assert watched.ended()
    said = group.read_text() if group.exists() else ""
    assert said == ("" if leaves and not shares else f"awaited {expected}" if leaves else f"killed {expected}")
    assert watched.run.recv(1) == (watch.DAEMON if leaves and shares else watch.RESTORED)
    if shares:
        os.close(live)


def test_a_helper_that_outlives_its_vm_is_ended(made: list[Watched], tmp_path: Path) -> None:
    helper = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    watched = start(made, tmp_path, helpers=True)
    pidfd = os.pidfd_open(helper.pid)
    socket.send_fds(watched.leash, [b"h"], [pidfd])
    os.close(pidfd)
    watched.leash.close()
    watched.become()
    assert helper.poll() is None
    watched.end_vm()
    assert helper.wait(PATIENCE) == -signal.SIGKILL
    assert watched.run.recv(1) == watch.RESTORED
    assert watched.ended()
    helper.communicate()


def test_a_helper_that_ends_is_waited_for(made: list[Watched], tmp_path: Path) -> None:
    helper = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    watched = start(made, tmp_path, helpers=True)
    pidfd = os.pidfd_open(helper.pid)
    socket.send_fds(watched.leash, [b"h"], [pidfd])
    os.close(pidfd)
    watched.become()
    helper.communicate()
    watched.end_vm()
    # another helper might still be told of
    assert not os.path.exists(f"{watched.journal}.done")
    watched.leash.close()
    assert watched.ended()


def test_what_lies_beside_the_package_is_in_no_modules_place(made: list[Watched], tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    for name in ("socket", "fcntl", "struct", "errno", "time", "select", "signal"):
        (tmp_path / "package" / f"{name}.py").write_text("raise SystemExit('another module')\n")
    (tmp_path / "live").touch()
    watched = start(made, tmp_path, helpers=True, live=os.open(tmp_path / "live", os.O_RDWR))
    watched.leash.close()
    watched.become()
    watched.end_vm()
    assert watched.run.recv(9) == watch.RESTORED
    assert watched.ended()


def test_it_has_a_name_for_ps(made: list[Watched], tmp_path: Path) -> None:
    watched = start(made, tmp_path)
    with open(f"/proc/{watched.watcher.pid}/comm", encoding="ascii") as file:
        assert file.read() == "confined-watch\n"


# ---- who is left


NAMED = f"cq-{os.getpid()}"  # tests run side by side, each in a process of its own
CHAIN = """
import os
with open("/proc/self/comm", "w") as file:
    file.write({name!r})
os.setsid()
print(flush=True)
while True:
    if os.fork():
        os._exit(0)
"""


@pytest.fixture
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process's name stand for its context: a child has its parent's, as it has its context."""

    def name_of(pid: str) -> str:
        try:
            with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return ""

    monkeypatch.setattr(survivors, "_context", name_of)


@pytest.mark.usefixtures("by_name")
def test_survivors_are_found_by_their_context() -> None:
    with open("/proc/self/comm", encoding="ascii") as file:
        found = survivors.survivors(file.read().strip())
    pids = set()
    for pidfd in found:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
            pids |= {int(line.split()[1]) for line in file if line.startswith("Pid:")}
        os.close(pidfd)
    assert os.getpid() in pids
    assert survivors.survivors("no:such:context") == []


@pytest.mark.usefixtures("by_name")
def test_a_chain_that_forks_and_ends_is_ended() -> None:
    chain = subprocess.Popen([sys.executable, "-IS", "-c", CHAIN.format(name=NAMED)], stdout=subprocess.PIPE)
    assert chain.stdout is not None
    assert chain.stdout.read(1) == b"\n"
    survivors.end(NAMED)
    # every link inherits the pipe: it closes with the last one
    assert chain.stdout.read() == b""
    assert chain.wait(PATIENCE) in (0, -signal.SIGKILL)
    chain.stdout.close()


@pytest.mark.usefixtures("by_name")
def test_of_a_shared_context_only_who_has_the_file_is_ended(tmp_path: Path) -> None:
    (tmp_path / "live").touch()
    code = f"import sys; open('/proc/self/comm', 'w').write('{NAMED}'); print(flush=True); sys.stdin.read()"
    started = []
    with open(tmp_path / "live", encoding="ascii") as live:
        for passed in ((live.fileno(),), ()):
            one = subprocess.Popen(
                [sys.executable, "-IS", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=passed
            )
            assert one.stdout is not None
            assert one.stdout.read(1) == b"\n"
            started.append(one)
        survivors.end(NAMED, os.fstat(live.fileno()))
    mine, others = started
    assert mine.wait(PATIENCE) == -signal.SIGKILL
    assert others.poll() is None
    for one in started:
        one.communicate()
    assert others.returncode == 0


@pytest.mark.usefixtures("by_name")
@pytest.mark.parametrize(
    ("pids", "looks"), [([7, 7], 1), ([7, 8, 8, 8], 2), (range(10**9), survivors._EMPTY_LOOKS), ([None] * 99, None)]
)
def test_one_look_is_enough_where_nothing_was_started_meanwhile(
    monkeypatch: pytest.MonkeyPatch, pids: list[int | None], looks: int | None
) -> None:
    given = iter(pids)
    looked = []
    monkeypatch.setattr(survivors, "_last_pid", lambda: next(given))
    monkeypatch.setattr(survivors, "_CHASE", 0.0)

    def look(*_: object) -> list[int]:
        looked.append(1)
        return []

    monkeypatch.setattr(survivors, "survivors", look)
    assert survivors.remaining(NAMED) == []
    assert len(looked) == (looks or survivors._EMPTY_LOOKS)


def test_no_context_is_nobodys() -> None:
    assert survivors.survivors("") == []
    assert survivors.remaining("") == []


def test_the_ended_are_none() -> None:
    vm = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(vm.pid)
    assert not survivors.ended(pidfd, 0)
    vm.communicate()
    assert survivors.ended(pidfd, -1)
    os.close(pidfd)
