"""A VM without an operating system: a firmware of 64 KiB that is up the moment QEMU is, nested too.

It prints `guest: ready` on the first serial port, sleeps, and echoes what it is sent; `q` resets the machine (QEMU
exits 0 with `-no-reboot`), `x` writes to the debug-exit port (QEMU exits 33).
"""

from __future__ import annotations

import os

MARKER = b"guest: ready"
EXIT_BY_DEBUG_PORT = 33
ROM = "/usr/share/confined-qemu-test/guest.rom"
"""A system's file, as any firmware: every VM may read it."""
ARGUMENTS = ("-no-reboot", "-bios", ROM)

_SIZE = 1 << 16
_RESET_VECTOR = 0xFFF0
_JUMP_TO_START = bytes.fromhex("ea000000f0")
_CODE = bytes.fromhex(
    "8cc8 8ed8 31c0 8ec0 8ed0 bc0070"  # ds = cs; es = ss = 0; sp = 0x7000
    "66b91b000000 0f32 80e4f7 0f30"  # local interrupt controller off: the old one reaches the CPU
    "26c70630007e00 26c706320000f0"  # interrupt 0x0c (the serial port's) -> handler
    "b011e620 b008e621 b004e621 b001e621 b0efe621"  # interrupt controller: only the serial port
    "baf903 b001ee bafc03 b00bee"  # serial port: interrupt when a byte has come
    "be8500 baf803 ac 84c0 7403 ee ebf8"  # print the message
    "fa bafd03 ec a801 7504 fb f4 ebf3"  # wait: sleep until a byte is there
    "baf803 ec 3c71 7407 3c78 7409 ee ebe4"  # 'q'? 'x'? echo
    "b0fee664 ebfe"  # q: reset by the keyboard controller
    "b010e6f4 ebfe"  # x: the debug-exit port
    "50 b020e620 58 cf"  # handler: end of interrupt
)
_DEBUG_WRITE = bytes.fromhex("b010e6f4")
"""The value, and the write: QEMU exits with twice the value and one."""


def firmware(debug_value: int = EXIT_BY_DEBUG_PORT >> 1) -> bytes:
    """Return the firmware's 64 KiB; `debug_value` is the byte that it writes to the debug-exit port."""
    code = _CODE.replace(_DEBUG_WRITE, bytes((0xB0, debug_value)) + _DEBUG_WRITE[2:])
    start = code + MARKER + b"\r\n\0"
    return start.ljust(_RESET_VECTOR, b"\0") + _JUMP_TO_START.ljust(_SIZE - _RESET_VECTOR, b"\0")


def install() -> None:
    """Put the firmware where the VMs of the tests find it."""
    os.makedirs(os.path.dirname(ROM), exist_ok=True)
    with open(ROM, "wb") as file:
        file.write(firmware())
