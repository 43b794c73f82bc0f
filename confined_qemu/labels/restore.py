"""Puts back what a VM's journal names: for its watcher, for the next launch, for `recover` and `settle`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

from confined_qemu.host import devices, processes
from confined_qemu.labels import find, history, journal, label, statefolders
from confined_qemu.model.errors import ConfinedQemuError, JournalError
from confined_qemu.model.facts import FileKind, Holder
from confined_qemu.model.frozen import dataclass, replace
from confined_qemu.model.steps import LabelTree, MakeFolder, Relabel, Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confined_qemu.model.facts import Identity
    from confined_qemu.model.steps import JournalStep


class State(Enum):
    """What a journal's VM is doing."""

    LIVE = "live"
    """It is being launched, or has a process."""
    ENDING = "ending"
    """It has ended and its watcher is at work."""
    PENDING = "pending"
    """It has ended and nobody puts its labels back: a crash, or a killed watcher."""


@dataclass(frozen=True, slots=True)
class Restored:
    """One VM whose labels were put back, and what could not be; a journal that says nothing has failed whole."""

    name: str
    """The VM's, or the journal's file where it cannot be understood."""
    path: str
    failed: tuple[ConfinedQemuError, ...]


def state_of(entry: journal.Entry) -> State:
    """Return what the VM is doing, by its processes and its journal's lock."""
    if pid_of(entry) is not None:
        return State.LIVE
    descriptor = journal.take(entry.path, wait=False)
    if descriptor is None:
        return State.ENDING
    os.close(descriptor)
    return State.PENDING


def pid_of(entry: journal.Entry) -> int | None:
    """Return a live process of the VM: the launched one, else one that it left behind (a daemon).

    A dynamic VM's context is its own, so all that runs in it is the VM's. Static VMs may share one: theirs is who
    holds the live file.

    Raises:
        JournalError: the live file cannot be asked.
    """
    record = entry.record
    if record.boot_id != processes.boot_id():
        return None
    if processes.start_ticks(record.pid) == record.start_ticks and not processes.has_ended(record.pid):
        return record.pid
    if record.static and not journal.is_held(entry.path):
        return None
    running = processes.running_as(record.context)
    if record.static:
        live = journal.live_path(entry.path)
        return next((pid for pid in running if processes.has_open(pid, live)), record.pid)
    return running[0] if running else None


def holders(folders: list[str], *, without: str | None = None) -> dict[Identity, tuple[Holder, ...]]:
    """Return which live VMs of these folders use which inode, and which device behind it.

    The VM whose journal is at `without` does not count.
    """
    found: dict[Identity, tuple[Holder, ...]] = {}
    for entry in readable_entries(folders):
        pid = pid_of(entry)
        if pid is None or entry.path == without:
            continue
        for step in entry.record.all_steps:
            if not isinstance(step, Relabel | LabelTree):
                continue
            restored, more = (step.restore, _device(step)) if isinstance(step, Relabel) else (None, ())
            holder = Holder(entry.record.name, pid, step.exclusive, restored)
            for identity in (step.identity, *more):
                found[identity] = (*found.get(identity, ()), holder)
    return found


def _device(step: Relabel) -> tuple[Identity, ...]:
    """Return the device that a relabelled node stands for; another node may name it too."""
    if step.kind not in (FileKind.BLOCK, FileKind.CHARACTER):
        return ()
    try:
        found = os.lstat(step.path)
    except OSError:
        return ()  # unplugged
    identity = devices.identity(found.st_mode, found.st_rdev)
    return (identity,) if identity is not None else ()


def readable_entries(folders: list[str]) -> list[journal.Entry]:
    """Return the entries of all folders; another user's damaged journal stops nobody else."""
    found: list[journal.Entry] = []
    for folder in folders:
        try:
            found.extend(journal.listing(folder, reading=True).entries)
        except JournalError:
            if statefolders.is_own(folder):
                raise
    return found


def restore(path: str, search: find.Search | None = None) -> Restored | None:
    """Put back what the journal at `path` names and remove it; the caller holds the journal's lock.

    `search` tells how files are found again. A file that could not be put back, or not be found, keeps the journal, so
    that `recover` tries again. Returns None when the journal is gone: somebody else did it.

    Raises:
        JournalError: the journal cannot be read.
    """
    search = search or find.Search()
    folder = os.path.dirname(path)
    record = journal.read(path)
    if record is None:
        return None
    if record.domain is not None and record.boot_id == processes.boot_id():
        from confined_qemu.labels import domains

        try:
            domains.end(record.name, record.domain)
        except ConfinedQemuError as problem:
            return Restored(record.name, path, (problem,))
    with journal.locked(folder):
        record = journal.read(path)
        if record is None:
            return None
        search = replace(search, own=not record.static, same_boot=record.boot_id == processes.boot_id())
        steps = record.all_steps
        if not search.same_boot:
            steps = tuple(_on_this_boot(step) for step in steps)
        failed = _undo(path, steps, search)
    # without the folder's lock, as a disk may be slow; nobody else takes up this journal meanwhile
    failed += search.changes.sync()
    entry = journal.Entry(path, record)
    if not failed:
        with journal.locked(folder):
            history.remember(entry)
            journal.remove(path)
    return Restored(record.name, path, tuple(failed))


def _undo(path: str, steps: tuple[JournalStep, ...], search: find.Search) -> list[ConfinedQemuError]:
    """Undo all steps: the labels of files, of the trees that they lie in, then folders of the VM's own."""
    held = held_by_others(path)
    failed = label.undo_all(tuple(step for step in steps if not isinstance(step, MakeFolder)), held, search)
    own = {step.identity for step in steps if isinstance(step, Relabel)}

    def apart(mine: Identity) -> bool:
        return held(mine) or any(mine.same(one) for one in own)

    for tree in reversed([step for step in steps if isinstance(step, LabelTree)]):
        error = label.survived(tree.path, lambda tree=tree: _undo_tree(tree, path, apart, search))  # type: ignore[misc]
        failed += [error] if error is not None else []
    failed += label.undo_made(steps, search)
    return failed + label.undo_all(tuple(step for step in steps if isinstance(step, MakeFolder)), held, search)


def held_by_others(path: str) -> Callable[[Identity], bool]:
    """Return what tells whether a live VM other than the one whose journal is at `path` uses an inode.

    The caller holds the lock of the journal's folder.
    """
    others = {
        step.identity
        for entry in readable_entries(_neighbours(os.path.dirname(path)))
        if entry.path != path and pid_of(entry) is not None
        for step in entry.record.all_steps
        if isinstance(step, Relabel)
    }
    return lambda mine: any(mine.same(other) for other in others)


def _undo_tree(step: LabelTree, path: str, held: Callable[[Identity], bool], search: find.Search) -> None:
    """Put a tree back, or hand its notes to a live VM that shares it too."""
    from confined_qemu.labels import notes, trees

    mine = journal.notes_path(path, step.number)
    sharing = [
        (entry, journal.notes_path(entry.path, other.number))
        for entry in readable_entries(_neighbours(os.path.dirname(path)))
        if entry.path != path
        for other in entry.record.steps
        if isinstance(other, LabelTree) and other.identity.same(step.identity)
    ]
    for entry, its in sharing:
        if pid_of(entry) is not None:
            notes.append(its, notes.read([mine]).values())
            return
    trees.undo(step, [mine, *(its for _, its in sharing)], held, search)


def _neighbours(folder: str) -> list[str]:
    """Return the folders whose VMs may use the same files: root sees all, others their own."""
    return sorted({folder, *statefolders.all_folders()}) if os.geteuid() == 0 else [folder]


def _on_this_boot(step: JournalStep) -> JournalStep:
    """Return the step with the device number that its path has now: numbers of another boot may differ."""
    if not isinstance(step, Relabel | Sweep | LabelTree) or step.identity is None:
        return step
    try:
        device = os.lstat(step.path).st_dev
    except OSError:
        return step
    return replace(step, identity=replace(step.identity, device=device))


def finish(entry: journal.Entry, forgotten: frozenset[str] = frozenset()) -> Restored | None:
    """Put back a dead VM's labels, after its watcher if one is still at it; `forgotten` as in `recover`.

    Returns None when nothing was left to do.

    Raises:
        JournalError: the journal cannot be read.
    """
    descriptor = journal.take(entry.path, wait=True)
    if descriptor is None:
        return None
    try:
        return restore(entry.path, find.Search(forgotten=forgotten))
    finally:
        os.close(descriptor)


def recover(folders: list[str], forgotten: frozenset[str] = frozenset()) -> list[Restored]:
    """Put back the labels of every dead VM in these folders, each as the user whose folder it is.

    `forgotten` are paths whose files, if they are not found again, are gone by the word of who asks.

    What fails is in the results, and keeps nobody from the rest: a label, a journal, a whole folder.
    """
    done: list[Restored] = []
    for folder in folders:
        try:
            with _as_owner(folder):
                done.extend(_recovered(folder, forgotten))
        except JournalError as error:
            done.append(_failed(folder, error))
    return done


def _recovered(folder: str, forgotten: frozenset[str]) -> Iterator[Restored]:
    """Follow one folder of this process's user; yield what came of each VM that is not live."""
    found = journal.listing(folder)
    for bad in found.bad:
        yield _failed(bad.path, bad.error)
    for entry in found.entries:
        try:
            result = finish(entry, forgotten) if state_of(entry) is not State.LIVE else None
        except ConfinedQemuError as error:
            result = _failed(entry.path, error)
        if result is not None:
            yield result


def _failed(path: str, error: ConfinedQemuError) -> Restored:
    return Restored(os.path.basename(path), path, (error,))


@contextmanager
def _as_owner(folder: str) -> Iterator[None]:
    """Act with the rights of the folder's owner: root follows a user's journal to that user's files only."""
    owner = os.stat(folder)
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
