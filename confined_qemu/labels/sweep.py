"""Puts right what a VM made in a folder that outlives it: by descriptor, bounded, no link followed, no mount entered.

The VM is dead by then, but others may write to the folder: an entry is opened, looked at and labelled through one
descriptor, and one that became something else meanwhile is left as it is.
"""

from __future__ import annotations

import errno
import os

from confined_qemu.host import lsm, walk
from confined_qemu.labels import find
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import LabelError, why

if TYPE_CHECKING:
    from confined_qemu.model.steps import Sweep

_MOST = walk.MOST
"""Entries looked at."""
_FAULTS = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Why a folder below the share cannot be read though a VM may have made it; another one that the launcher may not read
is none of a VM's: it is closed to the launcher, or an overlay's own upper layer (ELOOP)."""


class _Full(Exception):
    """The bound is reached."""


def sweep(step: Sweep, search: find.Search | None = None) -> None:
    """Give `step.restore` to every entry that carries `step.given`; a folder that is gone is left.

    Raises:
        LabelError: the folder cannot be read, or there is more in it than is looked at.
        LsmError: an entry is the VM's, and the kernel refuses.
    """
    search = search or find.Search()
    top = _made(step) if step.identity is None else find.folder_again(step.path, step.identity, step.given, search)
    if top is None:
        return
    try:
        _put_right(step, top)
        search.changes.add(top, step.path)
    except _Full as full:
        raise LabelError(
            f"more than {_MOST} entries, or more than {walk.DEEPEST} folders deep: some may still carry {step.given}",
            where=step.path,
            hint=f"run: chcon -R -l {step.restore.range} {step.path}",
        ) from full
    finally:
        os.close(top)


def _made(step: Sweep) -> int | None:
    """Open the folder that the launcher made; None where another one is there, or none."""
    top = find.folder_at(step.path)
    if top is None or lsm.context_of(top) == step.given:
        return top
    os.close(top)
    return None


def _put_right(step: Sweep, top: int) -> None:
    def unread(shown: str, error: OSError) -> None:
        if error.errno == errno.ENAMETOOLONG:
            raise _Full
        if shown == step.path or error.errno in _FAULTS:
            raise LabelError(f"cannot be read: {why(error)}", where=shown) from error

    for count, entry in enumerate(walk.below(top, step.path, unread, lambda _: step.deep), 1):
        if count > _MOST:
            raise _Full
        # the label is the proof that it is the VM's: nobody else gives it, its pair is its own
        if lsm.context_of(entry.proc) == step.given:
            lsm.set_context(entry.proc, step.restore, shown=entry.shown)
