"""Does and undoes the steps of a plan that touch the disk, by file descriptor.

A path is opened without following a link and compared with the inode that was planned for; a label is set
through the descriptor and read back. Undoing touches only what is still the same inode and still carries the
label that we gave.
"""

from __future__ import annotations

import os

from confined_qemu.host import lsm
from confined_qemu.host.inodes import identity_of, kind_of
from confined_qemu.labels import find, turns
from confined_qemu.model.errors import ConfinedQemuError, LabelError, printable, why
from confined_qemu.model.facts import FileKind
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.steps import (
    Bind,
    Create,
    JournalStep,
    KeepFolder,
    LabelTree,
    MakeFolder,
    OwnGroup,
    Relabel,
    Sweep,
)

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
        case Sweep() | LabelTree() | OwnGroup():
            pass  # at the end, by `trees`, and by `performing`
        case Bind():
            bind(step)


def _relabel(step: Relabel) -> None:
    descriptor = find.at(step.path)
    if descriptor is None:
        raise LabelError("disappeared during launch", where=step.path, hint="run again")
    try:
        if step.before == step.after:
            _change(step, descriptor)  # what keeps its label waits for nobody
            return
        with turns.turn(descriptor, step.path, turns.Waiting()):
            _change(step, descriptor)
    finally:
        os.close(descriptor)


def _change(step: Relabel, descriptor: int) -> None:
    """Label an open (O_PATH) file, if it is what was planned for."""
    found, itself = os.fstat(descriptor), f"/proc/self/fd/{descriptor}"
    same = identity_of(descriptor) == step.identity and found.st_nlink == step.links
    if not same or lsm.context_of(itself) != step.before:
        raise LabelError(
            "changed during launch, so its label stays",
            where=step.path,
            hint="run again",
        )
    if step.before != step.after:
        lsm.set_context(itself, step.after, shown=step.path)


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


def undo(step: JournalStep, others_hold: Callable[[Identity], bool], search: find.Search | None = None) -> None:
    """End one step; what is gone, or was relabelled by somebody else, is left as it is.

    `others_hold` tells whether another live VM uses the same inode: the last one puts the label back. `search` tells
    what changed and is to be synced; without one it is synced here.

    Raises:
        find.NotFoundAgain: the file is not where it was, and nobody can say that it is gone.
        LabelError, LsmError: the file is ours to put back, and the kernel refuses.
    """
    if search is None:
        search = find.Search()
        undo(step, others_hold, search)
        for error in search.changes.sync():
            raise error
        return
    match step:
        case Relabel():
            _put_back(step, others_hold, search)
        case Create(remove_empty=True) if _is_empty(step.path):
            _unlink(step, search)
        case Create(remove=False) | KeepFolder():
            _put_back_made(step, others_hold, search)
        case Create() | Bind():
            _unlink(step, search)
        case MakeFolder():
            _remove_folder(step, search)
        case Sweep():
            from confined_qemu.labels import trees

            trees.sweep(step, search)
        case LabelTree() | OwnGroup():
            pass  # by `restore`: it knows where a tree's notes are, and when a group is empty


def _is_empty(path: str) -> bool:
    try:
        return os.lstat(path).st_size == 0
    except OSError:
        return False


def _put_back(step: Relabel, others_hold: Callable[[Identity], bool], search: find.Search) -> None:
    if step.restore is None or step.restore == step.after:
        return
    if step.kind in (FileKind.BLOCK, FileKind.CHARACTER):
        descriptor = find.at(step.path)  # a device that is not there was unplugged
        if descriptor is not None and not identity_of(descriptor).same(step.identity):
            os.close(descriptor)
            return
    else:
        descriptor = find.again(step.path, step.identity, step.after, search)
    _give_back(step.path, descriptor, (step.after, step.restore), others_hold, search)


def _put_back_made(step: Create | KeepFolder, others_hold: Callable[[Identity], bool], search: find.Search) -> None:
    _give_back(step.path, search.made_at(step.path), (step.context, step.restore), others_hold, search)


def _give_back(
    path: str,
    descriptor: int | None,
    labels: tuple[Context, Context],
    others_hold: Callable[[Identity], bool],
    search: find.Search,
) -> None:
    """Change a label from the first to the second of `labels`, and close the descriptor."""
    if descriptor is None:
        return
    given, restore = labels
    try:
        itself = f"/proc/self/fd/{descriptor}"
        if given == restore or lsm.context_of(itself) != given or others_hold(identity_of(descriptor)):
            return
        with turns.turn(descriptor, path, search.waiting):
            if lsm.context_of(itself) == given:
                lsm.set_context(itself, restore, shown=path)
        search.changes.add(descriptor, path)
    finally:
        os.close(descriptor)


def _unlink(step: Create | Bind, search: find.Search) -> None:
    label = step.context if isinstance(step, Create) else step.file_context
    try:
        found = os.lstat(step.path)
        expected = FileKind.REGULAR if isinstance(step, Create) else FileKind.SOCKET
        if kind_of(found.st_mode) is expected and _label_without_following(step.path) == label:
            os.unlink(step.path)
            search.changes.add_folder(os.path.dirname(step.path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabelError(f"cannot be removed: {why(error)}", where=step.path) from error


def _label_without_following(path: str) -> Context | None:
    descriptor = find.at(path)
    if descriptor is None:
        return None
    try:
        return lsm.context_of(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _remove_folder(step: MakeFolder, search: find.Search) -> None:
    descriptor = find.at(step.path)
    if descriptor is None:
        return
    from confined_qemu.labels import removal

    try:
        if lsm.context_of(f"/proc/self/fd/{descriptor}") == step.context:
            removal.remove(descriptor, step.path)
            search.changes.add_folder(os.path.dirname(step.path))
    finally:
        os.close(descriptor)


def undo_all(
    steps: tuple[JournalStep, ...], others_hold: Callable[[Identity], bool], search: find.Search | None = None
) -> list[ConfinedQemuError]:
    """Undo `steps`, last first, labels before folders; a failing one does not stop the others. Return what failed.

    `search` tells what changed and is to be synced; without one it is synced here.
    """
    mine = search or find.Search()
    failed: list[ConfinedQemuError] = []
    folders = [step for step in steps if isinstance(step, MakeFolder)]
    labelled = [step for step in steps if not isinstance(step, MakeFolder)]
    for step in (*reversed(labelled), *reversed(folders)):
        error = survived(step.path, lambda step=step: undo(step, others_hold, mine))  # type: ignore[misc]
        failed += [error] if error is not None else []
    return failed if search is not None else failed + mine.changes.sync()


def undo_made(steps: tuple[JournalStep, ...], search: find.Search) -> list[ConfinedQemuError]:
    """Put back what was made for the VM and renamed since, a log that was rotated: it carries the VM's own label.

    Nobody else has that label, and all that is in `steps` by its inode is left out.
    """
    if not search.own:
        return []
    apart = {(step.identity.device, step.identity.inode) for step in steps if isinstance(step, Relabel)}
    failed = []
    for step in steps:
        lasting = isinstance(step, KeepFolder) or (isinstance(step, Create) and not step.remove)
        if lasting and step.path not in search.made and not os.path.lexists(step.path):
            error = survived(step.path, lambda step=step: _put_back_renamed(step, apart, search))  # type: ignore[misc]
            failed += [error] if error is not None else []
    return failed


def _put_back_renamed(step: Create | KeepFolder, apart: set[tuple[int, int]], search: find.Search) -> None:
    kind = FileKind.REGULAR if isinstance(step, Create) else FileKind.DIRECTORY

    def put_back(descriptor: int) -> None:
        found = os.fstat(descriptor)
        itself = f"/proc/self/fd/{descriptor}"
        if kind_of(found.st_mode) is not kind or (found.st_dev, found.st_ino) in apart:
            return
        if lsm.context_of(itself) == step.context:
            lsm.set_context(itself, step.restore, shown=os.readlink(itself))
            search.changes.add(descriptor, step.path)

    find.each_sibling(step.path, put_back)


def survived(path: str, put_back: Callable[[], None]) -> ConfinedQemuError | None:
    """Put one thing back; return why that failed, whatever it was, so that the others are still put back."""
    try:
        put_back()
    except ConfinedQemuError as error:
        return error
    except Exception as error:  # noqa: BLE001 - what a VM or a stranger left may break what nobody thought of
        return LabelError(f"cannot be put back: {type(error).__name__}: {printable(str(error))}", where=path)
    return None
