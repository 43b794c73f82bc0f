"""Image headers written byte by byte: what qemu-img would refuse to write, a hostile hand does.

The layout is that of QEMU's `docs/interop/qcow2.txt`.
"""

from __future__ import annotations

import os
import struct
import subprocess

BACKING_FORMAT, FEATURE_NAMES, DATA_FILE, UNKNOWN, END = 0xE2792ACA, 0x6803F857, 0x44415441, 0x4E4F4E45, 0
_BACKING = struct.Struct(">QI")
_EXTENSION = struct.Struct(">II")
_BACKING_AT, _FEATURES_AT, _LENGTH_AT = 8, 72, 100
_EXTERNAL_DATA = 1 << 2
_LENGTH = 104


def qcow2(path: str, backing: bytes = b"", *extensions: tuple[int, bytes]) -> None:
    """Write a qcow2 of 1 MiB with this backing name and these extensions, in this order."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    table = b"".join(
        _EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in (*extensions, (END, b""))
    )
    with open(path, "r+b") as file:
        header = bytearray(file.read(_LENGTH))
        struct.pack_into(">I", header, _LENGTH_AT, _LENGTH)
        if any(kind == DATA_FILE for kind, _ in extensions):
            struct.pack_into(">Q", header, _FEATURES_AT, _EXTERNAL_DATA)
        if backing:
            _BACKING.pack_into(header, _BACKING_AT, _LENGTH + len(table), len(backing))
        file.seek(0)
        file.write(bytes(header) + table + backing)


def overlay(path: str, backing: str, form: str) -> None:
    """Write a qcow2 on a backing file whose name need not exist, nor be sensible."""
    qcow2(path, os.fsencode(backing), (BACKING_FORMAT, form.encode()))


def vmdk(path: str, *extents: str) -> None:
    """Write a vmdk's descriptor over flat extents of 1 MiB."""
    lines = ["# Disk DescriptorFile", "version=1", "CID=1", "parentCID=ffffffff", 'createType="twoGbMaxExtentFlat"']
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join([*lines, *(f'RW 2048 FLAT "{extent}" 0' for extent in extents), ""]))
