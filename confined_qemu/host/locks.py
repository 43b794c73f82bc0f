"""Open-file-description locks (fcntl(2)): they go to children with the descriptor, and end with its last copy.

Imports nothing of ours: watcher and relay use it too.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SHARED, EXCLUSIVE = fcntl.F_RDLCK, fcntl.F_WRLCK
_TO_THE_END = 1 << 62
_FLOCK = "hhqqi4x"
"""`struct flock` of a 64-bit Linux: type, whence, start, length, pid."""

_PID, _INODE = 4, 5
"""Fields of a row of /proc/locks."""
_MOST_OF_TABLE = 1 << 22
"""Bytes of it that are looked at."""


def take(descriptor: int, kind: int, start: int = 0, length: int = 1) -> bool:
    """Lock `length` bytes from `start`; False when another description's lock stands in the way.

    Raises:
        OSError: the file cannot be locked.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(kind, start, length))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def give_up(descriptor: int, start: int, length: int = 1) -> None:
    """Unlock `length` bytes from `start`.

    Raises:
        OSError: the kernel refuses.
    """
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, start, length))


def owners(descriptor: int) -> list[tuple[int, int, str]]:
    """Return who holds bytes of the file of an open descriptor locked: how many in one piece, its pid, its name.

    Those that the caller may look into (proc(5), fdinfo); what it holds itself is left out.
    """
    mine = os.fstat(descriptor)
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        if pid != os.getpid():
            try:
                found += [(length, pid, _name(pid)) for length in _locked(pid, mine)]
            except OSError:
                continue  # it has ended, or is not to be looked into
    return found


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip()


def _locked(pid: int, file: os.stat_result) -> list[int]:
    """Return the lengths of a process's locks on a file (fdinfo: `lock: 1: OFDLCK ADVISORY READ -1 fe:00:12 0 EOF`)."""
    rows = [line.split()[-2:] for line in _lock_lines(pid, file) if b" FLOCK " not in line]
    return [_TO_THE_END if last == b"EOF" else int(last) - int(first) + 1 for first, last in rows]


def _lock_lines(pid: int, file: os.stat_result) -> list[bytes]:
    """Return what fdinfo says of a process's locks on a file."""
    numbers = [name for name in os.listdir(f"/proc/{pid}/fd") if _is(f"/proc/{pid}/fd/{name}", file)]
    lines = []
    for number in numbers:
        with open(f"/proc/{pid}/fdinfo/{number}", "rb") as shown:
            lines += [line for line in shown if line.startswith(b"lock:")]
    return lines


def _is(path: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:
        return False


def obstacle(descriptor: int, kind: int, start: int = 0, length: int = 1) -> int | None:
    """Return the kind of a lock that another description holds against `kind`, None where there is none.

    Raises:
        OSError: the kernel cannot be asked.
    """
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _request(kind, start, length))
    found: int = struct.unpack(_FLOCK, answer)[0]
    return None if found == fcntl.F_UNLCK else found


def wait_for_others(descriptor: int) -> None:
    """Return once no other description holds the first byte exclusively.

    Raises:
        OSError: the file cannot be locked.
    """
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _request(SHARED, 0, 1))


def take_whole(descriptor: int, seconds: float, tell: Callable[[], None]) -> None:
    """Lock a whole file (flock(2)), waiting for as long as it takes; `tell` is called once, after so many seconds.

    Whoever waits stands in the kernel's line, which is lost by one who asks again and again.

    Raises:
        OSError: the file cannot be locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        locked, told = _thread.allocate_lock(), _thread.allocate_lock()

        def wait() -> None:
            try:
                if not locked.acquire(timeout=seconds):
                    tell()
            finally:
                told.release()

        locked.acquire()
        told.acquire()
        try:
            _thread.start_new_thread(wait, ())
        except RuntimeError:
            told.release()  # no process to be had: then nobody is told
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        finally:
            locked.release()
            told.acquire()  # this process may fork, and become another program


def holder(descriptor: int) -> int | None:
    """Return a process that has the lock on the whole file (flock(2)) open; None where the kernel shows none.

    It may not be the one that took it: a lock goes to children with its descriptor. That one counts where it lives
    and does not let itself be looked into.
    """
    mine = os.fstat(descriptor)
    closed = set()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            if any(b" FLOCK " in line for line in _lock_lines(pid, mine)):
                return pid
        except PermissionError:
            closed.add(pid)
        except OSError:
            continue  # it has ended
    taker = _taker(mine)
    return taker if taker in closed else None


def _taker(file: os.stat_result) -> int | None:
    """Return who took the lock on a whole file, by the kernel's table (proc(5), /proc/locks); it may have ended.

    The table names a file by the device of its file system and its inode.
    """
    name = b"%02x:%02x:%d" % (os.major(file.st_dev), os.minor(file.st_dev), file.st_ino)
    try:
        with open("/proc/locks", "rb") as table:
            rows = [line.split() for line in table.read(_MOST_OF_TABLE).splitlines()]
    except OSError:
        return None
    # 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END; one that waits has `->` before its kind
    held = (row for row in rows if len(row) > _INODE and row[1] == b"FLOCK" and row[_INODE] == name)
    return next((int(row[_PID]) for row in held if row[_PID].isdigit()), None)


def _request(kind: int, start: int, length: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
