"""Which processes still run in a VM's context: its pair is its own, so all are the VM's. Imports nothing of ours.

One look at /proc does not prove that there are none: what forks and ends at once is gone before its turn comes, and its
child was not there when the look began. The kernel's last pid (proc(5), /proc/loadavg) tells whether anything was
started meanwhile, and which; without that word it takes several empty looks.
"""

import _signal  # type: ignore[import-not-found]  # typeshed has not what `signal` is made of; that loads enum
import os
import select
import time

_EMPTY_LOOKS = 8
"""Looks in a row that must be empty where the host starts processes all the time; each also follows the new pids."""
_CHASE = 0.02
"""Seconds for which new pids are followed after such a look."""
_MOST_NEW = 64
"""Pids that are tried at once; what is older has ended, or the next look finds it."""
_TABLE = "/proc/loadavg"


def survivors(context: str, having: os.stat_result | None = None) -> list[int]:
    """Return a pidfd for each live process that runs in `context`, in one look; the caller closes them.

    With `having` those that are seen to have that file open.
    """
    names = [name for name in os.listdir("/proc") if name.isdecimal()]
    return [found for name in names if (found := _survivor(name, context, having)) >= 0]


def remaining(context: str, having: os.stat_result | None = None) -> list[int]:
    """Return what `survivors` does; nothing only where it is sure, also of what forks and ends without a pause."""
    for _ in range(_EMPTY_LOOKS):
        before = _last_pid()
        found = survivors(context, having)
        if found:
            return found
        if before is not None and before == _last_pid():
            return []  # whoever runs now ran when the look began
        found = _chased(context, before, having)
        if found:
            return found
    return []


def end(context: str, having: os.stat_result | None = None) -> None:
    """Kill all that runs in `context`, and return once nothing does.

    With `having` all that is seen to have that file open: the kernel does not show everybody's to everybody.
    """
    while found := remaining(context, having):
        # all before the first is waited for: what is left alone forks on
        for pidfd in found:
            kill(pidfd)
        for pidfd in found:
            ended(pidfd, -1)
            os.close(pidfd)


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


def _chased(context: str, since: int | None, having: os.stat_result | None) -> list[int]:
    """Return the first survivor among the pids that were given since then, or are given soon."""
    deadline = time.monotonic() + _CHASE
    while since is not None and time.monotonic() < deadline:
        now = _last_pid()
        if now is None:
            return []
        # after the highest pid low ones are given again: then the newest alone
        first = max(since + 1, now - _MOST_NEW) if since <= now else now
        for pid in range(now, first - 1, -1):
            found = _survivor(str(pid), context, having)
            if found >= 0:
                return [found]
        since = now
    return []


def _survivor(pid: str, context: str, having: os.stat_result | None) -> int:
    """Return a pidfd of a live process that runs in `context` (and has that file open), -1 if this one does not."""
    # without SELinux all would have the same: none
    if not context or _context(pid) != context or not (having is None or _has_open(pid, having)):
        return -1
    try:
        pidfd = os.pidfd_open(int(pid))
    except OSError:
        return -1
    # the pid may have become another's between the two: that one is asked again, and holds the number while it lives
    if _context(pid) != context or ended(pidfd, 0):
        os.close(pidfd)
        return -1
    return pidfd


def _has_open(pid: str, file: os.stat_result) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        return any(_is(f"{folder}/{number}", file) for number in os.listdir(folder))
    except OSError:
        return False


def _is(path: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:
        return False


def _last_pid() -> int | None:
    """Return the pid that was given last in this process's pid namespace; None where the kernel does not tell."""
    try:
        with open(_TABLE, "rb") as file:
            return int(file.read().split()[-1])
    except (OSError, ValueError, IndexError):
        return None


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
