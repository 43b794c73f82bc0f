"""Open-file-description locks (fcntl(2)): they go to children with the descriptor, and end with its last copy.

Imports nothing of ours: watcher and relay use it too.
"""

import errno
import fcntl
import os
import struct

SHARED, EXCLUSIVE = fcntl.F_RDLCK, fcntl.F_WRLCK
_FLOCK = "hhqqi4x"
"""`struct flock` of a 64-bit Linux: type, whence, start, length, pid."""


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


def _request(kind: int, start: int, length: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
