"""Devices as the kernel shows them: which others overlap a block device, and what uses it already."""

from __future__ import annotations

import os
import stat

from confined_qemu.model import hostpaths
from confined_qemu.model.errors import HINT, HostError, shell_word, why
from confined_qemu.model.facts import FileKind, Identity
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK = "/sys/dev/block"
_SWAPS = "/proc/swaps"
_VFIO = "/dev/vfio"
_USB = "/sys/bus/usb/devices"
_BUS = "/dev/bus/usb"
_RENDER = "/dev/dri"
_HUB = "09"
"""The class of a hub (`bDeviceClass`)."""


def identity(mode: int, number: int) -> Identity | None:
    """Return which device a node stands for, whatever the node is called; None where it is no device.

    `number` is the node's `st_rdev`, `mode` its `st_mode`. Two nodes made with mknod may be one device.
    """
    if stat.S_ISBLK(mode):
        return Identity.of_device(FileKind.BLOCK, number)
    return Identity.of_device(FileKind.CHARACTER, number) if stat.S_ISCHR(mode) else None


def node(path: str) -> tuple[str, str | None]:
    """Return the node that a name in sysfs or a pattern stands for, or why there is none; another path as it is."""
    if hostpaths.is_iommu_group(path):
        return vfio_node(path)
    if hostpaths.is_vfio_device(path):
        return _vfio_device(path)
    wanted = hostpaths.usb_wanted(path)
    if wanted is not None:
        return _usb_node(path, wanted)
    if path == hostpaths.RENDER_NODE:
        numbered = sorted(name for name in _names(_RENDER) if name.startswith("renderD"))
        return os.path.join(_RENDER, numbered[0] if numbered else "renderD128"), None
    return path, None


def _vfio_device(folder: str) -> tuple[str, str | None]:
    """Return the node of a device that VFIO hands out by itself, for an iommufd."""
    names = _names(folder)
    if not names:
        return folder, f"VFIO has no node for this device{HINT}give it to the driver vfio-pci, on Linux 6.6 or later"
    return os.path.join(_VFIO, "devices", names[0]), None


def _usb_node(path: str, wanted: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the node of the first USB device that is as `wanted`; no hub is one, as in QEMU."""
    found = [numbers for name in _names(_USB) if (numbers := _usb_numbers(name, wanted)) is not None]
    if not found:
        return path, f"no such USB device{HINT}see: lsusb"
    bus, address = min(found)
    return f"{_BUS}/{bus:03}/{address:03}", None


def _usb_numbers(name: str, wanted: Mapping[str, str]) -> tuple[int, int] | None:
    """Return bus and address of a USB device's folder in sysfs (`1-2.3`) that is as `wanted`."""
    bus, dash, port = name.partition("-")
    folder = os.path.join(_USB, name)
    if not (dash and bus.isdecimal()) or ":" in name or _word(folder, "bDeviceClass") == _HUB:
        return None
    found = {
        "bus": _word(folder, "busnum"),
        "addr": _word(folder, "devnum"),
        "port": port,
        "vendor": _word(folder, "idVendor"),
        "product": _word(folder, "idProduct"),
    }
    numbers = found["bus"], found["addr"]
    if not all(number.isdecimal() for number in numbers) or any(found.get(key) != wanted[key] for key in wanted):
        return None
    return int(numbers[0]), int(numbers[1])


def _word(folder: str, name: str) -> str:
    try:
        return _read(os.path.join(folder, name)).strip()
    except HostError:
        return ""  # unplugged meanwhile


def vfio_node(link: str) -> tuple[str, str | None]:
    """Return the node of the IOMMU group that a device's link in sysfs leads to, or why there is none."""
    if not os.path.exists(link):
        return link, f"no such device, or no IOMMU holds it{HINT}boot with intel_iommu=on or amd_iommu=on"
    node = os.path.join(_VFIO, os.path.basename(os.path.realpath(link)))
    if os.path.exists(node):
        return node, None
    return node, f"VFIO does not have this group{HINT}give its devices to the driver vfio-pci"


def overlapping(number: int) -> tuple[int, ...]:
    """Return the numbers of a block device and of those that share bytes with it: its disk, or its partitions.

    Raises:
        HostError: sysfs cannot be read.
    """
    return tuple(_overlapping(number))


def used(number: int) -> str | None:
    """Return what uses a block device, or one that overlaps it, and how to end that; None where nothing does.

    Another process that has it open is not seen: only a raw read could show that, and the launcher may not.

    Raises:
        HostError: sysfs or /proc cannot be read.
    """
    mounts, swaps = _mounts(), _swaps()
    for device, name in _overlapping(number).items():
        which = "it is" if device == number else f"its {'partition' if _is_part(device) else 'disk'} {name} is"
        if device in mounts:
            return f"{which} mounted on {mounts[device]}{HINT}run: umount {shell_word(mounts[device])}"
        if device in swaps:
            return f"{which} swap space{HINT}run: swapoff {shell_word(swaps[device])}"
        held = _names(os.path.join(_folder(device), "holders"))
        if held:
            return f"{which} held by {', '.join(held)}{HINT}see: lsblk /dev/{name}"
    return None


def _folder(number: int) -> str:
    return os.path.realpath(f"{_BLOCK}/{os.major(number)}:{os.minor(number)}")


def _is_part(number: int) -> bool:
    return os.path.exists(os.path.join(_folder(number), "partition"))


def _overlapping(number: int) -> dict[int, str]:
    """Return number and name of each: the device itself first."""
    folder = _folder(number)
    found = {number: os.path.basename(folder)}
    if os.path.exists(os.path.join(folder, "partition")):
        others = [os.path.dirname(folder)]
    else:
        inner = [os.path.join(folder, name) for name in _names(folder)]
        others = [path for path in inner if os.path.exists(os.path.join(path, "partition"))]
    for path in others:
        major, _, minor = _read(os.path.join(path, "dev")).strip().partition(":")
        found[os.makedev(int(major), int(minor))] = os.path.basename(path)
    return found


def _mounts() -> dict[int, str]:
    """Return where each block device is mounted; a file system with a number of its own (btrfs) by its source."""
    from confined_qemu.host import mounts

    found: dict[int, str] = {}
    for row in mounts.rows():
        found.setdefault(row.device, row.target)
        number = _number(row.source)
        if number is not None:
            found.setdefault(number, row.target)
    return found


def _swaps() -> dict[int, str]:
    from confined_qemu.host import mounts

    paths = [mounts.plain(line.split(" ")[0].split("\t")[0]) for line in _read(_SWAPS).splitlines()[1:]]
    return {number: path for path in paths if (number := _number(path)) is not None}


def _number(path: str) -> int | None:
    """Return a block device's number, None where `path` is none."""
    if not path.startswith("/"):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None  # a name of another mount namespace
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else None


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"cannot be read: {why(error)}", where=folder) from error


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        raise HostError(f"cannot be read: {why(error)}", where=path) from error
