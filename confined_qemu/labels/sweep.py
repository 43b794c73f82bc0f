"""Puts right what a VM made in a folder that outlives it: by descriptor, bounded, no link followed.

The VM is dead by then, but others may write to the folder: an entry is opened, looked at and labelled through one
descriptor, and one that became something else meanwhile is left as it is.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from confined_qemu.host import lsm
from confined_qemu.model.errors import LabelError, why

if TYPE_CHECKING:
    from confined_qemu.model.steps import Sweep

_DEEPEST = 64
"""Folders below the share."""
_MOST = 100_000
"""Entries looked at."""


class _Full(Exception):
    """The bound is reached."""


def sweep(step: Sweep) -> None:
    """Give `step.restore` to every entry that carries `step.given`; a folder that is gone or another one is left.

    Raises:
        LabelError: the folder cannot be read, or there is more in it than is looked at.
        LsmError: an entry is the VM's, and the kernel refuses.
    """
    try:
        top = os.open(step.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise LabelError(f"cannot be looked into: {why(error)}", where=step.path) from error
    try:
        found = os.fstat(top)
        if step.identity is not None:
            same = (found.st_dev, found.st_ino) == (step.identity.device, step.identity.inode)
        else:
            same = lsm.context_of(top) == step.given
        if same:
            _Walk(step, found.st_dev).through(top, step.path, 0)
    except _Full as full:
        raise LabelError(
            f"holds more than is looked at ({_MOST} entries, {_DEEPEST} folders deep); some may carry {step.given}",
            where=step.path,
            hint=f"run: chcon -R -l {step.restore.range} {step.path}",
        ) from full
    finally:
        os.close(top)


class _Walk:
    """One way through a folder."""

    def __init__(self, step: Sweep, device: int) -> None:
        self.step = step
        self.device = device
        self.left = _MOST

    def through(self, folder: int, shown: str, depth: int) -> None:
        """Look at every entry of an open folder."""
        try:
            names = os.listdir(folder)
        except OSError as error:
            raise LabelError(f"cannot be looked into: {why(error)}", where=shown) from error
        for name in names:
            self.left -= 1
            if self.left < 0:
                raise _Full
            self._entry(folder, name, f"{shown}/{name}", depth)

    def _entry(self, folder: int, name: str, shown: str, depth: int) -> None:
        try:
            entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return  # gone meanwhile
        try:
            found = os.fstat(entry)
            if found.st_dev != self.device:
                return
            path = f"/proc/self/fd/{entry}"
            # the label is the proof that it is the VM's: nobody else gives it, its pair is its own
            if lsm.context_of(path) == self.step.given:
                lsm.set_context(path, self.step.restore, shown=shown)
            if stat.S_ISDIR(found.st_mode) and self.step.deep:
                if depth >= _DEEPEST:
                    raise _Full
                self._below(entry, shown, depth)
        finally:
            os.close(entry)

    def _below(self, entry: int, shown: str, depth: int) -> None:
        try:
            below = os.open(f"/proc/self/fd/{entry}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return  # a folder that the launcher may not read is none that a VM made
        try:
            self.through(below, shown, depth + 1)
        finally:
            os.close(below)
