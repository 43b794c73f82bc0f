"""Where files are mounted: the mount of an open file, from the kernel's table (proc(5), /proc/PID/mountinfo).

The table is read once, and only when a file asks for it.
"""

from __future__ import annotations

import os

from confined_qemu.model.errors import HostError, why
from confined_qemu.model.facts import Mount
from confined_qemu.model.lean import dataclass, replace

_TABLE = "/proc/self/mountinfo"
_LOOP = "/dev/loop"
_FIRST_OPTIONAL = 6
"""Fields before the optional ones: number, parent, device, root, target, options; ` - ` ends the optional ones."""
_SHOWN_ELSEWHERE = frozenset({"nfs", "nfs4", "cifs", "smb3"})
"""File systems whose source names the very folder that is mounted, whatever the kernel calls its root."""


@dataclass(frozen=True, slots=True)
class MountRow:
    """A line of the table as the kernel wrote it; names are plain."""

    device: int
    """The file system's number, `st_dev` of what is on it: a block device's, or one that stands for none."""
    root: str
    target: str
    options: str
    type: str
    source: str
    of_super: str
    """The options of the whole file system."""


class Mounts:
    """The table of mounts as it was when a file first asked for it."""

    def __init__(self) -> None:
        self._text: str | None = None

    def of(self, descriptor: int) -> Mount | None:
        """Return the mount of an open (O_PATH) descriptor, None where the kernel shows none.

        Raises:
            HostError: /proc cannot be read.
        """
        number = number_of(descriptor)
        if number is None:
            return None
        if self._text is None:
            self._text = _read(_TABLE)
        found = find(self._text, number)
        if found is None or (found.labels and not found.read_only):
            return found  # nobody will be told to mount it anew
        return replace(found, source=_lasting(found.source))


def number_of(descriptor: int) -> int | None:
    """Return the number of the mount that an open descriptor is on (proc(5), `mnt_id`); a bind mount has its own.

    Raises:
        HostError: /proc cannot be read.
    """
    path = f"/proc/self/fdinfo/{descriptor}"
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(number, 4096)
        finally:
            os.close(number)
    except OSError as error:
        raise HostError(f"the mount of an open file cannot be read: {why(error)}", where=path) from error
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"mnt_id":
            return int(value)
    return None


def find(text: str, number: int) -> Mount | None:
    """Return mount `number` of `text`; None where it is not there (unmounted since, or outside of the root)."""
    start = f"{number} "
    for line in text.split("\n"):
        if line.startswith(start):
            return _mount(line)
    return None


def rows() -> list[MountRow]:
    """Return every mount that this process sees.

    Raises:
        HostError: /proc cannot be read.
    """
    return [row for line in _read(_TABLE).split("\n") if (row := _row(line)) is not None]


def _row(line: str) -> MountRow | None:
    fields = line.split(" ")
    try:
        end = fields.index("-", _FIRST_OPTIONAL)
        _, _, device, root, target, options = fields[:_FIRST_OPTIONAL]
        kind, source, of_super = fields[end + 1 : end + 4]
        major, minor = map(int, device.split(":"))
    except ValueError:
        return None  # not a line of a kernel that has this file
    return MountRow(os.makedev(major, minor), root, plain(target), options, plain(kind), plain(source), of_super)


def _mount(line: str) -> Mount | None:
    row = _row(line)
    if row is None:
        return None
    of_super = _options(row.of_super)
    context = next((option for option in of_super if option.startswith("context=")), None)
    return Mount(
        type=row.type,
        target=row.target,
        source=row.source,
        labels="seclabel" in of_super,
        read_only="ro" in of_super or "ro" in _options(row.options),
        whole=row.root == "/" or row.type in _SHOWN_ELSEWHERE,
        context=None if context is None else plain(context.removeprefix("context=").strip('"')),
    )


def _options(text: str) -> frozenset[str]:
    """Return the options of a comma list; a context with categories holds commas, and the kernel puts it in quotes."""
    inside = text.split('"')
    inside[::2] = [part.replace(",", "\n") for part in inside[::2]]  # the kernel writes a newline as a number
    return frozenset('"'.join(inside).split("\n")) - {""}


def plain(text: str) -> str:
    """Return a field as it was before the kernel wrote blanks, newlines and backslashes as octal numbers."""
    if "\\" not in text:
        return text
    import re

    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


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
        # unbuffered: a buffered file is asked whether it is a terminal (ioctl), denied and logged for those in /sys
        with open(path, "rb", buffering=0) as file:
            return os.fsdecode(file.read())
    except OSError as error:
        raise HostError(f"the table of mounts cannot be read: {why(error)}", where=path) from error
