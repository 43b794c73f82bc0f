"""One VM from invocation to exec: collect, reserve, plan, journal, label, and become QEMU.

The process that enters `launch` is the one that becomes QEMU: pid, parent, group, terminal, descriptors, masks
and environment stay the caller's.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from confined_qemu.host import emulator, inodes, lsm, processes, survey
from confined_qemu.labels import find, journal, restore, statefolders
from confined_qemu.launch import conflicts, execute, pairs, spawn
from confined_qemu.launch.collect import collect, followed
from confined_qemu.model import paths
from confined_qemu.model.errors import ConfinedQemuError, JournalError, LabelError, Refused, descriptor_for
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.frozen import replace
from confined_qemu.model.invocation import SeclabelType
from confined_qemu.model.policy import NO_POLICY
from confined_qemu.model.record import Record
from confined_qemu.model.steps import JournalStep, LabelTree, Relabel, StartHelper, Sweep
from confined_qemu.plan.planner import plan as make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from confined_qemu.labels.trees import Progress
    from confined_qemu.launch.collect import Caller
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.mcs import Pair
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.policy import Policy


def needs_labels(invocation: Invocation, mode: SelinuxMode) -> bool:
    """Tell whether SELinux will hold this VM, so that there are labels to set and to put back."""
    return mode is not SelinuxMode.DISABLED and not invocation.is_bare and not held_by_landlock(invocation, mode)


def held_by_landlock(invocation: Invocation, mode: SelinuxMode) -> bool:
    """Tell whether Landlock is to hold this VM: a question to QEMU starts none."""
    from confined_qemu.plan import landlock

    return not invocation.query and landlock.chosen(invocation.confinement, enforced=mode is SelinuxMode.ENFORCING)


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
        invocation, facts = _unlabelled(invocation, caller, mode)
        plan = accepted(make_plan(invocation, facts, _policy(mode)), warn)
        if plan.landlock is not None:
            from confined_qemu.launch import landlocked

            landlocked.become(plan, facts, caller, _argv0(invocation, plan, caller))
        execute.become(plan, execute.perform(plan), caller.environment, _argv0(invocation, plan, caller))
    folder = statefolders.user_folder(os.geteuid())
    invocation = followed(invocation)
    with ExitStack() as held:
        plan, registry = _planned(invocation, caller, folder, held, warn)
        files = _opened(plan)
        path, record = _journalled(folder, plan)
        done = execute.Performed()
        try:
            mine, its = _leash(plan)
            hold = journal.hold(path, plan.live) if plan.live is not None else None
            live = hold.watched if hold is not None else -1
            watcher = spawn.watcher(
                path, str(plan.process), (record, registry), spawn.Channels(caller.report, its, live, files)
            )
            done = execute.perform(plan, mine, hold, execute.Trees(path, progress))
            watcher.await_ready()
        except BaseException:
            held.close()
            done.end_helpers()
            restore.restore(path, find.Search(find.by_inode(files)))
            raise
    try:
        execute.become(plan, done, caller.environment, _argv0(invocation, plan, caller))
    except ConfinedQemuError:
        if statefolders.is_own(folder):
            done.end_helpers()
            restore.restore(path, find.Search(find.by_inode(files)))
        # else this process is the VM's user already, who may not: the watcher sees its end, and does all of it
        raise


def _opened(plan: Plan) -> tuple[int, ...]:
    """Open what will be put back: its name may be another when the VM ends. The exec closes it here.

    Raises:
        LabelError: one is not what was planned for, or cannot be opened; nothing was done yet.
    """
    found = []
    for step in plan.steps:
        if not isinstance(step, Relabel | LabelTree | Sweep) or step.identity is None:
            continue
        if isinstance(step, Relabel) and step.restore in (None, step.after):
            continue
        descriptor = find.at(step.path)
        if descriptor is not None:
            found.append(descriptor)
        if descriptor is None or not inodes.identity_of(descriptor).same(step.identity):
            raise LabelError(
                "it changed after the plan was made; nothing was done to it", where=step.path, hint="start again"
            )
    return tuple(found)


def _leash(plan: Plan) -> tuple[socket | None, int]:
    """Return our end and the watcher's of a socket for helpers' pidfds and new files; ours closes at the exec."""
    if not any(isinstance(step, StartHelper) or execute.lasts(step) for step in plan.steps):
        return None, -1
    from socket import socketpair

    with descriptor_for("what goes to the watcher"):
        mine, its = socketpair()
    return mine, its.detach()


def preview(invocation: Invocation, caller: Caller, pair: Pair | None = None) -> Plan:
    """Return the plan that `launch` would execute now, and change nothing; its pair is free at this moment."""
    mode = lsm.mode()
    if not needs_labels(invocation, mode) or invocation.query:
        return make_plan(*_unlabelled(invocation, caller, mode), _policy(mode))
    invocation = followed(invocation)
    facts = collect(
        invocation, caller, survey.as_launched(survey.selinux()), restore.holders(statefolders.readable_folders())
    )
    if pair is None or invocation.seclabel.type is SeclabelType.STATIC:
        registry = pairs.open_registry(os.path.join(statefolders.state_folder(), paths.PAIRS))
        facts = conflicts.reserved(registry, invocation, facts)
        os.close(registry)
    else:
        facts = replace(facts, pair=pair)
    return make_plan(invocation, facts, _policy(mode))


def _unlabelled(invocation: Invocation, caller: Caller, mode: SelinuxMode) -> tuple[Invocation, Facts]:
    """Return the invocation and the facts of a VM without labels, followed and asked of Landlock if that holds it."""
    if not held_by_landlock(invocation, mode):
        return invocation, collect(invocation, caller, survey.selinux(scan=False))
    from confined_qemu.host import landlockfacts

    kernel = landlockfacts.kernel()
    if kernel.abi:
        invocation = followed(invocation, confined=False)
    facts = collect(invocation, caller, survey.selinux(scan=False))
    found = landlockfacts.facts(kernel, invocation, facts, caller.environment) if kernel.abi else kernel
    return invocation, replace(facts, landlock=found)


def _policy(mode: SelinuxMode) -> Policy:
    return lsm if mode is not SelinuxMode.DISABLED else NO_POLICY


def _planned(
    invocation: Invocation, caller: Caller, folder: str, held: ExitStack, warn: Callable[[str], None]
) -> tuple[Plan, int]:
    """Return the plan and the descriptor that holds its pair; the folder's lock stays held."""
    conflicts.settle(invocation, caller.descriptors, folder, held)
    facts = collect(invocation, caller, survey.selinux(), restore.holders(statefolders.readable_folders()))
    registry = pairs.open_registry(os.path.join(statefolders.state_folder(), paths.PAIRS))
    facts = conflicts.reserved(registry, invocation, facts)
    return accepted(make_plan(invocation, facts, lsm), warn), registry


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
