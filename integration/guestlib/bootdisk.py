"""Writes a disk that boots Linux from the MBR: our boot loader, a table of what it loads, kernel and initramfs.

No file system: the loader is given sector numbers. See integration/image/loader.S for why it is our own.
"""

import os
import struct

from integration.guestlib import programs
from integration.guestlib.report import GuestError

SECTOR = 512
LOADER_ADDRESS = 0x7C00
TABLE = 3 * SECTOR  # the table's place in the loader
PARTITION_TABLE = 446
PARTITION_START = 64  # sectors
ACTIVE, NOT_A_FILE_SYSTEM = 0x80, 0xDA
# Where Linux's parts go (Documentation/arch/x86/boot.rst): real-mode part, its heap, command line, kernel.
SETUP_ADDRESS = 0x10000
HEAP_END = 0xDE00
COMMAND_LINE_ADDRESS = 0x1E000
KERNEL_ADDRESS = 0x100000
MEGABYTE = 1 << 20
MEMORY = 126 * MEGABYTE  # the smallest machine that it boots on has 128M, a little of it is the firmware's
UNKNOWN_LOADER, CAN_USE_HEAP = 0xFF, 0x80
PROTOCOL = 0x020A  # the first one whose header says how much room the kernel needs


def write(path: str, loader: bytes, kernel: bytes, initrd: bytes, command_line: str) -> None:
    """Write the disk.

    Args:
        path: where.
        loader: integration/image/loader.S, assembled.
        kernel: a bzImage.
        initrd: an initramfs.
        command_line: the kernel's.
    """
    setup_size = ((kernel[0x1F1] or 4) + 1) * SECTOR
    initrd_address = _initrd_address(kernel, len(initrd))
    setup = _patched(kernel[:setup_size], initrd_address, len(initrd))
    parts = [
        (setup, SETUP_ADDRESS),
        (command_line.encode("ascii").ljust(SECTOR, b"\0"), COMMAND_LINE_ADDRESS),
        (kernel[setup_size:], KERNEL_ADDRESS),
        (initrd, initrd_address),
    ]
    table, body = b"", b""
    for data, address in parts:
        padded = data + bytes(-len(data) % SECTOR)
        table += struct.pack("<III", PARTITION_START + len(body) // SECTOR, len(padded) // SECTOR, address)
        body += padded
    body += bytes(-len(body) % MEGABYTE)
    head = bytearray(loader.ljust(PARTITION_START * SECTOR, b"\0"))
    head[TABLE : TABLE + len(table)] = table
    # status, first CHS, type, last CHS (both "beyond CHS": loaders take the LBA fields), first sector, sectors
    beyond = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", ACTIVE, beyond, NOT_A_FILE_SYSTEM, beyond, PARTITION_START, len(body) // SECTOR)
    head[PARTITION_TABLE : PARTITION_TABLE + len(entry)] = entry
    with open(path, "wb") as disk:
        disk.write(head + body)


def assembled(source: str, folder: str) -> bytes:
    """Return the machine code of the boot loader; `folder` holds what is made on the way."""
    made, binary = os.path.join(folder, "loader.o"), os.path.join(folder, "loader.bin")
    programs.run(["as", "--32", "-o", made, source])
    programs.run(["ld", "-m", "elf_i386", f"-Ttext={LOADER_ADDRESS:#x}", "--oformat=binary", "-o", binary, made])
    with open(binary, "rb") as file:
        code = file.read()
    os.unlink(made)
    os.unlink(binary)
    return code


def _initrd_address(kernel: bytes, size: int) -> int:
    """Return where the initramfs is out of the kernel's way while it unpacks itself."""
    magic, protocol = struct.unpack_from("<4sH", kernel, 0x202)
    if magic != b"HdrS" or protocol < PROTOCOL:
        raise GuestError(f"the kernel is no bzImage of boot protocol {PROTOCOL:#x} or later")
    preferred, room = struct.unpack_from("<QI", kernel, 0x258)
    address: int = -(-(preferred + room) // MEGABYTE) * MEGABYTE
    if address + size > MEMORY:
        raise GuestError(f"kernel and initramfs need {(address + size) // MEGABYTE} MiB of memory; too much")
    return address


def _patched(setup: bytes, initrd_address: int, initrd_size: int) -> bytes:
    """Return the kernel's real-mode part with the boot loader's fields filled in."""
    made = bytearray(setup)
    made[0x210] = UNKNOWN_LOADER
    made[0x211] |= CAN_USE_HEAP
    struct.pack_into("<II", made, 0x218, initrd_address, initrd_size)
    struct.pack_into("<H", made, 0x224, HEAP_END - 0x200)
    struct.pack_into("<I", made, 0x228, COMMAND_LINE_ADDRESS)
    return bytes(made)
