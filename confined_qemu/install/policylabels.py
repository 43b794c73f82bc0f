"""Gives a folder and all in it the policy's labels, as `restorecon -R` would, while others may write to it.

restorecon(8) goes by paths: a link put in the place of a folder at the right moment leads it to a file elsewhere. Here
each entry is opened once, looked at and labelled through one descriptor; no link is followed, no mount entered.
"""

from __future__ import annotations

import errno
import os

from confined_qemu.host import lsm, walk
from confined_qemu.model.errors import HostError, LabelError, why
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confined_qemu.model.context import Context


@dataclass(frozen=True, slots=True)
class Labelled:
    """One entry of a folder, open (O_PATH) until the next one is asked for, and its label."""

    descriptor: int
    mode: int
    path: str
    label: Context | None


def entries(path: str) -> Iterator[Labelled]:
    """Yield the folder at `path` and all below it.

    Raises:
        HostError: it is no folder, or cannot be gone through whole.
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"the folder cannot be read: {why(error)}", where=path) from error
    try:
        # a link on the way to it
        if os.readlink(f"/proc/self/fd/{top}") != path:
            raise HostError("another folder was put in its place meanwhile", where=path, hint="run again")
        yield _labelled(top, os.fstat(top).st_mode, path)
        for entry in walk.below(top, path, _unread):
            yield _labelled(entry.descriptor, entry.found.st_mode, entry.shown)
    finally:
        os.close(top)


def _labelled(descriptor: int, mode: int, path: str) -> Labelled:
    return Labelled(descriptor, mode, path, lsm.context_of(f"/proc/self/fd/{descriptor}"))


def _unread(path: str, error: OSError) -> None:
    if error.errno not in (errno.ENOENT, errno.ESTALE):
        raise HostError(f"cannot be looked into: {why(error)}", where=path) from error


def restore(path: str, accept: Callable[[Labelled], None]) -> tuple[str, ...]:
    """Give all of the folder at `path` the types that the policy has for them; return a line for each change.

    `accept` raises for an entry that is not to be touched: it is asked about the very inode that is labelled next. As
    with restorecon, user and level stay, and so do the types that the policy leaves to administrators.

    Raises:
        HostError: see `entries`, or what `accept` raises; what was done before stays.
        LsmError: the kernel refuses.
        LabelError: an entry keeps no label.
    """
    kept = lsm.customizable_types()
    changed = []
    for entry in entries(path):
        accept(entry)
        if entry.label is None:
            raise LabelError("its file system keeps no SELinux labels", where=entry.path)
        wanted = lsm.default_label(entry.path, entry.mode)
        if wanted is None or wanted.type == entry.label.type or entry.label.type in kept:
            continue
        after = replace(entry.label, type=wanted.type)
        lsm.set_context(f"/proc/self/fd/{entry.descriptor}", after, shown=entry.path)
        changed.append(f"Relabeled {entry.path} from {entry.label} to {after}")
    return tuple(changed)
