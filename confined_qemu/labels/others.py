"""Who else uses a file whose label is to be put back: other VMs of this user, by their journals, and other users'.

What another user's journal says is a claim. It counts where a process of that user really runs in that context, a VM's,
and the file carries the very label that the claim names: then the label waits for that VM. Nobody's label is taken from
a claim: what a file was called before, only its own user's journals know.
"""

from __future__ import annotations

import os

from confined_qemu.host import inodes, processes, selinuxfs
from confined_qemu.labels import statefolders, strangers
from confined_qemu.model.errors import LabelError
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field
from confined_qemu.model.steps import LabelTree, Relabel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from confined_qemu.labels.journal import Entry
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Identity
    from confined_qemu.model.record import Record
    from confined_qemu.model.steps import JournalStep


@dataclass(frozen=True, slots=True)
class Claim:
    """What another user's journal says of a VM; `pid` is a process that bears it out, None without one."""

    entry: Entry
    uid: int
    seen: frozenset[tuple[int, int]]
    pid: int | None

    def steps(self) -> Iterator[Relabel | LabelTree]:
        """Yield the steps about files that the user may read at all."""
        for step in self.entry.record.all_steps:
            if isinstance(step, Relabel | LabelTree) and (step.identity.device, step.identity.inode) in self.seen:
                yield step

    def of(self, identity: Identity) -> Relabel | LabelTree | None:
        """Return the step that names an inode."""
        return next((step for step in self.steps() if step.identity.same(identity)), None)


def claims(folders: Iterable[str]) -> list[Claim]:
    """Return what the journals in other users' folders claim; only root can know."""
    foreign = [folder for folder in folders if not statefolders.is_own(folder)]
    if not foreign or os.geteuid() != 0:
        return []
    found = strangers.entries(foreign)
    boot, domains = processes.boot_id(), selinuxfs.vm_domains()
    may_live = [one for one in found if one.entry.record.boot_id == boot and one.entry.record.context.type in domains]
    wanted = {(one.entry.record.context, one.uid) for one in may_live}
    running = processes.run_by(wanted) if wanted else {}
    return [
        Claim(
            one.entry, one.uid, one.seen, running.get((one.entry.record.context, one.uid)) if one in may_live else None
        )
        for one in found
    ]


def given(step: Relabel | LabelTree) -> Context:
    """Return the label that a step gives."""
    return step.after if isinstance(step, Relabel) else step.given


def is_shared(label: Context) -> bool:
    """Tell whether VMs of several users may use what has this label: a VM's own has its pair."""
    return label.range is None or not label.range.low.categories


def may_be_shared(record: Record) -> bool:
    """Tell whether another user's VM may use something whose label this VM's end puts back."""
    return any(
        (isinstance(step, Relabel) and step.restore not in (None, step.after) and is_shared(step.after))
        or (isinstance(step, LabelTree) and is_shared(step.given))
        for step in record.all_steps
    )


def by_place(steps: Iterable[JournalStep]) -> dict[tuple[int, int], list[Relabel]]:
    """Return the steps about one file each, by `Identity.place` of that file."""
    found: dict[tuple[int, int], list[Relabel]] = {}
    for step in steps:
        if isinstance(step, Relabel):
            found.setdefault(step.identity.place, []).append(step)
    return found


@dataclass
class Others:
    """Tells whether somebody else uses an inode, for one VM whose labels are put back; called with the inode.

    `own` are the entries of this user's other live VMs. What has to wait for a VM is noted in `pending`.
    """

    record: Record
    own: list[Entry]
    claims: list[Claim]
    pending: list[LabelError] = field(default_factory=list)
    _held: dict[tuple[int, int], list[tuple[Entry, Relabel]]] = field(default_factory=dict)
    """The files of `own`, by `Identity.place`: a tree asks for each of a hundred thousand."""
    _mine_at: dict[tuple[int, int], list[Relabel]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.own:
            for place, steps in by_place(entry.record.all_steps).items():
                self._held.setdefault(place, []).extend((entry, step) for step in steps)
        self._mine_at.update(by_place(self.record.all_steps))

    def __call__(self, mine: Identity) -> bool:
        """Tell whether the label stays: another VM's end puts it back, or it waits for that."""
        step = self._mine(mine)
        holders = [(entry, other) for entry, other in self._held.get(mine.place, ()) if other.identity.same(mine)]
        if holders:
            if step is not None and all(other.restore is None for _, other in holders):
                self._wait(step.path, f"the VM {holders[0][0].record.name}")
            return True
        if step is None or not is_shared(given(step)):
            return False
        for claim in self.claims:
            its = claim.of(mine) if claim.pid is not None else None
            if its is not None and given(its) == given(step):
                self._wait(step.path, f"the VM {claim.entry.record.name} of uid {claim.uid} (pid {claim.pid})")
                return True
        if isinstance(step, Relabel) and os.geteuid() != 0 and self._open_elsewhere(step):
            self._wait(step.path, "another user's VM, by its lock")
            return True
        return False

    def has_tree(self, step: LabelTree) -> bool:
        """Tell whether another user's VM has the same tree, so that its labels wait for that."""
        for claim in self.claims:
            its = claim.of(step.identity) if claim.pid is not None else None
            if isinstance(its, LabelTree) and its.given == step.given and is_shared(step.given):
                self._wait(step.path, f"the VM {claim.entry.record.name} of uid {claim.uid} (pid {claim.pid})")
                return True
        return False

    def _mine(self, identity: Identity) -> Relabel | LabelTree | None:
        """Return the step by which this VM has an inode: its own, else the tree that it may lie in."""
        own = (step for step in self._mine_at.get(identity.place, ()) if step.identity.same(identity))
        return next(own, None) or next((step for step in self.record.all_steps if isinstance(step, LabelTree)), None)

    def _open_elsewhere(self, step: Relabel) -> bool:
        """Tell whether a VM of another user has the image open; whose journal says so is hidden from this user."""
        try:
            descriptor = os.open(step.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            locked = inodes.identity_of(descriptor).same(step.identity) and inodes.in_use(descriptor)
        finally:
            os.close(descriptor)
        return locked and processes.others_run(selinuxfs.vm_domains() | {self.record.context.type})

    def _wait(self, path: str, who: str) -> None:
        self.pending.append(
            LabelError(
                f"is still used by {who}, and keeps its label until that ends",
                where=path,
                hint="run then: confined-qemu recover",
            )
        )
