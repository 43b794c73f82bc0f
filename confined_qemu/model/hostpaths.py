"""What a path on QEMU's command line is to the host: the VM's own file, a device, a system's file, a descriptor.

Pure: the path's text decides, nothing is looked up.
"""

from __future__ import annotations

import posixpath

from confined_qemu.model import labelrules
from confined_qemu.model.facts import FileKind
from confined_qemu.model.labelrules import Place
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.resource import Access, Resource, Role, Sharing

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_TREES = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr"),
)
"""What belongs to the system on every host, with all that is in it."""
CROWDED = frozenset({"/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/var", "/var/lib"})
"""Folders of many things, of which one is a VM's."""
_LOOKED_UP = frozenset({Role.FIRMWARE, Role.OPTION_ROM})
_INSTALLED = ("/usr/", "/etc/")
"""Where lies what is installed for everybody, with labels of its own that VMs may read."""
_KERNEL_FILES = ("/proc/", "/sys/")
_DEVICES = "/dev/"
_NOT_DEVICES = ("/dev/shm/", "/dev/hugepages/", "/dev/mqueue/")  # noqa: S108 - looked at, never written
_NODES = frozenset({Place.DEVICE, Place.OWN_DEVICE, Place.SHARED_DEVICE})
_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr")
_DESCRIPTOR_FOLDERS = frozenset({"/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"})
_COMMON = frozenset(
    {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/console"}
)
"""Every process's devices: not a VM's, even where one is named as a disk."""
_MAY_BE_MISSING = frozenset({"/etc/qemu-ifdown"})
"""What QEMU runs by itself, and goes on without (`net/tap.c`)."""
_OWN_FOLDERS = ("bsg/", "bus/usb/", "vfio/devices/")
_OWN_NUMBERED = (
    *("dax", "hidraw", "input/event", "kvmfr", "ng", "sg", "tap", "tpm", "tpmrm", "uio", "usb/hiddev"),
    *("vfio/", "vfio/noiommu-", "vhost-vdpa-"),
)
"""Nodes of one VM, by the beginning of their names in /dev; a number follows."""
_SHARED_FOLDERS = ("dma_heap/", "dri/", "net/", "pts/", "snd/")
_SHARED_NODES = frozenset(
    """
    hpet hwrng iommu kvm mshv sev sgx_enclave sgx_provision sgx_vepc udmabuf vfio/vfio vhost-net vhost-scsi vhost-vsock
    """.split()  # noqa: SIM905 - a table, not a line for each word
)
"""Nodes whose driver keeps its users apart, by their names in /dev."""
_SHARED_NUMBERED = ("audio", "dsp", "mixer", "nvidia")
RENDER_NODE = "/dev/dri/renderD*"
"""Stands for the first render node, which QEMU and Mesa take where none is named (`ui/egl-helpers.c`)."""
_USB_DEVICES = "/sys/bus/usb/devices/"
VFIO_DEVICE = "vfio-dev"
"""In a device's folder in sysfs, a folder named as its own node (`/dev/vfio/devices/vfioN`), for iommufd."""


MODES = {Role.PIDFILE: 0o600, Role.MEMORY: 0o644}
"""How QEMU makes files (`util/oslib-posix.c`, `softmmu/physmem.c`); all others as open(2) with 0666 does."""
IOMMU_GROUP = "iommu_group"
"""In a device's folder in sysfs, a link to the group that VFIO hands out as a whole (`/dev/vfio/NUMBER`)."""


def pci_folder(device: str) -> str:
    """Return the folder in sysfs of a PCI device: given as `[0000:]01:00.0`, or as the folder itself."""
    if "/" in device:
        return device
    return f"/sys/bus/pci/devices/{device if device.count(':') > 1 else f'0000:{device}'}"


def is_pci_folder(folder: str) -> bool:
    """Tell whether a device's folder in sysfs is named by a PCI address, and not as a driver calls a part of it."""
    domain, *rest = posixpath.basename(folder.rstrip("/")).split(":")
    return len(rest) == 2 and rest[1][-2:-1] == "." and domain.isalnum()  # noqa: PLR2004 - bus, slot and function


def is_iommu_group(path: str) -> bool:
    """Tell whether `path` is a device's link to its IOMMU group."""
    return path.startswith("/sys/") and path.endswith(f"/{IOMMU_GROUP}")


def is_vfio_device(path: str) -> bool:
    """Tell whether `path` is the folder in sysfs that names a device's own node of VFIO."""
    return path.startswith("/sys/") and path.endswith(f"/{VFIO_DEVICE}")


def usb_device(wanted: Mapping[str, str]) -> str:
    """Return what stands for a USB device that is named otherwise than by its node: `/sys/…/vendor=1a86,product=7523`.

    The keys are `bus` and `addr` (decimal), `port` (`2.3`), `vendor` and `product` (four hexadecimal digits).
    """
    return _USB_DEVICES + ",".join(f"{key}={value}" for key, value in wanted.items())


def usb_wanted(path: str) -> Mapping[str, str] | None:
    """Return what `usb_device` was given, None where `path` is none of its names."""
    if not path.startswith(_USB_DEVICES) or "=" not in path:
        return None
    return dict(part.split("=", 1) for part in path.removeprefix(_USB_DEVICES).split(","))


def stands_for_a_node(path: str) -> bool:
    """Tell whether `path` is a name in sysfs, or the pattern, by which the host finds a device's node."""
    if not path.startswith("/sys/"):
        return path == RENDER_NODE
    return is_iommu_group(path) or is_vfio_device(path) or usb_wanted(path) is not None


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
        return _device(normal.removeprefix(_DEVICES))
    return Place.SYSTEM if normal.startswith(_INSTALLED) else Place.ELSEWHERE


def _device(name: str) -> Place:
    """Return whose a node is, by its name in /dev."""
    if name.startswith(_OWN_FOLDERS) or _numbered(name, _OWN_NUMBERED):
        return Place.OWN_DEVICE
    shared = name in _SHARED_NODES or name.startswith(_SHARED_FOLDERS) or _numbered(name, _SHARED_NUMBERED)
    return Place.SHARED_DEVICE if shared or name in _SHARED_NUMBERED else Place.DEVICE


def _numbered(name: str, beginnings: tuple[str, ...]) -> bool:
    return any(name.startswith(one) and name[len(one) : len(one) + 1].isdigit() for one in beginnings)


def resource(  # noqa: PLR0913 - the fields of a Resource
    path: str,
    role: Role,
    access: Access,
    source: str,
    *,
    shareable: bool = False,
    format: str | None = None,  # noqa: A002 - the name that the field has
    stated: frozenset[Role] = frozenset(),
    optional: bool = False,
    otherwise: tuple[str, ...] = (),
) -> Resource | None:
    """Return what the plan must know of `path`, or None where it names no file of the host.

    No file: the empty path, and `/dev/fdset/N`. How it is labelled is decided by the table of `labelrules`.
    Nobody makes a device's node that is missing.
    """
    if path == "" or descriptor_set(path):
        return None
    where = place(path)
    if access is Access.CREATE and where in _NODES:
        access = Access.READ_WRITE
    sharing = labelrules.sharing(role, access, where, shareable=shareable)
    return Resource(path, role, access, sharing, source, format, stated=stated, optional=optional, otherwise=otherwise)


def may_be_missing(wanted: Resource) -> bool:
    """Tell whether QEMU finds another file, or does without, where this one is missing.

    A bare name of firmware, a ROM or a keymap is tried in the working directory and then in QEMU's data folders
    (`qemu_find_file`).
    """
    looked_up = wanted.role in _LOOKED_UP and "/" not in wanted.path
    return looked_up or wanted.optional or wanted.path in _MAY_BE_MISSING


def settled(found: Resource, real: str, kind: FileKind) -> Resource:
    """Return the resource as its file turned out to be: behind a link may be a device, or a system's file.

    What names a descriptor keeps its place, because every process has another file behind it; so does a sharing
    that is not the table's.
    """
    written, shareable = place(found.path), found.sharing is Sharing.SHARED
    if found.sharing is not labelrules.sharing(found.role, found.access, written, shareable=shareable):
        return found
    stays = written in (Place.DESCRIPTOR, Place.KERNEL) and not stands_for_a_node(found.path)
    there = written if stays else place(real)
    known = None if kind is FileKind.MISSING else kind
    rule = labelrules.row(found.role, found.access, there, shareable=shareable, kind=known)
    return found if rule is None or rule.sharing is found.sharing else replace(found, sharing=rule.sharing)


def rule(found: Resource) -> labelrules.Row | None:
    """Return the table's row for a resource whose file has not been looked at, None where it has no rule."""
    return labelrules.row(found.role, found.access, place(found.path), shareable=found.sharing is Sharing.SHARED)


def _normal(path: str) -> str:
    """Return `path` without `.`, `..` and doubled slashes, as far as text can tell."""
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal
