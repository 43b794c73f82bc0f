"""Goes through a folder by descriptor: no link is followed, no mount is entered, and it comes to an end.

Others may write to the folder meanwhile: an entry is opened once, and what is done to it is done to what was opened.
"""

from __future__ import annotations

import errno
import os
import stat

from confined_qemu.host import mounts
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST = 100_000
"""Entries of a tree: what a launch labels within seconds."""
DEEPEST = 64
"""Folders below the top; each holds two descriptors while it is gone through."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry: an O_PATH descriptor that is closed when the next one is asked for; `depth` is 1 in the top."""

    descriptor: int
    found: os.stat_result
    shown: str
    depth: int

    @property
    def proc(self) -> str:
        """The path by which the kernel finds this very inode."""
        return f"/proc/self/fd/{self.descriptor}"

    @property
    def is_folder(self) -> bool:
        """Tell whether it may hold others."""
        return stat.S_ISDIR(self.found.st_mode)


def below(
    top: int, shown: str, unread: Callable[[str, OSError], None], enter: Callable[[TreeEntry], bool] = lambda _: True
) -> Iterator[TreeEntry]:
    """Yield what lies below the folder `top`, an open descriptor, on its own mount: a folder before what is in it.

    A folder for which `enter` says no is yielded and not entered; one that cannot be read is told to `unread`, with
    the error; one deeper than `DEEPEST` too (ENAMETOOLONG).
    """
    yield from _TreeWalk(mounts.number_of(top), unread, enter).through(top, shown, 1)


@dataclass(frozen=True, slots=True)
class _TreeWalk:
    mount: int | None
    unread: Callable[[str, OSError], None]
    enter: Callable[[TreeEntry], bool]

    def through(self, folder: int, shown: str, depth: int) -> Iterator[TreeEntry]:
        if depth > DEEPEST:
            self.unread(shown, OSError(errno.ENAMETOOLONG, f"more than {DEEPEST} folders deep"))
            return
        try:
            readable = os.open(f"/proc/self/fd/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self.unread(shown, error)
            return
        try:
            with os.scandir(readable) as names:
                for name in names:
                    yield from self._entry(readable, name.name, f"{shown.rstrip('/')}/{name.name}", depth)
        except OSError as error:
            self.unread(shown, error)
        finally:
            os.close(readable)

    def _entry(self, folder: int, name: str, shown: str, depth: int) -> Iterator[TreeEntry]:
        try:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return  # gone meanwhile
        except OSError as error:
            self.unread(shown, error)
            return
        try:
            if mounts.number_of(descriptor) != self.mount:
                return
            entry = TreeEntry(descriptor, os.fstat(descriptor), shown, depth)
            yield entry
            if entry.is_folder and self.enter(entry):
                yield from self.through(descriptor, shown, depth + 1)
        finally:
            os.close(descriptor)
