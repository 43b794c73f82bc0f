"""A launch without labels, held by Landlock or by nothing: no journal, and a companion only where something is removed.

What is made for the VM is removed by `companions/tidy.py` when it has ended. A note in the runtime folder lets `ps` and
`allow` find the VM; it means nothing once its process is gone, and the next launch removes it.
"""

from __future__ import annotations

import os

from confined_qemu.launch import collect, execute
from confined_qemu.model.errors import HostError, why
from confined_qemu.model.lean import TYPE_CHECKING, suppress
from confined_qemu.plan.planner import plan as make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from confined_qemu.launch.collect import Caller
    from confined_qemu.model.facts import Facts, SelinuxMode
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.steps import RemovedStep


def become(invocation: Invocation, caller: Caller, mode: SelinuxMode, warn: Callable[[str], None]) -> NoReturn:
    """Plan, make what the plan names, and become QEMU.

    Raises:
        ConfinedQemuError: nothing was started, and what had been made is removed.
    """
    invocation, facts = collect.unlabelled(invocation, caller, mode)
    plan = execute.accepted(make_plan(invocation, facts, collect.policy(mode)), warn)
    removals = _removals(plan)
    before = {step.path for step in removals if os.path.lexists(step.path)}
    done = execute.Performed()
    try:
        if plan.steps:  # a start loads nothing for none
            from confined_qemu.launch import performing

            done = performing.perform(plan)
        wanted = [what for step in removals if step.path not in before and (what := _removal(step)) is not None]
        mark = _note(plan, facts)
        if wanted:
            _tidy(wanted, caller.report, mark if plan.daemonize else -1)
    except BaseException:
        done.end_helpers()
        _undo(step for step in removals if step.path not in before)
        raise
    if plan.daemonize and mark >= 0:
        os.set_inheritable(mark, True)  # noqa: FBT003 - positional by definition
    execute.become(plan, done, caller.environment, execute.argv0(invocation, plan, caller))


def _note(plan: Plan, facts: Facts) -> int:
    """Leave the note by which `ps` finds a VM that Landlock holds; -1 where nothing holds it, or it has none."""
    if plan.landlock is None:
        return -1
    from confined_qemu.launch import heldvms

    return heldvms.note(plan, facts)


def _removals(plan: Plan) -> list[RemovedStep]:
    """Return the steps that leave something to be removed."""
    if not plan.steps:
        return []  # a start loads nothing for them
    from confined_qemu.model.steps import RemovedStep

    return [step for step in plan.steps if isinstance(step, RemovedStep)]


def _removal(step: RemovedStep) -> str | None:
    """Return what the companion is told of something that is to be removed (`tidy.py`)."""
    from confined_qemu.model.steps import Listen, MakeFile, OwnFolder

    match step:
        case MakeFile(remove=False, remove_empty=False):
            return None
        case Listen(by_qemu=True):
            return f"socket:0:0:{step.path}"
        case MakeFile(remove_empty=True):
            kind = "empty"
        case OwnFolder():
            kind = "folder"
        case _:
            kind = "file"
    found = os.lstat(step.path)
    return f"{kind}:{found.st_dev}:{found.st_ino}:{step.path}"


def _tidy(wanted: list[str], report: int, mark: int) -> None:
    from confined_qemu.launch import spawn

    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError as error:
        raise HostError(f"no descriptor for the companion: {why(error)}", hint="see: ulimit -n") from error
    kept = [number for number in (pidfd, report, mark) if number >= 0]
    spawn.program("tidy", [str(pidfd), str(report), str(mark), *wanted], kept)
    os.close(pidfd)
    if report >= 0:
        os.close(report)


def _undo(steps: Iterable[RemovedStep]) -> None:
    """Remove what was made for a VM that is not started."""
    from confined_qemu.model.steps import OwnFolder

    for step in steps:
        with suppress(OSError):
            os.rmdir(step.path) if isinstance(step, OwnFolder) else os.unlink(step.path)
