"""Keys of a terminal: ^C and ^Z do to `run` and to the drop-in name what they do to bare QEMU."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from integration.buildhost.hosted import Started, Vm

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTROL_C, CONTROL_Z = b"\x03", b"\x1a"
SHELL = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
"""A shell with job control: ^Z stops only what has one."""


@pytest.fixture(autouse=True)
def _unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFINED_QEMU_CONFINEMENT", "none")


def _ways(command: str, drop_in: str, qemu: str, vm: Vm) -> Iterator[str]:
    yield shlex.join([qemu, *vm.raw()])
    yield shlex.join([command, "run", vm.spec])
    yield shlex.join([drop_in, *vm.raw()])


def _typed(line: str) -> Started:
    """Type a command line into a shell and wait for the guest's marker."""
    shell = Started(*SHELL, terminal=True)
    shell.send(line.encode() + b"; echo ov''er=$?\n")
    return shell.boot()


def _last(shell: Started, line: str) -> bytes:
    """Type a last line, end the shell, and return what the line printed."""
    shell.send(b"echo be''gin; " + line.encode() + b"; echo e''nd; exit\n")
    shell.read_until(b"end\r\n")
    shell.code()
    return shell.seen[shell.seen.rindex(b"begin") : shell.seen.rindex(b"end")]


def test_control_c_ends_the_vm_as_it_ends_bare_qemu(command: str, drop_in: str, qemu: str, vm: Vm) -> None:
    codes = []
    for line in _ways(command, drop_in, qemu, vm):
        shell = _typed(line)
        shell.send(CONTROL_C)
        shell.read_until(b"over=")
        codes.append(shell.seen[shell.seen.index(b"over=") :].split()[0])
        _last(shell, "true")
        assert b"Traceback" not in shell.seen
    assert codes == [codes[0]] * 3


def test_control_z_stops_and_fg_goes_on(command: str, drop_in: str, qemu: str, vm: Vm) -> None:
    codes = []
    for line in _ways(command, drop_in, qemu, vm):
        shell = _typed(line)
        shell.send(CONTROL_Z)
        shell.read_until(b"Stopped")
        shell.read_until(b"over=148")
        shell.send(b"fg; echo af''ter=$?\n")
        shell.read_until(b"fg;")
        shell.send(b"hello")
        shell.read_until(b"hello")
        shell.send(b"q")
        shell.read_until(b"after=0")
        codes.append(_last(shell, "jobs"))
    assert codes == [codes[0]] * 3


def test_the_terminal_is_left_as_it_was(command: str, drop_in: str, qemu: str, vm: Vm) -> None:
    settings = []
    for line in _ways(command, drop_in, qemu, vm):
        shell = _typed(line)
        shell.send(b"q")
        shell.read_until(b"over=")
        settings.append(_last(shell, "stty -a"))
    assert b"speed" in settings[0]
    assert settings == [settings[0]] * 3
