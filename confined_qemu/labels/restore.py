"""Puts back what a VM's journal names: for its watcher, for the next launch, for `recover` and `settle`."""

from __future__ import annotations

import os

from confined_qemu.host import devices, lsm, processes
from confined_qemu.labels import find, history, journal, label, others, statefolders, strangers
from confined_qemu.model.errors import ConfinedQemuError, JournalError
from confined_qemu.model.facts import FileKind, Holder
from confined_qemu.model.lean import TYPE_CHECKING, Enum, ExitStack, dataclass, replace, suppress
from confined_qemu.model.steps import LabelTree, MakeFolder, OwnGroup, Relabel, Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from confined_qemu.model.context import PolicyContexts
    from confined_qemu.model.facts import Identity
    from confined_qemu.model.record import Record
    from confined_qemu.model.steps import JournalStep


_AT_ONCE = 256
"""Dead VMs that are put back under one lock; the descriptor of each one's journal is open meanwhile."""


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
    pending: tuple[ConfinedQemuError, ...] = ()
    """What has to wait, for another VM that uses it, or for who is in the VM's control group."""


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

    The VM whose journal is at `without` does not count. Another user's counts for what it may have labelled.
    """
    found: dict[Identity, tuple[Holder, ...]] = {}
    for entry, pid in _live(own_entries(folders)):
        if entry.path == without:
            continue
        for step in entry.record.all_steps:
            if not isinstance(step, Relabel | LabelTree):
                continue
            restored, more = (step.restore, _device(step)) if isinstance(step, Relabel) else (None, ())
            holder = Holder(entry.record.name, pid, step.exclusive, restored)
            for identity in (step.identity, *more):
                found[identity] = (*found.get(identity, ()), holder)
    claims = [claim for claim in others.claims(folders) if claim.pid is not None]
    contexts = lsm.policy_contexts() if claims else None
    for claim in claims:
        for step, holder in _claimed(claim, contexts):
            found[step.identity] = (*found.get(step.identity, ()), holder)
    return found


def _claimed(claim: others.Claim, contexts: PolicyContexts | None) -> Iterator[tuple[Relabel | LabelTree, Holder]]:
    """Yield what another user's VM may have: files at its own pair, and what VMs share."""
    level = claim.entry.record.context.range
    for step in claim.steps():
        label = others.given(step)
        at_its_pair = not others.is_shared(label) and label.range == level
        if at_its_pair or (others.is_shared(label) and contexts is not None and contexts.is_given(label)):
            exclusive = step.exclusive and at_its_pair
            yield step, Holder(claim.entry.record.name, claim.pid or 0, exclusive, None, label)


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


def own_entries(folders: list[str]) -> list[journal.Entry]:
    """Return the entries of those of these folders that are this user's."""
    return [entry for folder in folders if statefolders.is_own(folder) for entry in journal.entries(folder)]


def _live(entries: list[journal.Entry]) -> list[tuple[journal.Entry, int]]:
    return [(entry, pid) for entry in entries if (pid := pid_of(entry)) is not None]


@dataclass(frozen=True, slots=True)
class RunningVm:
    """A live VM of one of these folders: its journal, one of its processes, and its user."""

    entry: journal.Entry
    pid: int
    uid: int


def running(folders: list[str]) -> list[RunningVm]:
    """Return the live VMs; another user's is one where a process bears its journal out."""
    own = [RunningVm(entry, pid, os.geteuid()) for entry, pid in _live(own_entries(folders))]
    claims = others.claims(folders)
    return [*own, *(RunningVm(claim.entry, claim.pid, claim.uid) for claim in claims if claim.pid is not None)]


def restore(path: str, search: find.Search | None = None, *, resume: bool = True) -> Restored | None:
    """Put back what the journal at `path` names and remove it; the caller holds the journal's lock.

    `search` tells how files are found again. A file that could not be put back, not be found, or has to wait for
    another VM, keeps the journal, so that `recover` tries again. What has waited for this VM goes back too (`resume`).
    Returns None when the journal is gone: somebody else did it.

    Raises:
        JournalError: the journal cannot be read.
    """
    search = search or find.Search()
    folder = os.path.dirname(path)
    before = journal.read(path)
    if before is None:
        return None
    if before.domain is not None and before.boot_id == processes.boot_id():
        from confined_qemu.labels import domains

        try:
            domains.end(before.name, before.domain)
        except ConfinedQemuError as problem:
            return Restored(before.name, path, (problem,))
    # other users' folders are looked at before the lock is taken: that may last
    claims = others.claims(_neighbours(folder)) if others.may_be_shared(before) else []
    with journal.locked(folder):
        undone = _undone(path, own_entries(_neighbours(folder)), claims, search)
    if undone is None:
        return None
    # without the folder's lock, as a disk may be slow; nobody else takes up this journal meanwhile
    undone.failed.extend(search.changes.sync())
    if undone.is_whole:
        with journal.locked(folder):
            undone.forget()
    if resume:
        _resume(path, before, claims)
    return undone.result()


@dataclass(frozen=True, slots=True)
class _Undone:
    """A VM whose steps were undone: what failed, and what has to wait."""

    entry: journal.Entry
    failed: list[ConfinedQemuError]
    pending: tuple[ConfinedQemuError, ...]

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing is left to do."""
        return not self.failed and not self.pending

    def forget(self) -> None:
        """Remove its journal; the caller holds the folder's lock, and all is on disk."""
        history.remember(self.entry)
        journal.remove(self.entry.path)

    def result(self) -> Restored:
        """Return what came of it."""
        return Restored(self.entry.record.name, self.entry.path, tuple(self.failed), self.pending)


def _undone(path: str, own: list[journal.Entry], claims: list[others.Claim], search: find.Search) -> _Undone | None:
    """Undo what the journal at `path` names; the caller holds the folder's lock, under which `own` was read."""
    record = journal.read(path)
    if record is None:
        return None
    search = replace(search, own=not record.static, same_boot=record.boot_id == processes.boot_id())
    steps = record.all_steps
    if not search.same_boot:
        # a control group of that name is another VM's by now
        steps = tuple(_on_this_boot(step) for step in steps if not isinstance(step, OwnGroup))
    held = _others(path, record, own, claims)
    failed = _undo(path, steps, own, held, search)
    return _Undone(journal.Entry(path, record), failed, (*held.pending, *_remove_groups(steps)))


def _undo(
    path: str, steps: tuple[JournalStep, ...], own: list[journal.Entry], held: others.Others, search: find.Search
) -> list[ConfinedQemuError]:
    """Undo all steps: the labels of files, of the trees that they lie in, then folders of the VM's own."""
    failed = label.undo_all(tuple(step for step in steps if not isinstance(step, MakeFolder)), held, search)
    mine = others.by_place(steps)

    def apart(found: Identity) -> bool:
        return held(found) or any(found.same(step.identity) for step in mine.get(found.place, ()))

    for tree in reversed([step for step in steps if isinstance(step, LabelTree)]):
        if held.has_tree(tree):
            continue
        error = label.survived(tree.path, lambda tree=tree: _undo_tree(tree, path, own, apart, search))  # type: ignore[misc]
        failed += [error] if error is not None else []
    failed += label.undo_made(steps, search)
    return failed + label.undo_all(tuple(step for step in steps if isinstance(step, MakeFolder)), held, search)


def _remove_groups(steps: tuple[JournalStep, ...]) -> list[ConfinedQemuError]:
    """Remove control groups; return why one has to stay: it is in nobody's way, and whoever is in it is no VM's."""
    found = [step.path for step in steps if isinstance(step, OwnGroup)]
    if not found:
        return []
    from confined_qemu.host import cgroups

    errors = (label.survived(path, lambda path=path: cgroups.remove(path)) for path in found)  # type: ignore[misc]
    return [error for error in errors if error is not None]


def _resume(path: str, record: Record, claims: list[others.Claim]) -> None:
    """Put back what has waited for the end of this VM; what fails is kept, and is `recover`'s to tell."""
    mine = [step.identity for step in record.all_steps if isinstance(step, Relabel | LabelTree)]

    def meets(entry: journal.Entry) -> bool:
        steps = (step for step in entry.record.all_steps if isinstance(step, Relabel | LabelTree))
        return any(step.identity.same(one) for step in steps for one in mine)

    with suppress(ConfinedQemuError):
        for entry in own_entries(_neighbours(os.path.dirname(path))):
            if entry.path != path and meets(entry) and state_of(entry) is State.PENDING:
                finish(entry, resume=False)
    theirs = {os.path.dirname(claim.entry.path) for claim in claims if claim.pid is None and meets(claim.entry)}
    if theirs:
        strangers.follow(sorted(theirs), _rows, strangers.FOLLOWING)


def held_by_others(path: str) -> others.Others:
    """Return what tells whether a live VM other than the one whose journal is at `path` uses an inode.

    The caller holds the lock of the journal's folder.
    """
    record = journal.read(path)
    if record is None:
        raise JournalError("disappeared while it was used", where=path)
    folders = _neighbours(os.path.dirname(path))
    return _others(path, record, own_entries(folders), others.claims(folders))


def _others(path: str, record: Record, own: list[journal.Entry], claims: list[others.Claim]) -> others.Others:
    """Return it; only VMs that have one of the same inodes are asked whether they live."""
    mine = others.by_place(record.all_steps)
    whole = any(isinstance(step, LabelTree) for step in record.all_steps)

    def meets(entry: journal.Entry) -> bool:
        steps = (step for step in entry.record.all_steps if isinstance(step, Relabel))
        return whole or any(
            step.identity.same(one.identity) for step in steps for one in mine.get(step.identity.place, ())
        )

    met = [entry for entry in own if entry.path != path and meets(entry)]
    return others.Others(record, [entry for entry, _ in _live(met)], claims)


def _undo_tree(
    step: LabelTree, path: str, own: list[journal.Entry], held: Callable[[Identity], bool], search: find.Search
) -> None:
    """Put a tree back, or hand its notes to a live VM of this user that shares it too."""
    from confined_qemu.labels import notes, trees

    mine = journal.notes_path(path, step.number)
    sharing = [
        (entry, journal.notes_path(entry.path, other.number))
        for entry in own
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
    return sorted({folder, *statefolders.readable_folders()})


def _on_this_boot(step: JournalStep) -> JournalStep:
    """Return the step with the device number that its path has now: numbers of another boot may differ."""
    if not isinstance(step, Relabel | Sweep | LabelTree) or step.identity is None:
        return step
    try:
        device = os.lstat(step.path).st_dev
    except OSError:
        return step
    return replace(step, identity=replace(step.identity, device=device))


def finish(entry: journal.Entry, forgotten: frozenset[str] = frozenset(), *, resume: bool = True) -> Restored | None:
    """Put back a dead VM's labels, after its watcher if one is still at it; `forgotten` as in `recover`.

    `resume` as in `restore`. Returns None when nothing was left to do.

    Raises:
        JournalError: the journal cannot be read.
    """
    descriptor = journal.take(entry.path, wait=True)
    if descriptor is None:
        return None
    try:
        return restore(entry.path, find.Search(forgotten=forgotten), resume=resume)
    finally:
        os.close(descriptor)


def recover(folders: list[str], forgotten: frozenset[str] = frozenset()) -> list[Restored]:
    """Put back the labels of every dead VM in these folders: this user's here, another's as that user (`strangers`).

    `forgotten` are paths whose files, if they are not found again, are gone by the word of who asks.

    What fails is in the results, and keeps nobody from the rest: a label, a journal, a whole folder.
    """
    done: list[Restored] = []
    for folder in folders:
        if statefolders.is_own(folder):
            try:
                done.extend(_recovered(folder, forgotten))
            except ConfinedQemuError as error:
                done.append(_failed(folder, error))
    foreign = [folder for folder in folders if not statefolders.is_own(folder)]
    for answer in strangers.follow(foreign, lambda folder: _rows(folder, forgotten), strangers.FOLLOWING):
        done.extend(_of_row(answer.folder, row) for row in answer.rows)
        if answer.problem is not None:
            done.append(_failed(answer.folder, answer.problem))
    return done


def _recovered(folder: str, forgotten: frozenset[str] = frozenset()) -> Iterator[Restored]:
    """Follow one folder of this process's user; yield what came of each VM that is not live."""
    journal.clean(folder)
    found = journal.listing(folder)
    for bad in found.bad:
        yield _failed(bad.path, bad.error)
    ended: list[journal.Entry] = []
    for entry in found.entries:
        try:
            ended += [entry] if pid_of(entry) is None else []
        except ConfinedQemuError as error:
            yield _failed(entry.path, error)
    neighbours = _neighbours(folder)
    shared = any(others.may_be_shared(entry.record) for entry in ended)
    claims = others.claims(neighbours) if shared else []
    # a domain is ended first, which may last
    ending = [entry for entry in ended if entry.record.domain is not None]
    ended = [entry for entry in ended if entry.record.domain is None]
    for start in range(0, len(ended), _AT_ONCE):
        yield from _together(ended[start : start + _AT_ONCE], claims, find.Search(forgotten=forgotten), ending)
    for entry in ending:
        try:
            result = finish(entry, forgotten, resume=False)
        except ConfinedQemuError as error:
            result = _failed(entry.path, error)
        if result is not None:
            yield result


def _together(
    ended: list[journal.Entry], claims: list[others.Claim], search: find.Search, ending: list[journal.Entry]
) -> Iterator[Restored]:
    """Put back what these dead VMs of one folder left, which is read and synced once for all of them.

    Whose watcher is at it goes to `ending`.
    """
    folder = os.path.dirname(ended[0].path)
    done: list[_Undone] = []
    with ExitStack() as held:
        with journal.locked(folder):
            own = own_entries(_neighbours(folder))
            for entry in ended:
                try:
                    descriptor = journal.take(entry.path, wait=False)
                    if descriptor is None:
                        ending.append(entry)
                        continue
                    held.callback(os.close, descriptor)
                    undone = _undone(entry.path, own, claims, search)
                    done += [undone] if undone is not None else []
                except ConfinedQemuError as error:
                    yield _failed(entry.path, error)
        unsynced = search.changes.sync()
        with journal.locked(folder):
            for undone in done:
                undone.failed.extend(unsynced)
                if undone.is_whole:
                    undone.forget()
    yield from (undone.result() for undone in done)


def _failed(path: str, error: ConfinedQemuError) -> Restored:
    return Restored(os.path.basename(path), path, (error,))


def _rows(folder: str, forgotten: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Yield what came of a folder as values for JSON, from the child that follows it."""
    for result in _recovered(folder, forgotten):
        failed = [strangers.encode_error(error) for error in result.failed]
        pending = [strangers.encode_error(error) for error in result.pending]
        yield {"name": result.name, "file": os.path.basename(result.path), "failed": failed, "pending": pending}


def _of_row(folder: str, row: Any) -> Restored:
    fields = row if isinstance(row, dict) else {}
    lists = (fields.get("failed"), fields.get("pending"))
    failed, pending = (
        tuple(strangers.decode_error(one) for one in found) if isinstance(found, list) else () for found in lists
    )
    name, file = str(fields.get("name")), str(fields.get("file"))
    return Restored(name, os.path.join(folder, os.path.basename(file)), failed, pending)
