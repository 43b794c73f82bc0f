"""Puts right what a VM made in a folder that outlives it: by descriptor, bounded, no link followed, no mount entered.

The VM is dead by then, but others may write to the folder: an entry is opened, looked at and labelled through one
descriptor, and one that became something else meanwhile is left as it is.
"""

from __future__ import annotations

import errno
import os

from confined_qemu.host import lsm, walk
from confined_qemu.labels import find, limits
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import LabelError, why

if TYPE_CHECKING:
    from confined_qemu.model.steps import Sweep

_FAULTS = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Why a folder below the share cannot be read though a VM may have made it; another one that the launcher may not read
is none of a VM's: it is closed to the launcher, or an overlay's own upper layer (ELOOP)."""


def sweep(step: Sweep, search: find.Search | None = None) -> None:
    """Give `step.restore` to every entry that carries `step.given`; a folder that is gone is left.

    Raises:
        LabelError: the folder cannot be read, or there is more of the VM's in it than is put right at once, or deeper.
        LsmError: an entry is the VM's, and the kernel refuses.
    """
    search = search or find.Search()
    top = _made(step) if step.identity is None else find.folder_again(step.path, step.identity, step.given, search)
    if top is None:
        return
    try:
        search.changes.add(top, step.path)
        is_whole = _put_right(step, top)
    finally:
        os.close(top)
    if not is_whole and step.path not in search.forgotten:
        raise limits.too_deep(step.path, step.given, step.restore)


def _made(step: Sweep) -> int | None:
    """Open the folder that the launcher made; None where another one is there, or none."""
    top = find.folder_at(step.path)
    if top is None or lsm.context_of(top) == step.given:
        return top
    os.close(top)
    return None


def _put_right(step: Sweep, top: int) -> bool:
    """Put right what is the VM's; return whether no folder lay too deep to be entered."""
    deep: list[str] = []
    count = 0

    def unread(shown: str, error: OSError) -> None:
        if error.errno == errno.ENAMETOOLONG:
            deep.append(shown)
        elif shown == step.path or error.errno in _FAULTS:
            raise LabelError(f"cannot be read: {why(error)}", where=shown) from error

    for entry in walk.below(top, step.path, unread, lambda _: step.deep):
        # the label is the proof that it is the VM's: nobody else gives it, its pair is its own
        if lsm.context_of(entry.proc) != step.given:
            continue
        count += 1
        if count > walk.MOST:
            raise limits.too_many(step.path, step.given)
        lsm.set_context(entry.proc, step.restore, shown=entry.shown)
    return not deep
