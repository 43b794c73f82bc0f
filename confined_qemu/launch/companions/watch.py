"""The watcher: stays with a VM and puts its labels back, whatever ended it.

Runs as a program of its own (`python3 -IS watch.py JOURNAL CONTEXT GROUP PIDFD PID CONTROL REPORT LEASH LIVE LEAVES
FILE…`; GROUP is empty without a control group of the VM's own, REPORT is -1 without `run`, LEASH without helpers and
new files, LIVE where the context is the VM's own; LEAVES is 1 where the VM may leave a process behind) and imports
nothing until the VM has ended, so that a thousand of them are cheap: what it has in common with the other companions
stands in each of them (a test holds them to one text). It holds the journal's lock and the VM's pair through the
descriptors it inherited, and each FILE that it will put back, which may have another name by then.
"""

import _signal  # type: ignore[import-not-found]  # typeshed has not what `signal` is made of; that loads enum
import os
import select
import sys

READY = b"r"
RESTORED = b"0"
DAEMON = b"d"
FAILED = b"!"
HELPER = b"h"
MADE = b"m"
_EXEC_PATIENCE = 5.0
"""Seconds for the kernel to finish an exec that has begun (its descriptors are closed a moment before its context
changes)."""
_HELPER_PATIENCE = 10_000
"""Milliseconds for a helper to save what it has to, once QEMU is gone."""


def main() -> None:
    """Watch one VM; does not return."""
    path, expected, group = sys.argv[1:4]
    pidfd, pid, control, report, leash, live, leaves, *files = (int(text) for text in sys.argv[4:])
    comm = os.open("/proc/self/comm", os.O_WRONLY)  # a text file would load a codec
    os.write(comm, b"confined-watch")
    os.close(comm)
    os.write(control, READY)
    _await_exec(control, pidfd, report)
    os.close(control)
    _check(pid, pidfd, expected)
    helpers, made = _received(leash)
    _await_end(pidfd, report)
    os.close(pidfd)
    # last: what lies beside the package is in no module's place
    own = os.path.dirname(os.path.abspath(__file__)).removesuffix("/__pycache__")
    sys.path.append(os.path.normpath(os.path.join(own, *[os.pardir] * 3)))
    if group and not leaves:
        _end_group(group, expected)
    if live >= 0:
        if not leaves:
            _end_holders(live, expected)
        _await_holders(live, report)
        if group and leaves:
            _await_group(group, expected, report)
    elif leaves:
        _await_others(expected, report)
    else:
        _end_others(expected)
    _end_helpers(helpers)
    status = _restore(path, files, made)
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
            kill(pidfd)
            poll.unregister(report)
        if control in ready or pidfd in ready:
            return


def _check(pid: int, pidfd: int, expected: str) -> None:
    """Kill the VM unless it runs in the context that was planned."""
    import time

    deadline = time.monotonic() + _EXEC_PATIENCE
    while _context(pid) != expected:
        if ended(pidfd, 1):
            return
        if time.monotonic() > deadline:
            kill(pidfd)
            return


def _context(pid: int | str) -> str:
    try:
        file = os.open(f"/proc/{pid}/attr/current", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(file, 4096).decode("ascii", "replace").rstrip("\0\n")
    except OSError:
        return ""
    finally:
        os.close(file)


def kill(pidfd: int) -> None:
    """Kill a process, if it is still there."""
    try:
        _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
    except OSError:
        return


def ended(pidfd: int, milliseconds: int) -> bool:
    """Tell whether the process has ended, waiting at most so long (-1: until it has)."""
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
        kill(pidfd)
        poll.unregister(report)


def _end_group(group: str, expected: str) -> None:
    """Kill what is in the VM's control group at once: it has no time to fork on. Who has left it is looked for then."""
    from confined_qemu.host import cgroups

    cgroups.end(group, expected)


def _await_group(group: str, expected: str, report: int) -> None:
    """Wait for what is in the control group of a VM whose context is not its own: it may have closed the live file."""
    from confined_qemu.host import cgroups

    cgroups.await_end(group, expected, lambda: _tell(report, DAEMON))


def _end_others(expected: str) -> None:
    """Kill what runs in the VM's context though the VM was not told to leave anything: its disks would stay in use."""
    from confined_qemu.launch.companions import survivors

    survivors.end(expected)


def _end_holders(live: int, expected: str) -> None:
    """Kill what holds the VM's live file: another VM may run in the same context, and does not hold this one's."""
    from confined_qemu.launch.companions import survivors

    survivors.end(expected, os.fstat(live))


def _await_others(expected: str, report: int) -> None:
    """Wait for what runs in the VM's context besides the launched process: `-daemonize`'s child, helpers."""
    from confined_qemu.launch.companions.survivors import remaining

    told = False
    while others := remaining(expected):
        if not told:
            _tell(report, DAEMON)
            told = True
        for pidfd in others:
            ended(pidfd, -1)
            os.close(pidfd)


def _received(leash: int) -> tuple[list[int], dict[str, int]]:
    """Return a pidfd of each helper, and what the launcher made, open, by the path that it has now."""
    helpers: list[int] = []
    made: dict[str, int] = {}
    if leash < 0:
        return helpers, made
    import socket

    with socket.socket(fileno=leash) as received:
        while True:
            # the other ends close when helpers and QEMU are executed, so this comes to its end
            kind, descriptors, _, _ = socket.recv_fds(received, 1, 1)
            if not kind:
                return helpers, made
            for descriptor in descriptors:
                if kind == MADE:
                    made[os.readlink(f"/proc/self/fd/{descriptor}")] = descriptor
                else:
                    helpers.append(descriptor)


def _end_helpers(pidfds: list[int]) -> None:
    """Wait for the VM's helpers, which end when QEMU is gone, and kill one that hangs."""
    for pidfd in pidfds:
        if not ended(pidfd, _HELPER_PATIENCE):
            kill(pidfd)
            ended(pidfd, -1)
        os.close(pidfd)


def _await_holders(live: int, report: int) -> None:
    """Wait for what inherited the lock on the VM's live file: another VM may run in the same context."""
    from confined_qemu.host import locks

    if locks.obstacle(live, locks.SHARED) is not None:
        _tell(report, DAEMON)
        locks.wait_for_others(live)
    os.close(live)


def _restore(path: str, files: list[int], made: dict[str, int]) -> bytes:
    from confined_qemu.labels import find
    from confined_qemu.labels.restore import restore

    try:
        result = restore(path, find.Search(find.by_inode(files), made))
    except Exception:  # noqa: BLE001 - the journal stays, and `recover` says what is wrong
        return FAILED
    return RESTORED if result is None or not (result.failed or result.pending) else FAILED


def _tell(report: int, what: bytes) -> None:
    if report >= 0:
        try:
            os.write(report, what)
        except OSError:
            return


if __name__ == "__main__":
    main()
