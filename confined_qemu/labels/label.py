"""Does and undoes the steps of a plan that touch the disk, by file descriptor.

A path is opened without following a link and compared with the inode that was planned for; a label is set
through the descriptor and read back. Undoing touches only what is still the same inode and still carries the
label that we gave.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from confined_qemu.host import lsm
from confined_qemu.host.inodes import identity_of, kind_of
from confined_qemu.model.errors import ConfinedQemuError, LabelError, why
from confined_qemu.model.facts import FileKind
from confined_qemu.model.steps import Bind, Create, JournalStep, KeepFolder, LabelTree, MakeFolder, Relabel, Sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Identity


def apply(step: JournalStep, bind: Callable[[Bind], None]) -> None:
    """Do one step; sockets are the launcher's business (`bind`).

    Raises:
        LabelError: the file is not the one that was planned for, or cannot be made.
        LsmError: SELinux refuses.
    """
    match step:
        case Relabel():
            _relabel(step)
        case Create():
            _create(step)
        case MakeFolder() | KeepFolder():
            _make_folder(step)
        case Sweep() | LabelTree():
            pass  # at the end, and by `trees`
        case Bind():
            bind(step)


def _relabel(step: Relabel) -> None:
    descriptor = _open(step.path)
    if descriptor is None:
        raise LabelError("it was there when the plan was made and is gone", where=step.path)
    try:
        found = os.fstat(descriptor)
        same = identity_of(descriptor) == step.identity and found.st_nlink == step.links
        if not same or lsm.context_of(f"/proc/self/fd/{descriptor}") != step.before:
            raise LabelError(
                "it changed after the plan was made; nothing was done to it",
                where=step.path,
                hint="start again",
            )
        if step.before != step.after:
            lsm.set_context(f"/proc/self/fd/{descriptor}", step.after, shown=step.path)
    finally:
        os.close(descriptor)


def _create(step: Create) -> None:
    try:
        with lsm.creating(step.context):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(step.path, flags, step.mode)
    except OSError as error:
        raise LabelError(f"cannot be made for QEMU: {why(error)}", where=step.path) from error
    os.close(descriptor)


def _make_folder(step: MakeFolder | KeepFolder) -> None:
    parent = os.path.dirname(step.path)
    try:
        if not os.path.isdir(parent):
            os.mkdir(parent, 0o755)
        with lsm.creating(step.context):
            os.mkdir(step.path, 0o700)
    except OSError as error:
        raise LabelError(f"cannot be made for the VM: {why(error)}", where=step.path) from error


def undo(step: JournalStep, others_hold: Callable[[Identity], bool]) -> None:
    """End one step; what is gone, was replaced or was relabelled by somebody else is left as it is.

    `others_hold` tells whether another live VM uses the same inode: the last one puts the label back.

    Raises:
        LabelError, LsmError: the file is ours to put back, and the kernel refuses.
    """
    match step:
        case Relabel():
            _put_back(step.path, step.identity, step.after, step.restore, others_hold)
        case Create(remove_empty=True) if _is_empty(step.path):
            _unlink(step)
        case Create(remove=False) | KeepFolder():
            _put_back(step.path, None, step.context, step.restore, others_hold)
        case Create() | Bind():
            _unlink(step)
        case MakeFolder():
            _remove_folder(step)
        case Sweep():
            from confined_qemu.labels import sweep

            sweep.sweep(step)
        case LabelTree():
            pass  # by `restore`, which knows where the notes are


def _is_empty(path: str) -> bool:
    try:
        return os.lstat(path).st_size == 0
    except OSError:
        return False


def _put_back(
    path: str,
    identity: Identity | None,
    given: Context,
    restore: Context | None,
    others_hold: Callable[[Identity], bool],
) -> None:
    if restore is None or restore == given:
        return
    descriptor = _open(path)
    if descriptor is None:
        return
    try:
        now = identity_of(descriptor)
        if identity is not None and not now.same(identity):
            return
        if lsm.context_of(f"/proc/self/fd/{descriptor}") != given or others_hold(now):
            return
        lsm.set_context(f"/proc/self/fd/{descriptor}", restore, shown=path)
    finally:
        os.close(descriptor)


def _unlink(step: Create | Bind) -> None:
    label = step.context if isinstance(step, Create) else step.file_context
    try:
        found = os.lstat(step.path)
        expected = FileKind.REGULAR if isinstance(step, Create) else FileKind.SOCKET
        if kind_of(found.st_mode) is expected and _label_without_following(step.path) == label:
            os.unlink(step.path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabelError(f"cannot be removed: {why(error)}", where=step.path) from error


def _label_without_following(path: str) -> Context | None:
    descriptor = _open(path)
    if descriptor is None:
        return None
    try:
        return lsm.context_of(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _remove_folder(step: MakeFolder) -> None:
    if _label_without_following(step.path) != step.context:
        return
    import shutil

    try:
        shutil.rmtree(step.path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabelError(f"cannot be removed: {why(error)}", where=step.path) from error


def _open(path: str) -> int | None:
    """Open `path` without following a link in its last part; None when nothing, or now a link, is there."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise LabelError(f"cannot be opened: {why(error)}", where=path) from error
    if stat.S_ISLNK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def undo_all(steps: tuple[JournalStep, ...], others_hold: Callable[[Identity], bool]) -> list[ConfinedQemuError]:
    """Undo `steps`, last first; a failing one does not stop the others. Return what failed."""
    failed: list[ConfinedQemuError] = []
    for step in reversed(steps):
        try:
            undo(step, others_hold)
        except ConfinedQemuError as error:
            failed.append(error)
    return failed
