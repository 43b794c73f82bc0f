"""Turns with libvirt: while a label is looked at and changed here, libvirt's daemon changes none of the same file.

The daemon locks one byte of each file for writing while it labels files, and waits up to ten seconds for it
(security_manager.c; folders, and what lies on a read-only file system, it does not lock). A lock for reading of the
same byte keeps it out, and takes no more than the right to read. Launchers take turns by the lock of their folder.
"""

from __future__ import annotations

import os
import stat
import time

from confined_qemu.host import locks
from confined_qemu.model.errors import LabelError, why
from confined_qemu.model.lean import TYPE_CHECKING, contextmanager, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

BYTES = (1, 1)
"""Start and length of what libvirt locks (METADATA_OFFSET, METADATA_LEN)."""
PATIENCE = 5.0
"""Seconds; the daemon holds its locks for as long as it takes to label one VM's files."""
_PAUSE = 0.01
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass
class Waiting:
    """How long may still be waited, in seconds, for all files together: one that never lets go costs it once."""

    left: float = PATIENCE


@contextmanager
def turn(descriptor: int, path: str, waiting: Waiting) -> Iterator[None]:
    """Hold libvirt's lock on the file of an open (O_PATH) descriptor, which is at `path`, where there can be one.

    Raises:
        LabelError: another process holds it for longer than may be waited, or the file cannot be opened.
    """
    lock = _opened(descriptor, path)
    try:
        if lock >= 0:
            _take(lock, path, waiting)
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def _opened(descriptor: int, path: str) -> int:
    # opening a device or a pipe may do something
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return -1
    try:
        return os.open(f"/proc/self/fd/{descriptor}", _READ)
    except PermissionError:
        return -1  # whether it may be labelled, the kernel says next
    except OSError as error:
        raise LabelError(f"cannot be opened: {why(error)}", where=path) from error


def _take(lock: int, path: str, waiting: Waiting) -> None:
    deadline = time.monotonic() + waiting.left
    while not _taken(lock):
        waiting.left = max(0.0, deadline - time.monotonic())
        if not waiting.left:
            raise LabelError(
                "its label cannot be changed: libvirt, or another program, holds a lock on its byte 1",
                where=path,
                hint="see who holds it: lslocks, and run again",
            )
        time.sleep(_PAUSE)


def _taken(lock: int) -> bool:
    try:
        return locks.take(lock, locks.SHARED, *BYTES)
    except OSError:
        return True  # a file system without locks has none of libvirt's either
