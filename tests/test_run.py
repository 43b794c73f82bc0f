"""`run` ends as QEMU ends, once the labels are back; signals and stops pass through it. The child is a shell here."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.touches_host
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATIENCE = 20.0
"""Seconds until something that hangs fails its test; nothing waits for them to pass."""

PROGRAM = """
import os, select, signal, sys
from confined_qemu.launch import run

SCRIPT, WATCHER, LOG = sys.argv[1:4]
# nohup and a shell's background job are started with some of these ignored, and what runs here would inherit that
for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)

def log(text):
    with open(LOG, "a") as file:
        file.write(text + "\\n")

def become(report):
    pidfd = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        os.setsid()
        for number in (0, 1, 2):
            os.close(number)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if WATCHER != "daemon":
            poll.poll()
        log("watcher: " + WATCHER)
        if WATCHER != "killed":
            os.write(report, {"restores": b"0", "fails": b"!", "daemon": b"d"}[WATCHER])
        os._exit(0)
    os.close(report)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as acts.become does it
    command = sys.argv[4:] or ["/bin/sh", "-c", SCRIPT]
    os.execv(command[0], command)

def clean_up(pid):
    log(f"clean up: {pid == int(open(LOG + '.pid').read())}")
    return not os.path.exists(LOG + ".left")

def explain(pid):
    log(f"explain: {pid == int(open(LOG + '.pid').read())}")

run.supervise(become, clean_up, explain)
"""

WAITS = """
import signal, sys
one = signal.Signals[sys.argv[1]]
signal.pthread_sigmask(signal.SIG_BLOCK, [one])
print("ready", flush=True)
signal.sigwait([one])
print("got", one.name, flush=True)
sys.exit(int(sys.stdin.readline() or 7))
"""
"""Waits for a signal, and ends by the code that it is given. A shell that begins to `read` at that moment misses it."""


class Command:
    """`run` with a shell script in QEMU's place."""

    made: ClassVar[list[Command]] = []

    def __init__(self, folder: Path, script: str, watcher: str = "restores") -> None:
        self.log_file = folder / "log"
        self.log_file.write_text("")
        pid_file = f"{self.log_file}.pid"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, f"echo $$ >'{pid_file}'; {script}", watcher, str(self.log_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        self.made.append(self)

    def line(self) -> str:
        """Wait for a line of the script."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        """Wait for the end, and return the exit code or the negative signal."""
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def log(self) -> list[str]:
        return self.log_file.read_text().splitlines()


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """Leave no process behind, whatever a test found."""
    yield
    for command in Command.made:
        with suppress(ProcessLookupError):
            os.killpg(command.process.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            command.process.wait()
        for pipe in (command.process.stdin, command.process.stdout):
            assert pipe is not None
            pipe.close()
    Command.made.clear()


@pytest.mark.parametrize("code", [0, 1, 3, 125, 126, 127, 255])
def test_the_exit_code_is_qemus(tmp_path: Path, code: int) -> None:
    command = Command(tmp_path, f"exit {code}")
    assert command.end() == code
    # 125 and 127 are the launcher's own: it has said why
    assert command.log() == ["watcher: restores", *([] if code in (0, 125, 127) else ["explain: True"])]


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "ABRT", "INT", "PIPE", "HUP", "USR1"])
def test_the_signal_is_qemus(tmp_path: Path, name: str) -> None:
    command = Command(tmp_path, f"kill -{name} $$")
    assert command.end() == -getattr(signal, f"SIG{name}")
    assert command.log() == ["watcher: restores", *(["explain: True"] if name in ("SEGV", "ABRT") else [])]


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2"])
def test_a_signal_is_handed_on(tmp_path: Path, name: str) -> None:
    command = Command(tmp_path, shlex.join(["exec", sys.executable, "-IS", "-c", WAITS, f"SIG{name}"]))
    assert command.line() == "ready"
    command.process.send_signal(getattr(signal, f"SIG{name}"))
    assert command.line() == f"got SIG{name}"
    assert command.end() == 7


def test_a_signal_that_qemu_outlives_does_not_end_run(tmp_path: Path) -> None:
    command = Command(tmp_path, shlex.join(["exec", sys.executable, "-IS", "-c", WAITS, "SIGTERM"]))
    assert command.line() == "ready"
    command.process.terminate()
    assert command.line() == "got SIGTERM"
    assert command.process.stdin is not None
    command.process.stdin.write("5\n")
    assert command.end() == 5


def test_a_stop_stops_run_and_continuing_it_continues_qemu(tmp_path: Path) -> None:
    """^Z in a terminal: the shell waits for `run`, so `run` must be seen to stop."""
    command = Command(tmp_path, "echo stopping; kill -STOP $$; echo going on; kill -STOP $$; exit 4")
    assert command.line() == "stopping"
    pid = command.process.pid
    for more in ("going on", ""):
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(pid, signal.SIGCONT)
        if more:
            assert command.line() == more
    assert command.end() == 4


def test_a_killed_watchers_work_is_done(tmp_path: Path) -> None:
    command = Command(tmp_path, "exit 3", "killed")
    assert command.end() == 3
    assert command.log() == ["watcher: killed", "clean up: True", "explain: True"]


def test_a_daemon_goes_on_after_its_watchers_word(tmp_path: Path) -> None:
    command = Command(tmp_path, "exit 0", "daemon")
    assert command.end() == 0
    assert command.log() == ["watcher: daemon"]


@pytest.mark.parametrize(("left", "script", "code"), [(False, "exit 0", 0), (True, "exit 0", 125), (True, "exit 3", 3)])
def test_a_label_that_is_not_back_is_no_success(tmp_path: Path, left: bool, script: str, code: int) -> None:
    """The watcher failed: its work is tried once more, and what is left then is not passed over."""
    if left:
        (tmp_path / "log.left").touch()
    command = Command(tmp_path, script, "fails")
    assert command.end() == code
    assert command.log()[:2] == ["watcher: fails", "clean up: True"]


def test_masks_and_handlers_reach_qemu_as_the_caller_set_them(tmp_path: Path) -> None:
    def caller() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2})

    # no shell here: dash clears the mask of what it starts
    command = [sys.executable, "-c", PROGRAM, "", "restores", str(tmp_path / "log")]
    program = subprocess.Popen(
        [*command, "/bin/grep", "SigBlk", "/proc/self/status"],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        preexec_fn=caller,  # noqa: PLW1509 - one thread, and nothing that could hold a lock
    )
    out, _ = program.communicate(timeout=PATIENCE)
    assert int(out.split()[1], 16) == 1 << (signal.SIGUSR2 - 1)


def test_children_stay_in_the_terminals_group(tmp_path: Path) -> None:
    """Keys of a terminal go to its foreground group: QEMU must be in the group that `run` was started in."""
    command = Command(tmp_path, "ps -o pgid= -p $$")
    assert command.line() == str(command.process.pid)
    assert command.end() == 0
