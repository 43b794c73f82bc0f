"""One VM from invocation to exec: collect, reserve, plan, journal, label, and become QEMU.

The process that enters `launch` is the one that becomes QEMU: pid, parent, group, terminal, descriptors, masks
and environment stay the caller's.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from confined_qemu.host import emulator, lsm, packages, processes, survey
from confined_qemu.labels import journal, restore, statefolders
from confined_qemu.launch import execute, pairs, spawn
from confined_qemu.model import paths
from confined_qemu.model.distribution import Family
from confined_qemu.model.errors import ConfinedQemuError, JournalError, Refused
from confined_qemu.model.facts import Facts, FileKind, Holder, Identity, Occupant, SelinuxFacts, SelinuxMode
from confined_qemu.model.frozen import dataclass, replace
from confined_qemu.model.invocation import Invocation, SeclabelType
from confined_qemu.model.mcs import Window
from confined_qemu.model.policy import NO_POLICY
from confined_qemu.model.record import Record
from confined_qemu.model.steps import JournalStep, LabelTree, StartHelper
from confined_qemu.plan.planner import plan as make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from socket import socket

    from confined_qemu.labels.trees import Progress
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import FileFacts, FolderFacts
    from confined_qemu.model.helper import HelperKind
    from confined_qemu.model.mcs import Pair
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.policy import Policy

_TRIES = 3
"""How often a launch that meets a VM in the act of ending waits for it and looks again."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What the caller handed over, taken before anything else was opened."""

    environment: Mapping[bytes, bytes]
    descriptors: tuple[int, ...]
    argv0: str
    report: int = -1
    """Where the watcher tells `run` how it went; -1 without."""


def needs_labels(invocation: Invocation, mode: SelinuxMode) -> bool:
    """Tell whether SELinux will hold this VM, so that there are labels to set and to put back."""
    return mode is not SelinuxMode.DISABLED and not invocation.is_bare


def followed(invocation: Invocation, *, confined: bool = True) -> Invocation:
    """Return the invocation with the files that its images name in their headers; `confined` as in `probe.follow`.

    Raises:
        HostError, LsmError: the headers cannot be read safely.
    """
    if not any(resource.layered for resource in invocation.resources):
        return invocation
    from confined_qemu.host import probe

    return probe.follow(invocation, confined=confined)


def collect(
    invocation: Invocation,
    caller: Caller,
    selinux: SelinuxFacts,
    holders: Mapping[Identity, tuple[Holder, ...]] | None = None,
) -> Facts:
    """Return the facts about this invocation, without a pair."""
    search = survey.environment_text(caller.environment, "PATH")
    program = emulator.find(invocation.emulator, search)
    served, programs = _helped(invocation, selinux, holders or {})
    named = [resource.path for resource in invocation.resources]
    return Facts(
        selinux=selinux,
        kvm=survey.accelerator(),
        emulator=survey.file(program, selinux),
        files=survey.files([*named, *survey.handed_files(caller.descriptors)], selinux),
        folders=served,
        programs=programs,
        distribution=_distribution(programs),
        holders=holders or {},
        descriptors=survey.descriptors(caller.descriptors, selinux),
        instance=str(os.getpid()),
        uid=os.geteuid(),
        folder=os.getcwd(),
        runtime_folder=_runtime_folder(caller),
        temporary_folder=survey.environment_text(caller.environment, "TMPDIR") or "/var/tmp",  # noqa: S108 - QEMU's own
    )


def _distribution(programs: Mapping[HelperKind, FileFacts]) -> Family:
    """Return the host's family of distributions where something is to be installed; nobody else asks."""
    missing = any(program.kind is FileKind.MISSING for program in programs.values())
    return packages.family() if missing else Family.UNKNOWN


def _helped(
    invocation: Invocation, selinux: SelinuxFacts, holders: Mapping[Identity, tuple[Holder, ...]]
) -> tuple[Mapping[str, FolderFacts], Mapping[HelperKind, FileFacts]]:
    """Return the folders that are shared or served, and the programs that serve them; most VMs have none."""
    from confined_qemu.plan import helpers

    if not helpers.folders(invocation):
        return {}, {}
    from confined_qemu.host import helperfacts

    return helperfacts.folders(invocation, selinux, holders), helperfacts.programs(invocation, selinux)


def _runtime_folder(caller: Caller) -> str:
    if os.geteuid() == 0:
        return paths.RUNTIME
    base = survey.environment_text(caller.environment, "XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.join(base, "confined-qemu")


def _argv0(invocation: Invocation, plan: Plan, caller: Caller) -> str:
    """Return what QEMU is started as: the caller's own word where there is one."""
    return caller.argv0 or emulator.argv0(invocation.emulator, plan.emulator)


def _untold(folder: str, done: int, count: int) -> None:
    """Take no notice of how far a tree's labelling is."""


def launch(
    invocation: Invocation, caller: Caller, warn: Callable[[str], None], progress: Progress = _untold
) -> NoReturn:
    """Become QEMU, confined as the plan says; labels are put back by the watcher.

    `progress` is told how far the labelling of a tree is.

    Raises:
        ConfinedQemuError: nothing was started, and what had been labelled is as it was.
    """
    mode = lsm.mode()
    if invocation.query or not needs_labels(invocation, mode):
        facts = collect(invocation, caller, survey.selinux(scan=False))
        plan = accepted(make_plan(invocation, facts, _policy(mode)), warn)
        execute.become(plan, execute.perform(plan), caller.environment, _argv0(invocation, plan, caller))
    folder = statefolders.user_folder(os.geteuid())
    invocation = followed(invocation)
    with ExitStack() as held:
        plan, registry = _planned(invocation, caller, folder, held, warn)
        path, record = _journalled(folder, plan)
        done = execute.Performed()
        try:
            mine, its = _leash(plan)
            hold = journal.hold(path, plan.live) if plan.live is not None else None
            live = hold.watched if hold is not None else -1
            watcher = spawn.watcher(
                path, str(plan.process), (record, registry), spawn.Channels(caller.report, its, live)
            )
            done = execute.perform(plan, mine, hold, execute.Trees(path, progress))
            watcher.await_ready()
        except BaseException:
            held.close()
            done.end_helpers()
            restore.restore(path)
            raise
    try:
        execute.become(plan, done, caller.environment, _argv0(invocation, plan, caller))
    except ConfinedQemuError:
        done.end_helpers()
        restore.restore(path)
        raise


def _leash(plan: Plan) -> tuple[socket | None, int]:
    """Return our end and the watcher's of a socket for helpers' pidfds; ours closes at the exec."""
    if not any(isinstance(step, StartHelper) for step in plan.steps):
        return None, -1
    from socket import socketpair

    mine, its = socketpair()
    return mine, its.detach()


def preview(invocation: Invocation, caller: Caller, pair: Pair | None = None) -> Plan:
    """Return the plan that `launch` would execute now, and change nothing; its pair is free at this moment."""
    mode = lsm.mode()
    if not needs_labels(invocation, mode) or invocation.query:
        return make_plan(invocation, collect(invocation, caller, survey.selinux(scan=False)), _policy(mode))
    invocation = followed(invocation)
    facts = collect(
        invocation, caller, survey.as_launched(survey.selinux()), restore.holders(statefolders.readable_folders())
    )
    if pair is None or invocation.seclabel.type is SeclabelType.STATIC:
        registry = pairs.open_registry(os.path.join(statefolders.state_folder(), paths.PAIRS))
        facts = _reserved(registry, invocation, facts)
        os.close(registry)
    else:
        facts = replace(facts, pair=pair)
    return make_plan(invocation, facts, _policy(mode))


def _policy(mode: SelinuxMode) -> Policy:
    return lsm if mode is not SelinuxMode.DISABLED else NO_POLICY


def _planned(
    invocation: Invocation, caller: Caller, folder: str, held: ExitStack, warn: Callable[[str], None]
) -> tuple[Plan, int]:
    """Return the plan and the descriptor that holds its pair; the folder's lock stays held."""
    facts = _settled(invocation, caller, folder, held)
    registry = pairs.open_registry(os.path.join(statefolders.state_folder(), paths.PAIRS))
    facts = _reserved(registry, invocation, facts)
    return accepted(make_plan(invocation, facts, lsm), warn), registry


def _reserved(registry: int, invocation: Invocation, facts: Facts) -> Facts:
    """Return the facts with a dynamic VM's new pair, or with who is in the way of a static VM's level."""
    label = invocation.seclabel.label
    if invocation.seclabel.type is SeclabelType.STATIC and label is not None:
        return replace(facts, occupants=_occupants(registry, facts, label))
    caller = facts.selinux.caller
    window = Window.of(caller.range if caller is not None else None)
    return replace(facts, pair=pairs.reserve(registry, window, _taken(facts), _any_below))


def _occupants(registry: int, facts: Facts, label: Context) -> tuple[Occupant, ...]:
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
        entry.record.context: entry.record.name
        for entry in restore.readable_entries(statefolders.readable_folders())
        if not entry.record.static and restore.pid_of(entry) is not None
    }


def _any_below(count: int) -> int:
    """Return a number that no VM can foresee, without the start-up time of the `random` module."""
    return int.from_bytes(os.urandom(8), "little") % count


def _taken(facts: Facts) -> list[frozenset[int]]:
    """Return the category sets that a new pair must not lie in: live processes', and those on the images."""
    contexts = [process.context for process in facts.selinux.live]
    contexts += [found.label for found in facts.files.values() if found.label is not None]
    return [context.range.low.categories for context in contexts if context.range is not None]


def _settled(invocation: Invocation, caller: Caller, folder: str, held: ExitStack) -> Facts:
    """Return the facts with the folder's lock held, and no dead VM's work left on a file of this one."""
    for _ in range(_TRIES):
        handed = survey.handed_files(caller.descriptors)
        for entry in dead(folder, invocation, handed):
            restore.finish(entry)
        held.enter_context(journal.locked(folder))
        if not dead(folder, invocation, handed):
            return collect(invocation, caller, survey.selinux(), restore.holders(statefolders.readable_folders()))
        held.pop_all().close()
    raise JournalError(
        "labels that a dead VM left on these files cannot be put back",
        where=folder,
        hint="run: confined-qemu recover",
    )


def dead(folder: str, invocation: Invocation, handed: Iterable[str] = ()) -> list[journal.Entry]:
    """Return the dead VMs of this user whose labels are still on a file of this invocation or one `handed` over."""
    used = [
        *(resource.path for resource in invocation.resources),
        *(listener.path for listener in invocation.listeners),
        *(helper.folder for helper in invocation.helpers),
        *handed,
    ]
    mine = {os.path.realpath(path) for path in used}
    trees = {os.path.realpath(resource.path) for resource in invocation.resources if resource.label_tree}
    trees |= {os.path.realpath(helper.folder) for helper in invocation.helpers if helper.label_tree}
    return [
        entry
        for entry in journal.entries(folder)
        if restore.pid_of(entry) is None and any(_meets(step, mine, trees) for step in entry.record.all_steps)
    ]


def _meets(step: JournalStep, mine: set[str], trees: set[str]) -> bool:
    """Tell whether a step is about one of these files; a tree's is about all that lie in it."""
    path = os.path.realpath(step.path)
    if isinstance(step, LabelTree) and any(one.startswith(f"{path}/") for one in mine):
        return True
    return path in mine or any(path.startswith(f"{tree}/") for tree in trees)


def accepted(plan: Plan, warn: Callable[[str], None]) -> Plan:
    """Return a plan that may be executed; its warnings are said.

    Raises:
        Refused: it may not.
    """
    for line in plan.warnings:
        warn(line)
    if plan.refusals:
        raise Refused(plan.refusals)
    return plan


def _journalled(folder: str, plan: Plan) -> tuple[str, int]:
    if plan.process is None:
        raise JournalError("a plan without a context has nothing to journal")
    steps = tuple(step for step in plan.steps if isinstance(step, JournalStep))
    pid = os.getpid()
    ticks = processes.start_ticks(pid)
    if ticks is None:
        raise JournalError("the launcher cannot see itself in /proc", hint="mount /proc without hidepid")
    record = Record(
        plan.name, processes.boot_id(), pid, ticks, plan.accel.chosen, plan.process, steps, plan.live is not None
    )
    return journal.write(folder, record)
