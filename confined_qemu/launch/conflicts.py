"""Who stands in a VM's way: dead VMs whose labels are on its files, and live ones that hold its categories."""

from __future__ import annotations

import os

from confined_qemu.host import devices, inodes, survey
from confined_qemu.labels import find, journal, others, restore, statefolders
from confined_qemu.launch import pairs
from confined_qemu.model.errors import JournalError
from confined_qemu.model.facts import Occupant
from confined_qemu.model.invocation import SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.mcs import Window
from confined_qemu.model.steps import JournalStep, LabelTree, Relabel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts, LiveProcess
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.lean import ExitStack

_PAIR = 2
"""Categories of a pair."""
_TRIES = 3
"""How often a launch that meets a VM in the act of ending waits for it and looks again."""


def reserved(registry: pairs.Registry, invocation: Invocation, facts: Facts) -> Facts:
    """Return the facts with a dynamic VM's new pair, or with who is in the way of a static VM's level.

    Who holds categories is looked at here, for both and for the plan: once for most launches.
    """
    label = invocation.seclabel.label
    if invocation.seclabel.type is SeclabelType.STATIC and label is not None:
        facts = replace(facts, selinux=survey.scanned(facts.selinux))
        return replace(facts, occupants=_occupants(registry, facts, label))
    caller = facts.selinux.caller
    window = Window.of(caller.range if caller is not None else None)
    seen = facts.selinux

    def look() -> list[frozenset[int]]:
        nonlocal seen
        seen = survey.scanned(facts.selinux)
        return _categories(seen.live)

    pair = pairs.reserve(registry, window, [*_on_files(facts), *_pending()], _any_below, look)
    return replace(facts, pair=pair, selinux=seen)


def _occupants(registry: pairs.Registry, facts: Facts, label: Context) -> tuple[Occupant, ...]:
    """Reserve a static level, and return who has a part of it to itself: our dynamic VMs, and VMs of others."""
    if label.range is None:
        return ()
    mine = label.range.high.categories
    contexts = facts.selinux.contexts
    domains = {label.type} | (contexts.domains if contexts is not None else set())
    meeting = [
        (process, process.context.range.low)
        for process in facts.selinux.live
        if process.context.type in domains
        and process.context.range is not None
        and pairs.meet(mine, process.context.range.low.categories)
        and pairs.use_of(registry, process.context.range.low.categories) is not pairs.PairUse.STATIC
    ]
    names = _names() if meeting else {}
    found = [Occupant(names.get(process.context), process.pid, level) for process, level in meeting]
    if not pairs.reserve_level(registry, mine) and not found:
        # it is on its way: it has its pair, and no process at it yet
        starting = (
            Occupant(name, None, context.range.low)
            for context, name in _names().items()
            if context.range is not None and pairs.meet(mine, context.range.low.categories)
        )
        found.append(next(starting, Occupant(None, None, label.range.high)))
    return tuple(found)


def _names() -> dict[Context, str]:
    """Return the names of the live dynamic VMs that this user may see, by their contexts."""
    return {
        vm.entry.record.context: vm.entry.record.name
        for vm in restore.running(statefolders.readable_folders())
        if not vm.entry.record.static
    }


def _any_below(count: int) -> int:
    """Return a number that no VM can foresee, without the start-up time of the `random` module."""
    return int.from_bytes(os.urandom(8), "little") % count


def _on_files(facts: Facts) -> list[frozenset[int]]:
    """Return the category sets of the images at hand."""
    labels = [found.label for found in facts.files.values() if found.label is not None]
    return [label.range.low.categories for label in labels if label.range is not None]


def _pending() -> list[frozenset[int]]:
    """Return the category sets of VMs in the journals: files of one that has ended still carry them.

    Another user's journal may say anything: each one is believed one pair, which takes none of the others away.
    """
    folders = statefolders.readable_folders()
    own = [entry.record.context.range for entry in restore.own_entries(folders)]
    found = [claim.entry.record.context.range for claim in others.claims(folders)]
    claimed = [one for one in found if one is not None and len(one.low.categories) == _PAIR]
    return [one.low.categories for one in (*own, *claimed) if one is not None]


def _categories(processes: Iterable[LiveProcess]) -> list[frozenset[int]]:
    ranges = [process.context.range for process in processes]
    return [found.low.categories for found in ranges if found is not None]


def settle(invocation: Invocation, descriptors: Iterable[int], folder: str, held: ExitStack) -> None:
    """Do what dead VMs left to do on the files of this one, or among `descriptors`; then hold the folder's lock.

    Raises:
        JournalError: it cannot be done.
    """
    for _ in range(_TRIES):
        handed = survey.handed_files(descriptors)
        done = finish_dead(folder, invocation, handed)
        held.enter_context(journal.locked(folder))
        if all(entry.path in done for entry in dead(folder, invocation, handed)):
            return
        held.close()
    raise JournalError(
        "the labels that a VM left on these files after a crash cannot be put back",
        where=folder,
        hint="run: confined-qemu recover",
    )


def finish_dead(folder: str, invocation: Invocation, handed: Iterable[str] = ()) -> frozenset[str]:
    """Put back what dead VMs left on the files of this invocation.

    Returns the journals that are kept only for what is not found again: it is in nobody's way.
    """
    done = ((entry.path, restore.finish(entry)) for entry in dead(folder, invocation, handed))
    return frozenset(
        path
        for path, result in done
        if result is not None and all(isinstance(error, find.NotFoundAgain) for error in result.failed)
    )


def dead(folder: str, invocation: Invocation, handed: Iterable[str] = ()) -> list[journal.Entry]:
    """Return the dead VMs of this user whose labels are still on a file of this invocation or one `handed` over."""
    used = [
        *(resource.path for resource in invocation.resources),
        *(listener.path for listener in invocation.listeners),
        *(helper.folder for helper in invocation.helpers),
        *handed,
    ]
    mine = {os.path.realpath(node): _inode(node) for path in used for node in devices.node(path)[:1]}
    trees = {os.path.realpath(resource.path) for resource in invocation.resources if resource.label_tree}
    trees |= {os.path.realpath(helper.folder) for helper in invocation.helpers if helper.label_tree}
    return [
        entry
        for entry in journal.entries(folder)
        if restore.pid_of(entry) is None and any(_meets(step, mine, trees) for step in entry.record.all_steps)
    ]


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except (OSError, ValueError):
        return None


def _meets(step: JournalStep, mine: Mapping[str, int | None], trees: set[str]) -> bool:
    """Tell whether a step is about one of these files, also by another name; a tree's is about all that lie in it."""
    path = os.path.realpath(step.path)
    if isinstance(step, Relabel):
        in_tree = [path] if any(path.startswith(f"{tree}/") for tree in trees) else []
        same = [name for name, inode in mine.items() if inode == step.identity.inode]
        return any(_is_of(step, name) for name in (*in_tree, *same))
    if isinstance(step, LabelTree) and any(one.startswith(f"{path}/") for one in mine):
        return True
    return path in mine or any(path.startswith(f"{tree}/") for tree in trees)


def _is_of(step: Relabel, path: str) -> bool:
    """Tell whether it is the step's inode that is at `path`; another boot may have numbered the devices otherwise."""
    descriptor = find.at(path)
    if descriptor is None:
        return False
    try:
        now = inodes.identity_of(descriptor)
    finally:
        os.close(descriptor)
    return now.same(replace(step.identity, device=now.device))
