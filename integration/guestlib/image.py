"""The test image linux-0.2.img: a small disk that boots from IDE through a boot loader to a shell on both consoles.

QEMU's old test image of that name prints on the screen and the serial line, takes commands and powers off. Where a
person has the original (it can be downloaded no more from everywhere), it is used; else one that does the same job is
built from Debian's kernel and busybox.
"""

import bz2
import functools
import hashlib
import os

from integration.guestlib import base, bootdisk, cache, initramfs, programs
from integration.guestlib.report import GuestError, progress

FOLDER = os.path.join(programs.checkout(), "integration", "image")
NAME = "linux-0.2.img"
ORIGINAL = f"{NAME}.bz2"
ORIGINAL_SHA256 = "41c222db3c669724dd202d2f0fe655ad88f847d8c263ed08bb90219082e7b423"
# sd_mod comes last: its loading waits until the disks that ata_piix found are there.
_ORIGINAL_KIND = "linux-original"
MODULES = ["ata_piix", "sd_mod"]
# Both consoles; the rest saves probing that takes seconds where every exit to the machine's emulation is slow.
COMMAND_LINE = "console=tty0 console=ttyS0 quiet nokaslr mitigations=off tsc=reliable no_timer_check edd=off"


def image() -> str:
    """Return the path of linux-0.2.img: the original where a person put it, else the built one."""
    for folder in (FOLDER, cache.folder()):
        packed = os.path.join(folder, ORIGINAL)
        if os.path.exists(packed):
            unpack = functools.partial(_unpack, packed)
            return _named(cache.entry(_ORIGINAL_KIND, ORIGINAL_SHA256[: cache.KEY_LENGTH], unpack))
    key = cache.digest(
        base.key(), *MODULES, cache.digest_files(FOLDER, __file__, bootdisk.__file__, initramfs.__file__)
    )
    return _named(cache.entry("linux-image", key, _build))


def is_original(path: str) -> bool:
    """Tell whether an image is the original, whose shell may be on the screen only."""
    return os.path.basename(os.path.dirname(path)).startswith(_ORIGINAL_KIND)


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
    with open(os.path.join(root, "boot", f"vmlinuz-{initramfs.kernel_version(root)}"), "rb") as file:
        kernel = file.read()
    with open(os.path.join(FOLDER, "init.sh"), encoding="ascii") as text:
        init = text.read()
    initrd = initramfs.build(root, MODULES, init)
    loader = bootdisk.assembled(os.path.join(FOLDER, "loader.S"), folder)
    bootdisk.write(_named(folder), loader, kernel, initrd, COMMAND_LINE)
    cache.remove(root)
