"""Where files are mounted: reads the kernel's table of mounts, once, and only when a file asks for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from confined_qemu.host import mountinfo, walk
from confined_qemu.model.errors import HostError, why
from confined_qemu.model.frozen import replace

if TYPE_CHECKING:
    from confined_qemu.model.facts import Mount

_TABLE = "/proc/self/mountinfo"
_LOOP = "/dev/loop"


class Mounts:
    """The table of mounts as it was when a file first asked for it."""

    def __init__(self) -> None:
        self._text: str | None = None

    def of(self, descriptor: int) -> Mount | None:
        """Return the mount of an open (O_PATH) descriptor, None where the kernel shows none.

        Raises:
            HostError: /proc cannot be read.
        """
        number = walk.mount_number(descriptor)
        if number is None:
            return None
        if self._text is None:
            self._text = _read(_TABLE)
        found = mountinfo.find(self._text, number)
        if found is None or (found.labels and not found.read_only):
            return found  # nobody will be told to mount it anew
        return replace(found, source=_lasting(found.source))


def _lasting(source: str) -> str:
    """Return the file behind a loop device that goes away with its mount (`mount -o loop`), else `source`."""
    if not source.startswith(_LOOP):
        return source
    # not by the links in /sys/block, which the launcher's domain does not read
    folder = f"/sys/devices/virtual/block/{os.path.basename(source)}/loop"
    try:
        ends = _read(f"{folder}/autoclear").strip() == "1"
        return _read(f"{folder}/backing_file").removesuffix("\n") if ends else source
    except HostError:
        return source


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read())
    except OSError as error:
        raise HostError(f"the table of mounts cannot be read: {why(error)}", where=path) from error
