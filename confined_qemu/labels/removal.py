"""Removes a folder with all that is in it: by descriptor, however deep it is, no link followed, no mount entered.

What a VM left in its own folder is a stranger's: thousands of folders one in the other, or folders that it closed to
its own user. So one descriptor at a time is open, nothing calls itself, and the way up is checked.
"""

from __future__ import annotations

import errno
import os

from confined_qemu.host import mounts
from confined_qemu.model.errors import LabelError, why
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_TO_US = 0o700


@dataclass(frozen=True, slots=True)
class _Level:
    """A folder on the way down: its name in the one above it, and which inode it is."""

    name: str
    inode: tuple[int, int]


def remove(folder: int, path: str) -> None:
    """Remove the folder of an open (O_PATH) descriptor, which is at `path`, and all below it.

    Raises:
        LabelError: something in it cannot be removed, or another folder is at `path` by now.
    """
    try:
        _empty(folder)
        found, there = os.fstat(folder), os.lstat(path)
        if not os.path.samestat(found, there):
            raise LabelError("not removed: another folder is in its place", where=path)
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabelError(f"cannot be removed: {why(error)}", where=path) from error


def _empty(folder: int) -> None:
    """Remove all that is below an open folder: down to a folder without folders, up again, and so on."""
    mount = mounts.number_of(folder)
    here = os.open(f"/proc/self/fd/{folder}", _FOLDER & ~os.O_NOFOLLOW)
    way = [_Level("", _inode(here))]
    try:
        while True:
            below = _first_folder(here)
            if below is not None:
                deeper = _entered(here, below, mount)
                os.close(here)
                here = deeper
                way.append(_Level(below, _inode(here)))
            elif len(way) == 1:
                return
            else:
                done = way.pop()
                above = os.open("..", _FOLDER, dir_fd=here)
                os.close(here)
                here = above
                if _inode(here) != way[-1].inode:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # somebody moved it away
                os.rmdir(done.name, dir_fd=here)
    finally:
        os.close(here)


def _first_folder(folder: int) -> str | None:
    """Unlink all in an open folder until one is a folder itself, and return its name; None when it is empty."""
    for name, is_folder in _names(folder):
        if is_folder:
            return name
        os.unlink(name, dir_fd=folder)
    return None


def _names(folder: int) -> Iterator[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)


def _entered(folder: int, name: str, mount: int | None) -> int:
    """Open a folder in an open one, also one that its mode closes to its owner; a mount is not entered."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if mounts.number_of(descriptor) != mount:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        itself = f"/proc/self/fd/{descriptor}"
        if os.fstat(descriptor).st_mode & _OPEN_TO_US != _OPEN_TO_US:
            os.chmod(itself, _OPEN_TO_US)
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)


def _inode(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
