"""Makes a copy of a file for a VM, from the inode that was planned for, under the VM's label."""

from __future__ import annotations

import os

from confined_qemu.host import lsm
from confined_qemu.host.inodes import identity_of
from confined_qemu.model.errors import LabelError, why
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from confined_qemu.model.steps import Copy

_AT_ONCE = 1 << 26
"""Bytes that one call of the kernel copies at most."""


def make(step: Copy) -> None:
    """Make the copy; its folder is the VM's, and is removed with it.

    Raises:
        LabelError: the file is not the one that was planned for, changes meanwhile, or cannot be copied.
        LsmError: SELinux cannot be asked.
    """
    try:
        source = os.open(step.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LabelError(f"cannot be read for a copy: {why(error)}", where=step.source) from error
    try:
        if not identity_of(source).same(step.identity):
            raise LabelError("changed during launch", where=step.source, hint="run again")
        _copy(step, source)
    finally:
        os.close(source)


def _copy(step: Copy, source: int) -> None:
    try:
        with lsm.creating(step.context):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(step.path, flags, 0o600)
        try:
            done = 0
            while done <= step.size and (count := os.sendfile(target, source, None, _AT_ONCE)):
                done += count
        finally:
            os.close(target)
    except OSError as error:
        raise LabelError(f"cannot be copied for the VM: {why(error)}", where=step.source) from error
    if done != step.size:
        raise LabelError("changed while it was copied", where=step.source, hint="run again")
