"""Launching without confinement on the building machine: QEMU's own behaviour, and one line that says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from integration.buildhost import hosted
from integration.buildhost.hosted import Started, Vm, run

NONE = hosted.environment(CONFINED_QEMU_CONFINEMENT="none")


def _answers(command: str, *words: str, send: bytes) -> tuple[int, bytes, bytes]:
    """Boot, type `send`, and return exit code, standard output and standard error."""
    errors, inner = os.pipe()
    vm = Started(command, *words, stderr=inner, env=NONE)
    os.close(inner)
    vm.boot().send(send)
    code = vm.code()
    with open(errors, "rb") as file:
        return code, vm.seen, file.read()


def test_confinement_none_says_so_in_one_line_and_runs(command: str, vm: Vm) -> None:
    for changes, words in (({}, []), ({"confinement": None}, ["--confinement", "none"])):
        code, output, errors = _answers(command, "run", vm.write(**changes), *words, send=b"q")
        assert (code, errors.decode()) == (0, hosted.UNCONFINED)
        assert hosted.MARKER in output


def test_the_exit_code_is_qemus(command: str, drop_in: str, vm: Vm) -> None:
    assert _answers(command, "run", vm.spec, "--", *hosted.DEBUG_EXIT, send=b"x")[0] == 33
    assert _answers(command, "exec", "--confinement", "none", "--", *vm.raw(*hosted.DEBUG_EXIT), send=b"x")[0] == 33
    assert _answers(drop_in, *vm.raw(*hosted.DEBUG_EXIT), send=b"x")[0] == 33


def test_qemus_own_failure_passes_through(command: str, qemu: str, vm: Vm) -> None:
    wrong = vm.raw("-device", "bogus")
    bare = run(qemu, *wrong)
    ours = run(command, "exec", "--confinement", "none", "--", *wrong)
    assert ours.returncode == bare.returncode == 1
    assert ours.stderr.removeprefix(hosted.UNCONFINED) == bare.stderr


@pytest.mark.parametrize("query", [["-version"], ["--version"], ["-device", "help"], ["-machine", "help"]])
def test_questions_are_answered_as_by_qemu_itself(command: str, drop_in: str, qemu: str, query: list[str]) -> None:
    bare = run(qemu, *query)
    assert bare.returncode == 0
    for ours in (run(drop_in, *query, env=NONE), run(command, "exec", "--confinement", "none", "--", *query)):
        assert (ours.returncode, ours.stdout, ours.stderr) == (0, bare.stdout, "")


def test_the_process_that_was_started_is_qemu(drop_in: str, qemu: str, vm: Vm) -> None:
    started = Started(drop_in, *vm.raw(), stderr=subprocess.DEVNULL, env=NONE).boot()
    assert os.path.samefile(f"/proc/{started.pid}/exe", qemu)
    with open(f"/proc/{started.pid}/cmdline", "rb") as file:
        assert file.read().split(b"\0")[1:-1] == [word.encode() for word in vm.raw()]
    assert sorted(int(name) for name in os.listdir(f"/proc/{started.pid}/fd"))[:3] == [0, 1, 2]
    started.send(b"q")
    assert started.code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_run_forwards_signals_and_ends_as_bare_qemu_does(command: str, qemu: str, vm: Vm, number: int) -> None:
    bare = Started(qemu, *vm.raw(), stderr=subprocess.DEVNULL).boot()
    os.kill(bare.pid, number)
    ours = Started(command, "run", vm.spec, stderr=subprocess.DEVNULL).boot()
    os.kill(ours.pid, number)
    assert ours.code() == bare.code() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_run_ends_by_the_signal_that_ended_qemu(command: str, vm: Vm, number: int) -> None:
    ours = Started(command, "run", vm.spec, stderr=subprocess.DEVNULL).boot()
    (child,) = _children(ours.pid)
    os.kill(child, number)
    assert ours.code() == -number


def test_killing_run_ends_the_vm(command: str, vm: Vm) -> None:
    ours = Started(command, "run", vm.spec, stderr=subprocess.DEVNULL).boot()
    (child,) = _children(ours.pid)
    handle = os.pidfd_open(child)
    os.kill(ours.pid, signal.SIGKILL)
    assert ours.code() == -signal.SIGKILL
    ended = hosted.wait_gone(handle)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended, "the VM lives on"


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def test_a_caller_that_ignores_its_children_may_still_wait_for_run(command: str, vm: Vm) -> None:
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = run(sys.executable, "-c", ignoring, command, "run", vm.spec, "--", "-device", "bogus")
    assert done.returncode == 1
    assert "bogus" in done.stderr
