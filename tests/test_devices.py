"""Block devices: what overlaps what, and what uses one already, from a sysfs made of folders."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import devices, mounts
from confined_qemu.model import hostpaths
from confined_qemu.model.errors import HostError
from confined_qemu.model.facts import FileKind, Identity

if TYPE_CHECKING:
    from pathlib import Path

SDA, SDA1, SDA2, SDB, SDB1 = (os.makedev(8, minor) for minor in (0, 1, 2, 16, 17))
DM = os.makedev(253, 0)
NAMES = {"/dev/sda1": SDA1, "/dev/sdb": SDB, "/dev/sdb1": SDB1, "/dev/sda2": SDA2}
TREE = {"sda": SDA, "sda/sda1": SDA1, "sda/sda2": SDA2, "sdb": SDB, "sdb/sdb1": SDB1, "dm-0": DM}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two disks, one with two partitions, and a device-mapper volume; nothing is in use."""
    links = tmp_path / "dev-block"
    links.mkdir()

    def device(folder: Path, number: int) -> None:
        (folder / "holders").mkdir(parents=True)
        (folder / "dev").write_text(f"{os.major(number)}:{os.minor(number)}\n")
        (links / f"{os.major(number)}:{os.minor(number)}").symlink_to(folder)

    for place, number in TREE.items():
        device(tmp_path / "block" / place, number)
        if "/" in place:
            (tmp_path / "block" / place / "partition").write_text("1\n")
    monkeypatch.setattr(devices, "_BLOCK", str(links))
    monkeypatch.setattr(mounts, "_TABLE", str(tmp_path / "mountinfo"))
    monkeypatch.setattr(devices, "_SWAPS", str(tmp_path / "swaps"))
    monkeypatch.setattr(devices, "_number", NAMES.get)
    (tmp_path / "mountinfo").write_text("22 1 0:20 / /proc rw shared:2 - proc proc rw\n")
    (tmp_path / "swaps").write_text("Filename\tType\n")
    return tmp_path


def mount(host: Path, number: str, where: str, source: str) -> None:
    with open(host / "mountinfo", "a", encoding="ascii") as file:
        file.write(f"30 22 {number} / {where} rw,noatime shared:1 - ext4 {source} rw\n")


def test_a_disk_and_its_partitions_overlap_and_two_partitions_do_not(host: Path) -> None:
    assert host.exists()
    assert devices.overlapping(SDA) == (SDA, SDA1, SDA2)
    assert devices.overlapping(SDA1) == (SDA1, SDA)
    assert devices.overlapping(SDB1) == (SDB1, SDB)
    assert devices.overlapping(DM) == (DM,)
    assert devices.used(SDA) is devices.used(SDA1) is devices.used(DM) is None


def test_a_mounted_partition_is_its_disks_use_and_not_its_neighbours(host: Path) -> None:
    mount(host, "8:1", "/srv/a\\040b", "/dev/sda1")
    assert devices.used(SDA1) == "it is mounted on /srv/a b\0run: umount '/srv/a b'"
    assert devices.used(SDA) == "its partition sda1 is mounted on /srv/a b\0run: umount '/srv/a b'"
    assert devices.used(SDA2) is None


def test_a_mounted_disk_is_its_partitions_use(host: Path) -> None:
    mount(host, "8:16", "/mnt", "/dev/sdb")
    assert devices.used(SDB1) == "its disk sdb is mounted on /mnt\0run: umount /mnt"


def test_a_file_system_with_a_number_of_its_own_is_found_by_its_source(host: Path) -> None:
    mount(host, "0:42", "/home", "/dev/sda2")
    assert devices.used(SDA2) == "it is mounted on /home\0run: umount /home"


def test_swap(host: Path) -> None:
    (host / "swaps").write_text("Filename\tType\n/dev/sdb1 partition 1 0 -2\n/swapfile file 1 0 -3\n")
    assert devices.used(SDB) == "its partition sdb1 is swap space\0run: swapoff /dev/sdb1"


def test_a_holder(host: Path) -> None:
    (host / "block/sda/sda2/holders/dm-0").write_text("")
    assert devices.used(SDA2) == "it is held by dm-0\0see: lsblk /dev/sda2"


def test_what_cannot_be_read_is_never_unused(host: Path) -> None:
    (host / "mountinfo").unlink()
    with pytest.raises(HostError, match="cannot be read"):
        devices.used(SDA)


def test_a_vfio_group_is_found_by_its_devices_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_VFIO", str(tmp_path / "vfio"))
    (tmp_path / "groups/7").mkdir(parents=True)
    link = tmp_path / "iommu_group"
    assert "no IOMMU holds it\0boot with intel_iommu=on" in str(devices.vfio_node(str(link))[1])
    link.symlink_to(tmp_path / "groups/7")
    assert "VFIO does not have this group" in str(devices.vfio_node(str(link))[1])
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio/7").write_text("")
    assert devices.vfio_node(str(link)) == (str(tmp_path / "vfio/7"), None)


def test_a_device_is_itself_under_any_name() -> None:
    assert devices.identity(stat.S_IFBLK | 0o600, SDA) == Identity.of_device(FileKind.BLOCK, SDA)
    assert devices.identity(stat.S_IFCHR, SDA) == Identity.of_device(FileKind.CHARACTER, SDA)
    assert devices.identity(stat.S_IFBLK, SDA) != devices.identity(stat.S_IFCHR, SDA)
    assert devices.identity(stat.S_IFREG, SDA) is None


# ---- devices that are named otherwise than by their nodes

STICK, DONGLE, TWIN = ("1-2", 5), ("1-2.3", 7), ("3-1", 2)


@pytest.fixture
def usb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub, a stick behind it, a dongle at the stick's number of port, and its twin on another bus."""

    def plug(name: str, number: int, vendor: str, product: str, kind: str = "00") -> None:
        folder = tmp_path / name
        folder.mkdir()
        words = {"busnum": name[0], "devnum": number, "idVendor": vendor, "idProduct": product, "bDeviceClass": kind}
        for key, value in words.items():
            (folder / key).write_text(f"{value}\n")

    monkeypatch.setattr(devices, "_USB", str(tmp_path))
    plug("usb1", 1, "1d6b", "0002", "09")
    plug("1-1", 2, "05e3", "0610", "09")
    plug(*STICK, "0951", "1666")
    plug(*DONGLE, "1a86", "7523")
    plug(*TWIN, "1a86", "7523")
    (tmp_path / "1-2:1.0").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "node"),
    [
        ({"bus": "1", "port": "2"}, "/dev/bus/usb/001/005"),
        ({"bus": "1", "port": "2.3"}, "/dev/bus/usb/001/007"),
        ({"port": "1"}, "/dev/bus/usb/003/002"),
        ({"vendor": "1a86", "product": "7523"}, "/dev/bus/usb/001/007"),
        ({"vendor": "1a86", "bus": "3"}, "/dev/bus/usb/003/002"),
        ({"vendor": "0951"}, "/dev/bus/usb/001/005"),
        ({"addr": "2"}, "/dev/bus/usb/003/002"),
    ],
)
@pytest.mark.usefixtures("usb")
def test_a_usb_device_is_found_by_what_it_is_called(wanted: dict[str, str], node: str) -> None:
    assert devices.node(hostpaths.usb_device(wanted)) == (node, None)


@pytest.mark.parametrize("wanted", [{"port": "9"}, {"vendor": "05e3"}, {"bus": "2", "port": "2"}, {"unknown": "1"}])
def test_a_usb_device_that_is_not_there_or_a_hub_is_told(usb: Path, wanted: dict[str, str]) -> None:
    assert usb.exists()
    path = hostpaths.usb_device(wanted)
    assert devices.node(path) == (path, "no such USB device\0see: lsusb")


def test_a_device_with_its_own_vfio_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"{tmp_path}/{hostpaths.VFIO_DEVICE}"
    monkeypatch.setattr(hostpaths, "is_vfio_device", lambda path: path == folder)
    assert "VFIO has no node for this device" in str(devices.node(folder)[1])
    (tmp_path / hostpaths.VFIO_DEVICE / "vfio4").mkdir(parents=True)
    assert devices.node(folder) == ("/dev/vfio/devices/vfio4", None)


def test_the_first_render_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_RENDER", str(tmp_path))
    assert devices.node(hostpaths.RENDER_NODE) == (f"{tmp_path}/renderD128", None)
    for name in ("card0", "renderD130", "renderD129"):
        (tmp_path / name).write_text("")
    assert devices.node(hostpaths.RENDER_NODE) == (f"{tmp_path}/renderD129", None)
    assert devices.node("/dev/dri/renderD130") == ("/dev/dri/renderD130", None)
