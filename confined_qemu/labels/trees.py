"""Labels a whole tree for a VM and puts it back, each inode by its own label; puts right what a VM made in a folder.

Before a label changes, the one that was there is in the notes beside the journal (`notes`), synced. Putting back
touches what still carries the VM's label: what is in the notes gets its own, what was made meanwhile its folder's.
"""

from __future__ import annotations

import errno
import os
import resource
import stat

from confined_qemu.host import inodes, lsm, walk
from confined_qemu.labels import find, notes
from confined_qemu.model.errors import HINT, ConfinedQemuError, LabelError, shell_word, why
from confined_qemu.model.facts import FileKind
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.mcs import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Identity
    from confined_qemu.model.steps import LabelTree

    Progress = Callable[[str, int, int], None]
    """Told the folder, how many entries are labelled, and of how many."""
    from confined_qemu.model.steps import Sweep

BATCH = 256
"""Entries whose notes are synced at once; each is held open until it is labelled."""
KINDS = frozenset({FileKind.REGULAR, FileKind.DIRECTORY, FileKind.SYMLINK})
"""What is labelled: a socket, a pipe or a device in a tree keeps its label."""


def left(kind: FileKind, links: int) -> bool:
    """Tell whether an entry keeps its label: one with other names would change under them too."""
    return kind not in KINDS or (links > 1 and kind is not FileKind.DIRECTORY)


@dataclass
class _Batch:
    """Entries that wait for their notes to be on disk."""

    path: str
    given: Context
    size: int
    held: list[tuple[int, str]] = field(default_factory=list)
    lines: list[notes.Note] = field(default_factory=list)

    def add(self, descriptor: int, shown: str, before: Context) -> None:
        """Keep an entry open until its note is on disk."""
        self.note(descriptor, before)
        self.held.append((os.dup(descriptor), shown))
        if len(self.held) >= self.size:
            self.flush()

    def note(self, descriptor: int, before: Context) -> None:
        """Write down an entry's label, whether it will change or not."""
        found = inodes.identity_of(descriptor)
        self.lines.append(notes.Note(found.inode, found.generation, before))

    def flush(self) -> None:
        """Sync the notes, then label what they are about."""
        try:
            if self.lines:
                notes.append(self.path, self.lines)
            for descriptor, shown in self.held:
                lsm.set_context(f"/proc/self/fd/{descriptor}", self.given, shown=shown)
        finally:
            self.drop()

    def drop(self) -> None:
        """Let go of what is held."""
        for descriptor, _ in self.held:
            os.close(descriptor)
        self.held.clear()
        self.lines.clear()


def give(step: LabelTree, path: str, apart: Collection[tuple[int, int]], progress: Progress) -> None:
    """Label the tree; what it was before goes to the notes at `path`.

    `apart` are the devices and inodes of what has a step of its own: it keeps the label that it got.

    Raises:
        LabelError: it is not what was planned for, or cannot be gone through whole.
        JournalError: the notes are not on disk.
        LsmError: SELinux refuses.
    """
    top = _top(step)
    if top is None:
        raise LabelError("disappeared during launch", where=step.path, hint="run again")
    # the caller's limit of open files stays as it is, for QEMU
    batch = _Batch(path, step.given, min(BATCH, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
    seen = 0
    try:
        for descriptor, found, shown in _all(step, top):
            seen += 1
            if seen > walk.MOST + 1:
                raise LabelError(f"more than {walk.MOST:,} entries, so its labels were put back", where=step.path)
            if (found.st_dev, found.st_ino) not in apart and not left(inodes.kind_of(found.st_mode), found.st_nlink):
                _one(step, batch, descriptor, shown)
            if seen % BATCH == 0:
                progress(step.path, min(seen, step.count), step.count)
        batch.flush()
    except OSError as error:
        raise LabelError(f"labels cannot be set on all of it: {why(error)}", where=step.path) from error
    finally:
        batch.drop()
        os.close(top)
        progress(step.path, step.count, step.count)


def _one(step: LabelTree, batch: _Batch, descriptor: int, shown: str) -> None:
    before = lsm.context_of(f"/proc/self/fd/{descriptor}")
    if before is None:
        raise LabelError("its file system has no SELinux labels", where=shown)
    if before == step.given:
        if not _is_a_vms(step.given):
            batch.note(descriptor, before)  # it had the label, and is not made by the VM
        return
    if before.type == step.given.type and _is_a_vms(before):
        raise LabelError(f"labelled for another VM meanwhile ({before})", where=shown, hint="run again")
    batch.add(descriptor, shown, before)


def _is_a_vms(context: Context) -> bool:
    """Tell whether a label is one VM's alone, by its categories."""
    return context.range is not None and bool(context.range.low.categories)


def _all(step: LabelTree, top: int) -> Iterator[tuple[int, os.stat_result, str]]:
    """Yield the folder itself and all below it."""

    def unread(shown: str, error: OSError) -> None:
        if error.errno != errno.ENOENT:
            raise LabelError(f"cannot be read: {why(error)}", where=shown)

    yield top, os.fstat(top), step.path
    for entry in walk.below(top, step.path, unread):
        yield entry.descriptor, entry.found, entry.shown


def _top(step: LabelTree) -> int | None:
    """Return the folder, open; None where it is gone or another one is there."""
    top = find.folder_at(step.path)
    if top is None:
        return None
    found = os.fstat(top)
    if (found.st_dev, found.st_ino) == (step.identity.device, step.identity.inode):
        return top
    os.close(top)
    return None


@dataclass
class _Back:
    """Putting a tree back: `folders` are the labels that the folders on the way to an entry have by now."""

    step: LabelTree
    known: Mapping[int, notes.Note]
    others_hold: Callable[[Identity], bool]
    folders: list[Context]
    new: int = 0

    def one(self, descriptor: int, found: os.stat_result, shown: str, depth: int) -> None:
        """Put back one entry, if it is one that we or the VM labelled."""
        path = f"/proc/self/fd/{descriptor}"
        now = lsm.context_of(path)
        if now is None:
            return
        if self._ours(now) and not self.others_hold(identity := inodes.identity_of(descriptor)):
            note = self.known.get(identity.inode)
            after = note.label if note is not None and note.is_of(identity) else self._made(now, depth)
            if after != now:
                lsm.set_context(path, after, shown=shown)
            now = after
        if stat.S_ISDIR(found.st_mode):
            self.enter(depth, now)

    def enter(self, depth: int, now: Context) -> None:
        """Note the label of a folder that is about to be entered."""
        del self.folders[depth:]
        self.folders.append(now)

    def _ours(self, now: Context) -> bool:
        """Tell whether it is the label that the tree got, or what a program makes in a folder that has it."""
        given = self.step.given
        if now == given:
            return True
        plain = Level(given.range.low.sensitivity) if given.range is not None else None
        levels = {given.range.low if given.range is not None else None, plain}
        return now.type == given.type and now.range is not None and now.range.low in levels

    def _made(self, now: Context, depth: int) -> Context:
        """Return the label of what was made meanwhile: its folder's."""
        if depth == 0:
            return self.step.before
        self.new += 1
        if self.new > walk.MOST:
            raise _too_many(self.step.path, self.step.given)
        return replace(self.folders[depth - 1], user=now.user)


def undo(
    step: LabelTree, paths: list[str], others_hold: Callable[[Identity], bool], search: find.Search | None = None
) -> None:
    """Put back what the notes at `paths` name, and label what was made in the tree meanwhile as its folder.

    Raises:
        JournalError: the notes cannot be read.
        find.NotFoundAgain: the folder is not where it was, and nobody can say that it is gone.
        LabelError, LsmError: something could not be put back; all else was.
    """
    known = notes.read(paths, step.given)
    search = search or find.Search()
    top = find.folder_again(step.path, step.identity, step.given, search)
    if top is None:
        return
    failed: list[ConfinedQemuError] = []

    def unread(shown: str, error: OSError) -> None:
        if error.errno == errno.ENAMETOOLONG:
            if step.path not in search.forgotten:
                failed.append(_too_deep(step.path, step.given, step.before))
        elif error.errno not in (errno.ENOENT, errno.EACCES):  # what may not be read now could not be labelled then
            failed.append(LabelError(f"cannot be read: {why(error)}", where=shown))

    try:
        search.changes.add(top, step.path)
        back = _Back(step, known, others_hold, [])
        back.one(top, os.fstat(top), step.path, 0)
        for entry in walk.below(top, step.path, unread):
            try:
                back.one(entry.descriptor, entry.found, entry.shown, entry.depth)
            except ConfinedQemuError as error:
                failed.append(error)
                back.enter(entry.depth, step.before)
    finally:
        os.close(top)
    if failed:
        raise failed[0]


# ---- what a VM made in a folder that outlives it

_FAULTS = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Why a folder below the share cannot be read though a VM may have made it; another one that the launcher may not read
is none of a VM's: it is closed to the launcher, or an overlay's own upper layer (ELOOP)."""


def sweep(step: Sweep, search: find.Search | None = None) -> None:
    """Give `step.restore` to every entry that carries `step.given`; a folder that is gone is left.

    The VM is dead by then, but others may write to the folder: an entry is opened, looked at and labelled through one
    descriptor, and one that became something else meanwhile is left as it is. No link is followed, no mount entered.

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
        raise _too_deep(step.path, step.given, step.restore)


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
            raise _too_many(step.path, step.given)
        lsm.set_context(entry.proc, step.restore, shown=entry.shown)
    return not deep


# ---- what is said where a folder holds more, or goes deeper, than what is put back at once
#
# Either message leads to the end of the journal: `recover` starts where the last one stopped, and what it does not
# enter a person puts right.


def _too_deep(path: str, given: Context, restore: Context) -> LabelError:
    """Return what is said of a folder that goes too deep: a person puts the rest right, and says so."""
    shown = shell_word(path)
    return LabelError(
        f"more than {walk.DEEPEST} folders deep: what lies there may still carry {given}",
        where=path,
        hint=f"run: find {shown} -xdev -context {shell_word(str(given))} -exec chcon -h {restore} {{}} +"
        f"{HINT}then run: confined-qemu recover --forget {shown}",
    )


def _too_many(path: str, given: Context) -> LabelError:
    """Return what is said of a folder in which so much was made that it is not put back at once."""
    return LabelError(
        f"more than {walk.MOST:,} entries were made in it: the others still carry {given}",
        where=path,
        hint="run: confined-qemu recover (it does as many again)",
    )
