"""The test image linux-0.2.img: a small disk that boots from IDE through a boot loader to a shell on both consoles.

QEMU's old test image of that name prints on the screen and the serial line, takes commands and powers off. Where a
person has the original (it can be downloaded no more from everywhere), it is used; else one that does the same job is
built from Debian's kernel and busybox.
"""

import bz2
import functools
import hashlib
import lzma
import os
import shutil
import struct

from integration.guestlib import base, cache, initramfs, programs
from integration.guestlib.report import GuestError, progress

FOLDER = os.path.join(programs.checkout(), "integration", "image")
NAME = "linux-0.2.img"
ORIGINAL = f"{NAME}.bz2"
ORIGINAL_SHA256 = "41c222db3c669724dd202d2f0fe655ad88f847d8c263ed08bb90219082e7b423"
# sd_mod comes last: its loading waits until the disks that ata_piix found are there.
MODULES = ["ata_piix", "sd_mod"]
SECTOR = 512
PARTITION_START = 63  # sectors; a track, as old boot loaders want it
HEADS, TRACK = 16, 63  # the geometry that SeaBIOS gives a disk of this size
SPARE = 1024 * 1024  # bytes left for the boot loader and the file system's own tables
FAT16_ACTIVE = (0x80, 0x0E)
MBR = "/usr/lib/syslinux/mbr/mbr.bin"


def image() -> str:
    """Return the path of linux-0.2.img: the original where a person put it, else the built one."""
    for folder in (FOLDER, cache.folder()):
        packed = os.path.join(folder, ORIGINAL)
        if os.path.exists(packed):
            unpack = functools.partial(_unpack, packed)
            return _named(cache.entry("linux-original", ORIGINAL_SHA256[: cache.KEY_LENGTH], unpack))
    key = cache.digest(base.key(), *MODULES, cache.digest_files(FOLDER, __file__, initramfs.__file__))
    return _named(cache.entry("linux-image", key, _build))


def _named(folder: str) -> str:
    return os.path.join(folder, NAME)


def _unpack(packed: str, folder: str) -> None:
    with open(packed, "rb") as file:
        data = file.read()
    found = hashlib.sha256(data).hexdigest()
    if found != ORIGINAL_SHA256:
        raise GuestError(f"{packed}: sha256 is {found}, not the original's {ORIGINAL_SHA256}; remove or replace it")
    progress(f"unpacking the original {packed}")
    os.mkdir(folder)
    with open(_named(folder), "wb") as file:
        file.write(bz2.decompress(data))


def _build(folder: str) -> None:
    archive = base.layer()
    progress(f"building {NAME}")
    root = os.path.join(folder, "root")
    os.makedirs(root)
    parts = ["./boot", "./bin", "./lib", "./usr/bin/busybox", "./usr/lib/modules"]
    programs.run(["tar", "-C", root, "-xf", archive, *parts])
    kernel = os.path.join(folder, "vmlinuz")
    initrd = os.path.join(folder, "initrd")
    shutil.copy(os.path.join(root, "boot", f"vmlinuz-{initramfs.kernel_version(root)}"), kernel)
    with open(os.path.join(FOLDER, "init.sh"), encoding="ascii") as file:
        init = file.read()
    with open(initrd, "wb") as output:
        # SeaBIOS reads an IDE disk word by word: under nested KVM that is 200 KB a second, so every byte counts.
        output.write(lzma.compress(initramfs.build(root, MODULES, init), check=lzma.CHECK_CRC32))
    _write_disk(_named(folder), [kernel, initrd, os.path.join(FOLDER, "syslinux.cfg")])
    for made in (root, kernel, initrd):
        cache.remove(made)


def _write_disk(path: str, files: list[str]) -> None:
    """Make a disk with one bootable FAT partition that holds `files`, without mounting anything."""
    wanted = sum(os.path.getsize(file) for file in files) + SPARE
    cylinder = HEADS * TRACK
    total = -(-wanted // (SECTOR * cylinder)) * cylinder + cylinder
    size = total - PARTITION_START
    with open(MBR, "rb") as file:
        loader = file.read()
    active, kind = FAT16_ACTIVE
    # status, first CHS, type, last CHS (both "beyond CHS": loaders take the LBA fields), first sector, sectors
    entry = struct.pack("<B3sB3sII", active, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", PARTITION_START, size)
    table = entry + bytes(3 * len(entry)) + b"\x55\xaa"
    with open(path, "wb") as disk:
        disk.write(loader.ljust(SECTOR - len(table), b"\0") + table)
        disk.truncate(total * SECTOR)
    offset = PARTITION_START * SECTOR
    inside = f"{path}@@{offset}"
    geometry = ["-H", str(PARTITION_START), "-h", str(HEADS), "-s", str(TRACK), "-T", str(size)]
    # -N: a fixed serial number, so that the same recipe makes the same image.
    programs.run(["mformat", "-i", inside, *geometry, "-c", "4", "-N", "02020202", "::"])
    programs.run(["mcopy", "-i", inside, *files, "::"])
    programs.run(["syslinux", "--install", "--offset", str(offset), path])
