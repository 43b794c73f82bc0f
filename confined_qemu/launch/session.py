"""One VM from invocation to exec: collect, plan, and become QEMU; `labelled` does it where SELinux holds the VM.

The process that enters `launch` is the one that becomes QEMU: pid, parent, group, terminal, descriptors, masks
and environment stay the caller's.
"""

from __future__ import annotations

from confined_qemu.host import lsm, survey
from confined_qemu.launch import execute
from confined_qemu.launch.collect import collect, followed
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.frozen import replace
from confined_qemu.model.policy import NO_POLICY
from confined_qemu.plan.planner import plan as make_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from confined_qemu.labels.trees import Progress
    from confined_qemu.launch.collect import Caller
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.mcs import Pair
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.policy import Policy


def needs_labels(invocation: Invocation, mode: SelinuxMode) -> bool:
    """Tell whether SELinux will hold this VM, so that there are labels to set and to put back."""
    return mode is not SelinuxMode.DISABLED and not invocation.keeps_context and not held_by_landlock(invocation, mode)


def held_by_landlock(invocation: Invocation, mode: SelinuxMode) -> bool:
    """Tell whether Landlock is to hold this VM: a question to QEMU starts none."""
    return invocation.takes_landlock(enforced=mode is SelinuxMode.ENFORCING)


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
        plan = execute.accepted(make_plan(invocation, facts, _policy(mode)), warn)
        if plan.landlock is not None:
            from confined_qemu.launch import landlocked

            landlocked.become(plan, facts, caller, execute.argv0(invocation, plan, caller))
        done = execute.Performed()
        if plan.steps:  # a start loads nothing for none
            from confined_qemu.launch import performing

            done = performing.perform(plan)
        execute.become(plan, done, caller.environment, execute.argv0(invocation, plan, caller))
    from confined_qemu.launch import labelled

    labelled.become(invocation, caller, warn, progress)


def dry_run(invocation: Invocation, caller: Caller, pair: Pair | None = None) -> Plan:
    """Return the plan that `launch` would execute now, and change nothing; its pair is free at this moment."""
    mode = lsm.mode()
    if not needs_labels(invocation, mode) or invocation.query:
        return make_plan(*_unlabelled(invocation, caller, mode), _policy(mode))
    from confined_qemu.launch import labelled

    return labelled.dry_run(invocation, caller, pair)


def _unlabelled(invocation: Invocation, caller: Caller, mode: SelinuxMode) -> tuple[Invocation, Facts]:
    """Return the invocation and the facts of a VM without labels, followed and asked of Landlock if that holds it."""
    if not held_by_landlock(invocation, mode):
        return invocation, collect(invocation, caller, survey.selinux(scan=False))
    from confined_qemu.host import landlockfacts

    kernel = landlockfacts.kernel()
    if kernel.abi:
        invocation = followed(invocation, confined=False)
    facts = collect(invocation, caller, survey.selinux(scan=False))
    return invocation, replace(facts, landlock=landlockfacts.facts(kernel, facts, caller.environment))


def _policy(mode: SelinuxMode) -> Policy:
    return lsm if mode is not SelinuxMode.DISABLED else NO_POLICY
