"""What a path on QEMU's command line is to the host: the VM's own file, a device, a system's file, a descriptor.

Pure: the path's text decides, nothing is looked up.
"""

from __future__ import annotations

import posixpath

from confined_qemu.resource import Access, Resource, Role, Sharing

_BY_ACCESS = {
    Access.READ: Sharing.CONTENT,
    Access.DIRECTORY: Sharing.UNLABELLED,
    Access.CONNECT: Sharing.UNLABELLED,
}
_DISKS = frozenset({Role.DISK, Role.CDROM, Role.FLOPPY, Role.BACKING, Role.DATA_FILE, Role.NVRAM})
_LOOKED_UP = frozenset({Role.FIRMWARE, Role.OPTION_ROM})
_SYSTEM = ("/usr/", "/etc/")
_KERNEL_FILES = ("/proc/", "/sys/")
_DEVICES = "/dev/"
_NOT_DEVICES = ("/dev/shm/", "/dev/hugepages/", "/dev/mqueue/")  # noqa: S108 - looked at, never written
_STREAMS = frozenset({"/dev/stdin", "/dev/stdout", "/dev/stderr"})
_COMMON = frozenset(
    {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/console"}
)
"""Every process's devices: not a VM's, even where one is named as a disk."""
_STOCK = ("bios", "edk2-", "efi-", "kvmvapic", "linuxboot", "multiboot", "pvh.bin", "pxe-", "qboot", "vgabios")
"""What the firmware in QEMU's data folder is called (`pc-bios/`)."""


def descriptor_set(path: str) -> bool:
    """Tell whether `path` is `/dev/fdset/N`: a name inside QEMU (`-add-fd`), and no file of the host."""
    return posixpath.normpath(path).lstrip("/").startswith("dev/fdset/")


def inherited(path: str) -> bool:
    """Tell whether `path` names an open descriptor (`/proc/self/fd/N`, `/dev/fd/N`, `/dev/stdin`).

    The file behind it is another one in every process, and belongs to the caller.
    """
    parts = _normal(path).split("/")
    in_process = len(parts) > 4 and parts[1] == "proc" and "fd" in parts[3:-1]  # noqa: PLR2004 - /proc/N/fd/N
    return _normal(path) in _STREAMS or parts[:3] == ["", "dev", "fd"] or in_process


def resource(  # noqa: PLR0913 - the fields of a Resource
    path: str,
    role: Role,
    access: Access,
    source: str,
    *,
    sharing: Sharing | None = None,
    format: str | None = None,  # noqa: A002 - the name that the field has
) -> Resource | None:
    """Return what the plan must know of `path`, or None where it names no file of the host.

    No file: the empty path, `/dev/fdset/N`, and the bare name of firmware that QEMU finds in its data folder.
    `sharing` None follows from `access` (read: content; directory, connect: left alone; else private). Whatever
    is asked for, descriptors, devices and a system's files keep their label; a device used as a disk does not.
    """
    if path == "" or descriptor_set(path):
        return None
    if role in _LOOKED_UP and path.startswith(_STOCK) and "/" not in path:
        return None
    sharing = sharing or _BY_ACCESS.get(access, Sharing.PRIVATE)
    place = _normal(path)
    if inherited(path) or place in _COMMON or place.startswith(_KERNEL_FILES):
        sharing = Sharing.UNLABELLED
    elif place.startswith(_DEVICES) and not f"{place}/".startswith(_NOT_DEVICES):
        if role in _DISKS:
            role = Role.HOST_DEVICE
        elif access is not Access.LISTEN:
            sharing = Sharing.UNLABELLED
    elif access is Access.READ and place.startswith(_SYSTEM):
        sharing = Sharing.UNLABELLED
    return Resource(path, role, access, sharing, source, format)


def _normal(path: str) -> str:
    """Return `path` without `.`, `..` and doubled slashes, as far as text can tell."""
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal
