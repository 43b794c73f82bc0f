"""`run`: a person's command, one fork deeper: it waits for QEMU and for the labels, and ends as QEMU did."""

from __future__ import annotations

import os

from confined_qemu.host import signals as signal
from confined_qemu.launch.companions import watch
from confined_qemu.model.errors import LAUNCHER_FAILED, NOT_FOUND
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_FORWARDED = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
_FROM_KERNEL = 0x80
"""`si_code` SI_KERNEL (sigaction(2)): the terminal sent it, to QEMU too, as both are in one process group."""
_FATAL = frozenset(
    {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}
)
_CORE_OFF = (0, 0)


def supervise(
    become: Callable[[int], NoReturn], clean_up: Callable[[int], bool], explain: Callable[[int], None]
) -> NoReturn:
    """Run `become` in a child and end as it ends, once its labels are back.

    `become(report)` turns the child into QEMU; `report` goes to its watcher. `clean_up(pid)` puts back the labels
    of the child should its watcher be killed or fail, says what cannot be put back, and tells whether nothing of that
    sort is left: else this fails though QEMU did not. `explain(pid)` is called when QEMU failed.
    """
    mine, report = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_FORWARDED, signal.SIGCHLD))
    # a caller may ignore SIGCHLD, and then nobody could wait for QEMU, which finds it as the caller had it
    ignored = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    me = os.getpid()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, ignored)
        _die_with(me)
        os.close(mine)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        become(report)
    os.close(report)
    status = _await(child)
    back = _labels_back(mine) or clean_up(child)
    if _failed(status):
        explain(child)
    if not back and status == 0:
        os._exit(LAUNCHER_FAILED)
    _end_as(status, before)


def _die_with(parent: int) -> None:
    """Be killed when `parent` is, also where no watcher sees to it (`confinement: none`)."""
    from confined_qemu.host import processcontrol

    processcontrol.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(LAUNCHER_FAILED)


def _await(child: int) -> int:
    """Wait for the child, handing on signals and stops; return its wait status."""
    while True:
        found = signal.sigwaitinfo((*_FORWARDED, signal.SIGCHLD))
        if found.si_signo != signal.SIGCHLD:
            # a key of the terminal reached QEMU by itself; a kill of this process did not
            if found.si_code != _FROM_KERNEL:
                _send(child, found.si_signo)
            continue
        while True:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                break
            if not os.WIFSTOPPED(status):
                return status
            # QEMU was stopped (^Z, SIGTTIN): so is this process, and whoever continues it continues QEMU
            os.kill(os.getpid(), signal.SIGSTOP)
            _send(child, signal.SIGCONT)


def _send(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return


def _labels_back(report: int) -> bool:
    """Wait for the watcher's word: labels are back, or a daemon goes on. False when it failed, or died without one."""
    while word := os.read(report, 1):
        if word in (watch.RESTORED, watch.DAEMON, watch.FAILED):
            return word != watch.FAILED
    return False


def _failed(status: int) -> bool:
    """Tell whether QEMU failed: by an exit code, or by a signal of its own, not by one that a person sends.

    What the launcher itself refused it has explained.
    """
    code = os.waitstatus_to_exitcode(status)
    return -code in _FATAL if code < 0 else code not in (0, LAUNCHER_FAILED, NOT_FOUND)


def _end_as(status: int, mask: set[int]) -> NoReturn:
    """End with the same exit code, or by the same signal."""
    if os.WIFSIGNALED(status):
        import resource

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, _CORE_OFF)  # QEMU's core is the one worth having
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
