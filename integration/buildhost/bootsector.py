"""A VM of 512 bytes, for tests that need a guest and not an operating system: it boots in a moment, nested too.

It prints `guest: ready` on the first serial port and echoes what it is sent; `q` powers the machine off (QEMU
exits 0), `x` writes to the debug-exit port (QEMU exits 33, with `-device isa-debug-exit`).
"""

from __future__ import annotations

MARKER = b"guest: ready"
EXIT_BY_DEBUG_PORT = 33
SIZE = 1 << 20
"""Bytes of the image: more than a sector, so that every firmware takes it for a disk."""

_ORIGIN = 0x7C00
_CODE = bytes.fromhex(
    "31c0 8ed8 fb"  # xor ax,ax; mov ds,ax; sti
    "be 0000"  # mov si,message (patched)
    "baf803"  # mov dx,COM1
    "ac 84c0 7403 ee ebf8"  # print: lodsb; test al,al; jz wait; out dx,al; jmp print
    "f4 bafd03 ec a801 74f7"  # wait: hlt (the timer wakes it); line status; data ready?
    "baf803 ec"  # in al,COM1
    "3c71 7407"  # cmp al,'q'; je off
    "3c78 740c"  # cmp al,'x'; je debug
    "ee ebe8"  # out dx,al; jmp wait
    "ba0406 b80020 ef"  # off: ACPI soft-off of the pc machine (PM1a_CNT, S5)
    "ebfe"  # jmp $
    "b010 e6f4"  # debug: out 0xf4,16 -> exit code 33
    "ebfe"
)
_MESSAGE_AT = 6


def image() -> bytes:
    """Return the disk: boot sector, signature, zeros."""
    code = bytearray(_CODE)
    code[_MESSAGE_AT : _MESSAGE_AT + 2] = (_ORIGIN + len(code)).to_bytes(2, "little")
    sector = bytes(code) + MARKER + b"\r\n\0"
    return (sector.ljust(510, b"\0") + b"\x55\xaa").ljust(SIZE, b"\0")


if __name__ == "__main__":
    import sys

    with open(sys.argv[1], "wb") as file:
        file.write(image())
