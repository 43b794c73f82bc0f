"""Opens an inode by its number: a file handle (open_by_handle_at(2)), made of the number and the generation.

What a handle holds is the file system's own business; for those named here it is part of what the kernel promises to
NFS clients across its versions (linux/exportfs.h, fs/btrfs/export.h, fs/xfs/xfs_export.h).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from confined_qemu.host import mounts
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from confined_qemu.model.facts import Identity

_INODE32, _INODE64, _BTRFS = 0x01, 0x81, 0x4D
"""FILEID_INO32_GEN, the same with XFS_FILEID_TYPE_64FLAG, and FILEID_BTRFS_WITHOUT_PARENT."""
_BTRFS_LOOKUP = 0xD0009412
"""BTRFS_IOC_INO_LOOKUP of linux/btrfs.h: with a zero and the number of a subvolume's top it names the subvolume."""
_BTRFS_TOP = 256
_LOOKUP_SIZE = 4096
_32_BITS = 1 << 32
_LONGEST = 128


class _Handle(ctypes.Structure):
    """`struct file_handle` of linux/fcntl.h."""

    _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * _LONGEST))


def opened(folder: int, identity: Identity) -> int | None:
    """Return an O_PATH descriptor of the inode, which lies on the file system of the open `folder` (no O_PATH).

    None where that cannot be told: the file system has no such handles or the caller may not use them.

    Raises:
        FileNotFoundError: there is no such inode any more, under any name.
    """
    parts = _parts(folder, identity)
    if parts is None:
        return None
    handle = _Handle(len(parts[1]), parts[0])
    ctypes.memmove(handle.data, parts[1], len(parts[1]))
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.open_by_handle_at(folder, ctypes.byref(handle), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if number < 0:
        if ctypes.get_errno() == errno.ESTALE:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return None
    if os.fstat(number).st_nlink == 0:
        os.close(number)  # somebody has it open still, and it ends with that
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return int(number)


def _parts(folder: int, identity: Identity) -> tuple[int, bytes] | None:
    """Return the kind and the bytes of the inode's handle; None for a file system that is not known here."""
    mount = mounts.Mounts().of(folder)
    if mount is None or identity.generation is None:
        return None
    inode, generation = identity.inode, identity.generation
    if mount.type == "btrfs":
        return _BTRFS, struct.pack("=QQI", inode, _subvolume(folder), generation)
    if mount.type == "xfs" and inode >= _32_BITS:
        return _INODE64, struct.pack("=QI", inode, generation)
    if mount.type in ("ext2", "ext3", "ext4", "xfs") and inode < _32_BITS:
        return _INODE32, struct.pack("=II", inode, generation)
    return None


def _subvolume(folder: int) -> int:
    answer = fcntl.ioctl(folder, _BTRFS_LOOKUP, struct.pack("=QQ", 0, _BTRFS_TOP).ljust(_LOOKUP_SIZE, b"\0"))
    return int(struct.unpack_from("=Q", answer)[0])
