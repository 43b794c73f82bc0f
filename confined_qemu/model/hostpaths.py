"""What a path on QEMU's command line is to the host: the VM's own file, a device, a system's file, a descriptor.

Pure: the path's text decides, nothing is looked up.
"""

from __future__ import annotations

import posixpath

from confined_qemu.model import labelrules
from confined_qemu.model.facts import FileKind
from confined_qemu.model.frozen import replace
from confined_qemu.model.labelrules import Place
from confined_qemu.model.resource import Access, Resource, Role, Sharing

SYSTEM_TREES = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr"),
)
"""What belongs to the system on every host, with all that is in it."""
CROWDED = frozenset({"/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/var", "/var/lib"})
"""Folders of many things, of which one is a VM's."""
_LOOKED_UP = frozenset({Role.FIRMWARE, Role.OPTION_ROM})
_SYSTEM = ("/usr/", "/etc/")
_KERNEL_FILES = ("/proc/", "/sys/")
_DEVICES = "/dev/"
_NOT_DEVICES = ("/dev/shm/", "/dev/hugepages/", "/dev/mqueue/")  # noqa: S108 - looked at, never written
_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr")
_DESCRIPTOR_FOLDERS = frozenset({"/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"})
_COMMON = frozenset(
    {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/console"}
)
"""Every process's devices: not a VM's, even where one is named as a disk."""
_MAY_BE_MISSING = frozenset({"/etc/qemu-ifdown"})
"""What QEMU runs by itself, and goes on without (`net/tap.c`)."""


IOMMU_GROUP = "iommu_group"
"""In a device's folder in sysfs, a link to the group that VFIO hands out as a whole (`/dev/vfio/NUMBER`)."""


def pci_folder(device: str) -> str:
    """Return the folder in sysfs of a PCI device: given as `[0000:]01:00.0`, or as the folder itself."""
    if "/" in device:
        return device
    return f"/sys/bus/pci/devices/{device if device.count(':') > 1 else f'0000:{device}'}"


def is_iommu_group(path: str) -> bool:
    """Tell whether `path` is a device's link to its IOMMU group."""
    return path.startswith("/sys/") and path.endswith(f"/{IOMMU_GROUP}")


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


def descriptor(path: str) -> int | None:
    """Return which inherited descriptor `path` names; None for no number, and for one of another process."""
    normal = _normal(path)
    if normal in _STREAMS:
        return _STREAMS.index(normal)
    folder, number = posixpath.split(normal)
    return int(number) if folder in _DESCRIPTOR_FOLDERS and number.isascii() and number.isdecimal() else None


def place(path: str) -> Place:
    """Return where `path` leads, as far as its text says."""
    normal = _normal(path)
    if inherited(path):
        return Place.DESCRIPTOR
    if normal in _COMMON or normal.startswith(_KERNEL_FILES):
        return Place.KERNEL
    if normal.startswith(_DEVICES) and not f"{normal}/".startswith(_NOT_DEVICES):
        return Place.DEVICE
    return Place.SYSTEM if normal.startswith(_SYSTEM) else Place.ELSEWHERE


def resource(  # noqa: PLR0913 - the fields of a Resource
    path: str,
    role: Role,
    access: Access,
    source: str,
    *,
    shareable: bool = False,
    format: str | None = None,  # noqa: A002 - the name that the field has
    stated: frozenset[Role] = frozenset(),
) -> Resource | None:
    """Return what the plan must know of `path`, or None where it names no file of the host.

    No file: the empty path, and `/dev/fdset/N`. How it is labelled is `svirt_table`'s decision.
    """
    if path == "" or descriptor_set(path):
        return None
    sharing = labelrules.sharing(role, access, place(path), shareable=shareable)
    return Resource(path, role, access, sharing, source, format, stated=stated)


def may_be_missing(wanted: Resource) -> bool:
    """Tell whether QEMU finds another file, or does without, where this one is missing.

    A bare name of firmware, a ROM or a keymap is tried in the working directory and then in QEMU's data folders
    (`qemu_find_file`).
    """
    looked_up = wanted.role in _LOOKED_UP and "/" not in wanted.path
    return looked_up or wanted.path in _MAY_BE_MISSING


def settled(found: Resource, real: str, kind: FileKind) -> Resource:
    """Return the resource as its file turned out to be: behind a link may be a device, or a system's file.

    What names a descriptor keeps its place, because every process has another file behind it; so does a sharing
    that is not the table's.
    """
    written, shareable = place(found.path), found.sharing is Sharing.SHARED
    if found.sharing is not labelrules.sharing(found.role, found.access, written, shareable=shareable):
        return found
    stays = written in (Place.DESCRIPTOR, Place.KERNEL) and found.role is not Role.VFIO  # found by way of sysfs
    there = written if stays else place(real)
    known = None if kind is FileKind.MISSING else kind
    rule = labelrules.row(found.role, found.access, there, shareable=shareable, kind=known)
    return found if rule is None else replace(found, sharing=rule.sharing)


def rule(found: Resource) -> labelrules.Row | None:
    """Return the table's row for a resource whose file has not been looked at, None where it has no rule."""
    return labelrules.row(found.role, found.access, place(found.path), shareable=found.sharing is Sharing.SHARED)


def _normal(path: str) -> str:
    """Return `path` without `.`, `..` and doubled slashes, as far as text can tell."""
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal
