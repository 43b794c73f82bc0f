"""The watcher: stays with a VM and puts its labels back, whatever ended it.

Runs as a program of its own (`python3 -IS watch.py JOURNAL CONTEXT PIDFD PID CONTROL REPORT LEASH LIVE`; REPORT is -1
without `run`, LEASH without helpers, LIVE where the context is the VM's own) and imports nothing until the VM has
ended, so that a thousand of them are cheap. It holds the journal's lock and the VM's pair through the descriptors it
inherited.
"""

import os
import select
import signal
import sys

READY = b"r"
RESTORED = b"0"
DAEMON = b"d"
FAILED = b"!"
_EXEC_PATIENCE = 5.0
"""Seconds for the kernel to finish an exec that has begun (its descriptors are closed a moment before its context
changes)."""
_HELPER_PATIENCE = 10_000
"""Milliseconds for a helper to save what it has to, once QEMU is gone."""


def main() -> None:
    """Watch one VM; does not return."""
    path, expected = sys.argv[1], sys.argv[2]
    pidfd, pid, control, report, leash, live = (int(text) for text in sys.argv[3:9])
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write("confined-watch")
    os.write(control, READY)
    _await_exec(control, pidfd, report)
    os.close(control)
    _check(pid, pidfd, expected)
    _await_end(pidfd, report)
    os.close(pidfd)
    sys.path.insert(0, os.path.abspath(os.path.join(__file__, *[os.pardir] * 4)))
    if live >= 0:
        _await_holders(live, report)
    else:
        _await_others(expected, report)
    _end_helpers(leash)
    status = _restore(path)
    _tell(report, status)
    os._exit(0)


def _await_exec(control: int, pidfd: int, report: int) -> None:
    """Wait until the launcher has become QEMU (its end of `control` closes) or has ended."""
    poll = select.poll()
    # the writing end of a pipe is ready (POLLERR) once nobody reads it any more
    for descriptor in (control, pidfd, report):
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if report in ready:
            # `run` was killed: so would QEMU be, had the person started it
            _kill(pidfd)
            poll.unregister(report)
        if control in ready or pidfd in ready:
            return


def _check(pid: int, pidfd: int, expected: str) -> None:
    """Kill the VM unless it runs in the context that was planned."""
    import time

    deadline = time.monotonic() + _EXEC_PATIENCE
    while _context(pid) != expected:
        if _has_ended(pidfd, 1):
            return
        if time.monotonic() > deadline:
            _kill(pidfd)
            return


def _context(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/attr/current", encoding="ascii", errors="replace") as file:
            return file.read().rstrip("\0\n")
    except OSError:
        return ""


def _has_ended(pidfd: int, milliseconds: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))


def _await_end(pidfd: int, report: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if report >= 0:
        poll.register(report, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if pidfd in ready:
            return
        _kill(pidfd)
        poll.unregister(report)


def _await_others(expected: str, report: int) -> None:
    """Wait for what runs in the VM's context besides the launched process: `-daemonize`'s child, helpers."""
    from confined_qemu.launch.companions.survivors import survivors

    told = False
    while others := survivors(expected):
        if not told:
            _tell(report, DAEMON)
            told = True
        for pidfd in others:
            _has_ended(pidfd, -1)
            os.close(pidfd)


def _end_helpers(leash: int) -> None:
    """Wait for the VM's helpers, which end when QEMU is gone, and kill one that hangs."""
    if leash < 0:
        return
    import socket

    with socket.socket(fileno=leash) as received:
        while True:
            # the other ends close when helpers and QEMU are executed, so this comes to its end
            data, pidfds, _, _ = socket.recv_fds(received, 1, 1)
            if not data:
                return
            for pidfd in pidfds:
                if not _has_ended(pidfd, _HELPER_PATIENCE):
                    _kill(pidfd)
                    _has_ended(pidfd, -1)
                os.close(pidfd)


def _await_holders(live: int, report: int) -> None:
    """Wait for what inherited the lock on the VM's live file: another VM may run in the same context."""
    from confined_qemu.host import locks

    if locks.obstacle(live, locks.SHARED) is not None:
        _tell(report, DAEMON)
        locks.wait_for_others(live)
    os.close(live)


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        return


def _restore(path: str) -> bytes:
    from confined_qemu.labels.restore import restore
    from confined_qemu.model.errors import ConfinedQemuError

    try:
        result = restore(path)
    except ConfinedQemuError:
        return FAILED
    return RESTORED if result is None or not result.failed else FAILED


def _tell(report: int, what: bytes) -> None:
    if report >= 0:
        try:
            os.write(report, what)
        except OSError:
            return


if __name__ == "__main__":
    main()
