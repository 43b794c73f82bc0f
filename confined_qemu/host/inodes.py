"""What an open descriptor is: its kind, which inode, and whether a QEMU has it open; looks and changes nothing."""

from __future__ import annotations

import fcntl
import os
import stat
import sys

from confined_qemu.model.facts import FileKind, Identity

_GET_VERSION = 0x80087601
"""FS_IOC_GETVERSION of linux/fs.h: the inode's generation."""
_IMAGE_LOCK = (100, 200)
"""Start and length in bytes: QEMU's RAW_LOCK_PERM_BASE, and RAW_LOCK_SHARED_BASE with its bytes."""
_KINDS = {
    stat.S_IFREG: FileKind.REGULAR,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFBLK: FileKind.BLOCK,
    stat.S_IFCHR: FileKind.CHARACTER,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFLNK: FileKind.SYMLINK,
}


def kind_of(mode: int) -> FileKind:
    """Return the kind that a file mode says."""
    return _KINDS.get(stat.S_IFMT(mode), FileKind.MISSING)


def identity_of(descriptor: int) -> Identity:
    """Return which inode an open (O_PATH) descriptor is, with its generation where the file system tells."""
    found = os.fstat(descriptor)
    return Identity(found.st_dev, found.st_ino, _generation(descriptor, found.st_mode))


def _generation(descriptor: int, mode: int) -> int | None:
    if not stat.S_ISREG(mode):
        return None  # opening a device or a pipe may do something
    try:
        readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        answer = fcntl.ioctl(readable, _GET_VERSION, bytes(8))
    except OSError:
        return None
    finally:
        os.close(readable)
    return int.from_bytes(answer[:4], sys.byteorder)


def in_use(descriptor: int) -> bool:
    """Tell whether a QEMU has the image of an open (O_PATH) descriptor open, whoever started it and with what rights.

    QEMU locks bytes of an image that it opens, for reading too (block/file-posix.c). A file that may not be opened
    here tells nothing, and its label cannot be changed from here either.
    """
    try:
        readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        from confined_qemu.host import locks

        return locks.obstacle(readable, locks.EXCLUSIVE, *_IMAGE_LOCK) is not None
    finally:
        os.close(readable)
