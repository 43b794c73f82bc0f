"""Finds an inode again whose name may have changed: by a descriptor held since, its path, its folder, its handle."""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice

from confined_qemu.host import filesystems
from confined_qemu.host.inodes import identity_of
from confined_qemu.labels.turns import Waiting
from confined_qemu.model.errors import HINT, ConfinedQemuError, LabelError, shell_word, why
from confined_qemu.model.lean import TYPE_CHECKING, contextmanager, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Identity

_MOST = 100_000
"""Entries of one folder that are looked at."""
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class NotFoundAgain(LabelError):
    """What is to be put back is not where it was and may be elsewhere; its journal is kept."""


class Changes:
    """The file systems on which something was put back: it is on their disks before the journal forgets it."""

    def __init__(self) -> None:
        self._folders: dict[int, int] = {}

    def add(self, descriptor: int, path: str) -> None:
        """Note the file system of an open (O_PATH) file that is, or was, at `path`.

        Raises:
            LabelError: neither it nor its folder can be opened to be synced.
        """
        found = os.fstat(descriptor)
        if found.st_dev in self._folders:
            return
        # opening a device or a pipe may do something
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            try:
                self._folders[found.st_dev] = os.open(f"/proc/self/fd/{descriptor}", _READ)
            except OSError:
                self.add_folder(os.path.dirname(path))  # its mode may be the guest's doing
        else:
            self.add_folder(os.path.dirname(path))
        if found.st_dev not in self._folders:
            raise LabelError("cannot be opened to be synced", where=path)

    def add_folder(self, path: str) -> None:
        """Note the file system of a folder in which something changed; one that is gone needs no sync.

        Raises:
            LabelError: it cannot be opened to be synced.
        """
        try:
            descriptor = os.open(path, _READ | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LabelError(f"cannot be opened to be synced: {why(error)}", where=path) from error
        if self._folders.setdefault(os.fstat(descriptor).st_dev, descriptor) != descriptor:
            os.close(descriptor)

    def sync(self) -> list[ConfinedQemuError]:
        """Wait until all is on disk, and let go of the file systems; return what failed."""
        failed: list[ConfinedQemuError] = []
        for descriptor in self._folders.values():
            try:
                filesystems.syncfs(descriptor)
            except OSError as error:
                shown = os.readlink(f"/proc/self/fd/{descriptor}")
                failed.append(LabelError(f"its file system cannot be synced: {why(error)}", where=shown))
            os.close(descriptor)
        self._folders.clear()
        return failed


@dataclass(frozen=True, slots=True)
class Search:
    """How a VM's files are found again, and what is to be synced once they are put back.

    `held` are descriptors kept open since the start, by device and inode: they know an inode whatever becomes of its
    name; `made` the same of what the launcher made, by the path that it had. `own`: no other VM has the labels of this
    one. `same_boot`: devices still have the numbers that the journal says. `forgotten` are paths whose files are gone
    by the word of their owner. `waiting` is for files that libvirt is at.
    """

    held: Mapping[tuple[int, int], int] = field(default_factory=dict)
    made: Mapping[str, int] = field(default_factory=dict)
    own: bool = False
    same_boot: bool = True
    forgotten: frozenset[str] = frozenset()
    changes: Changes = field(default_factory=Changes)
    waiting: Waiting = field(default_factory=Waiting)

    def made_at(self, path: str) -> int | None:
        """Return an O_PATH descriptor of what the launcher made at `path`, or of what is there now without one held."""
        folder, name = os.path.split(path)
        held = self.made.get(os.path.join(os.path.realpath(folder), name))
        if held is None:
            return at(path)
        return os.dup(held) if os.fstat(held).st_nlink else None


def by_inode(descriptors: Iterable[int]) -> Mapping[tuple[int, int], int]:
    """Return open descriptors by device and inode."""
    found = ((os.fstat(number), number) for number in descriptors)
    return {(inode.st_dev, inode.st_ino): number for inode, number in found}


def at(path: str) -> int | None:
    """Open `path` (O_PATH) without following a link in its last part; None when nothing, or now a link, is there.

    Raises:
        LabelError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return None
        raise LabelError(f"cannot be opened: {why(error)}", where=path) from error
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def folder_at(path: str) -> int | None:
    """Open the folder at `path` for reading; None when nothing, a link, or no folder is there.

    Raises:
        LabelError: it cannot be read.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return None
        raise LabelError(f"cannot be read: {why(error)}", where=path) from error


def again(path: str, identity: Identity, given: Context, search: Search) -> int | None:
    """Open the inode that was at `path` (O_PATH), whatever its name is now; None when it is gone.

    `given` is the label that it may carry, for the message.

    Raises:
        NotFoundAgain: it is not there, and nobody can say that it is gone.
        LabelError: the path cannot be opened.
    """
    held = search.held.get((identity.device, identity.inode))
    if held is not None:
        return os.dup(held) if os.fstat(held).st_nlink else None
    descriptor = _mine(at(path), identity)
    if descriptor is None:
        with _siblings(path, identity.inode) as found:
            descriptor = next((one for one in found if _mine(one, identity) is not None), None)
    if descriptor is not None:
        return descriptor
    if path in search.forgotten:
        return None
    try:
        # after another boot its file system may not be mounted yet; where the path leads to something, it is
        known = search.same_boot or os.path.lexists(path)
        descriptor = _by_handle(path, identity) if known else None
    except FileNotFoundError:
        return None
    if descriptor is None:
        raise NotFoundAgain(
            f"was renamed or removed; inode {identity.inode} may still carry {given}",
            where=path,
            hint=f"move it back and run: confined-qemu recover"
            f"{HINT}or, if it is gone, run: confined-qemu recover --forget {shell_word(path)}",
        )
    return descriptor


def folder_again(path: str, identity: Identity, given: Context, search: Search) -> int | None:
    """Open the folder that was at `path` for reading, whatever its name is now; None when it is gone.

    Raises:
        NotFoundAgain: it is not there, and nobody can say that it is gone.
        LabelError: it cannot be opened.
    """
    descriptor = again(path, identity, given, search)
    if descriptor is None:
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LabelError(f"cannot be read: {why(error)}", where=path) from error
    finally:
        os.close(descriptor)


def each_sibling(path: str, visit: Callable[[int], None]) -> None:
    """Call `visit` for each entry of the folder of `path` but links, with an O_PATH descriptor that is closed after."""
    with _siblings(path, None) as found:
        for descriptor in found:
            try:
                visit(descriptor)
            finally:
                os.close(descriptor)


def _mine(descriptor: int | None, identity: Identity) -> int | None:
    """Return the descriptor where it is the inode's; close it where it is another's."""
    if descriptor is None:
        return None
    now = identity_of(descriptor)
    # a file system that is mounted anew may have another device's number (btrfs, a loop device, a disk by USB)
    known = identity.generation is not None and (now.inode, now.generation) == (identity.inode, identity.generation)
    if known or now.same(identity):
        return descriptor
    os.close(descriptor)
    return None


@contextmanager
def _siblings(path: str, inode: int | None) -> Iterator[Iterator[int]]:
    """Yield what opens the entries beside `path` that have this inode number, or all; links are left out."""
    try:
        top = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield iter(())  # gone, or not to be read: nothing is found in it
        return
    try:
        with os.scandir(top) as entries:
            names = [entry.name for entry in islice(entries, _MOST) if _may_be(entry, inode)]
        opened = (_opened(name, top) for name in names)
        yield (descriptor for descriptor in opened if descriptor is not None)
    finally:
        os.close(top)


def _may_be(entry: os.DirEntry[str], inode: int | None) -> bool:
    return not entry.is_symlink() and inode in (None, entry.inode())


def _opened(name: str, folder: int) -> int | None:
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None  # gone meanwhile


def _by_handle(path: str, identity: Identity) -> int | None:
    """Return the inode by its number on the file system of the nearest folder that is left.

    Raises:
        FileNotFoundError: there is no such inode any more.
    """
    from confined_qemu.host import handles

    folder = os.path.dirname(path)
    while True:
        try:
            top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            break
        except OSError as error:
            above = os.path.dirname(folder)
            if error.errno not in _NOTHING_THERE or above == folder:  # also of a relative path: a journal may hold any
                return None
            folder = above
    try:
        if os.fstat(top).st_dev != identity.device:
            return None
        descriptor = handles.opened(top, identity)
    finally:
        os.close(top)
    # the number alone may be another file's by now: the first was removed
    if descriptor is not None and _mine(descriptor, identity) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return descriptor
