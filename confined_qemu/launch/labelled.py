"""A launch that SELinux holds: reserve, plan, journal, label, and become QEMU; the watcher puts the labels back."""

from __future__ import annotations

import os

from confined_qemu.host import inodes, lsm, processes, survey
from confined_qemu.labels import find, journal, restore, statefolders
from confined_qemu.launch import collect, conflicts, execute, pairs, performing, spawn
from confined_qemu.model.errors import ConfinedQemuError, JournalError, LabelError, descriptor_for
from confined_qemu.model.lean import TYPE_CHECKING, ExitStack
from confined_qemu.model.record import Record
from confined_qemu.model.steps import JournalStep, LabelTree, Relabel, StartHelper, Sweep
from confined_qemu.plan.planner import plan as make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from typing import NoReturn

    from confined_qemu.labels.trees import Progress
    from confined_qemu.launch.collect import Caller
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.plan import Plan


def become(invocation: Invocation, caller: Caller, warn: Callable[[str], None], progress: Progress) -> NoReturn:
    """Become QEMU at labels of its own; `progress` is told how far the labelling of a tree is.

    Raises:
        ConfinedQemuError: nothing was started, and what had been labelled is as it was.
    """
    journal.tell_waits(warn)
    folder = statefolders.user_folder(os.geteuid())
    invocation = collect.followed(invocation)
    with ExitStack() as held:
        plan, registry = _planned(invocation, caller, folder, held, warn)
        files = _opened(plan)
        path, record = _journalled(folder, plan)
        done = execute.Performed()
        try:
            mine, its = _leash(plan)
            hold = journal.hold(path, plan.live) if plan.live is not None else None
            live = hold.watched if hold is not None else -1
            channels = spawn.Channels(
                caller.report, its, live, files, leaves=_leaves(plan), group=performing.own_group(plan)
            )
            watcher = spawn.watcher(path, str(plan.process), (record, *registry.descriptors), channels)
            done = performing.perform(plan, mine, hold, performing.Trees(path, progress))
            watcher.await_ready()
        except BaseException:
            held.close()
            done.end_helpers()
            restore.restore(path, find.Search(find.by_inode(files)))
            raise
    try:
        execute.become(plan, done, caller.environment, execute.argv0(invocation, plan, caller))
    except ConfinedQemuError:
        if statefolders.is_own(folder) and not done.given_up:
            done.end_helpers()
            restore.restore(path, find.Search(find.by_inode(files)))
        # else this process has given up what that takes, or is the VM's user: the watcher sees its end, and does it
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
            raise LabelError("changed during launch", where=step.path, hint="run again")
    return tuple(found)


def _leaves(plan: Plan) -> bool:
    """Tell whether what runs on when QEMU has ended is waited for, not killed: it was asked for, or may be others'."""
    own = plan.pair is not None or plan.live is not None
    return plan.daemonize or not own


def _leash(plan: Plan) -> tuple[socket | None, int]:
    """Return our end and the watcher's of a socket for helpers' pidfds and new files; ours closes at the exec."""
    if not any(isinstance(step, StartHelper) or performing.lasts(step) for step in plan.steps):
        return None, -1
    from socket import socketpair

    with descriptor_for("what goes to the watcher"):
        mine, its = socketpair()
    return mine, its.detach()


def _planned(
    invocation: Invocation, caller: Caller, folder: str, held: ExitStack, warn: Callable[[str], None]
) -> tuple[Plan, pairs.Registry]:
    """Return the plan and what holds its pair; the folder's lock stays held."""
    conflicts.settle(invocation, caller.descriptors, folder, held)
    facts = collect.labelled(invocation, caller, survey.selinux(scan=False))
    registry = pairs.open_registry()
    facts = conflicts.reserved(registry, invocation, facts)
    return execute.accepted(make_plan(invocation, facts, lsm), warn), registry


def _journalled(folder: str, plan: Plan) -> tuple[str, int]:
    if plan.process is None:
        raise JournalError("a plan without a context has nothing to journal")
    steps = tuple(step for step in plan.steps if isinstance(step, JournalStep))
    pid = os.getpid()
    ticks = processes.start_ticks(pid)
    if ticks is None:
        raise JournalError("the launcher's own process is missing in /proc", hint="mount /proc without hidepid")
    record = Record(
        plan.name,
        processes.boot_id(),
        pid,
        ticks,
        plan.accel.chosen,
        plan.process,
        steps,
        plan.live is not None,
        landlock=plan.landlock is not None,
    )
    return journal.write(folder, record)
