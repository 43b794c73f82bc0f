"""Landlock as a second wall of a VM that SELinux holds: whether, and by which rules. Pure."""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import HINT
from confined_qemu.model.invocation import SecondWall
from confined_qemu.model.policy import denied
from confined_qemu.model.steps import StartHelper
from confined_qemu.read.qemu.monitors import opens_later

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.hardening import Hardening
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.policy import Policy
    from confined_qemu.model.ruleset import Ruleset
    from confined_qemu.model.steps import Step
    from confined_qemu.plan.landlock import LandlockPlanner

_LEAST = 2
"""The ABI from which it is a second wall unasked: under ABI 1 no file can be moved to another folder."""


def considered(invocation: Invocation) -> bool:
    """Tell whether to ask the kernel for Landlock: it is wanted by name, or QEMU will open nothing later."""
    if invocation.query or invocation.landlock is SecondWall.NO:
        return False
    return invocation.landlock is SecondWall.ALSO or not opens_later(invocation.arguments)


def refusal(invocation: Invocation, facts: Facts, hardening: Hardening) -> str | None:
    """Say why Landlock cannot hold the VM as well although that was asked for; None where it can, or nobody asked."""
    if invocation.landlock is not SecondWall.ALSO:
        return None
    found, without = facts.landlock, f"{HINT}or leave out landlock: also"
    if found is not None and found.problem is not None:
        return f"landlock: also: {found.problem}{without}"
    if found is None or found.abi == 0:
        return f"landlock: also: this kernel has no Landlock{HINT}boot one that has it (lsm=landlock,…){without}"
    if hardening.privileges is not None:
        return f"landlock: also needs no_new_privs, which this VM cannot have: {hardening.privileges}{without}"
    return None


def wanted(invocation: Invocation, facts: Facts, hardening: Hardening) -> bool:
    """Tell whether Landlock holds the VM as well."""
    found = facts.landlock
    if found is None or found.abi == 0 or hardening.privileges is not None or not considered(invocation):
        return False
    return invocation.landlock is SecondWall.ALSO or found.abi >= _LEAST


def helped(
    planner: LandlockPlanner, steps: Sequence[Step], own: Context | None, policy: Policy
) -> tuple[Ruleset, list[Step]]:
    """Return the VM's rules, and its steps with those of its helpers."""
    ruleset = planner.plan()
    serving = {helper.name: helper for helper in planner.invocation.helpers}

    def held(step: StartHelper) -> StartHelper:
        # its domain is entered with no_new_privs, as the VM's
        closed = own is not None and denied(policy, own, step.context, "process2", "nnp_transition")
        return step if closed else planner.helped(step, serving[step.name])

    return ruleset, [held(step) if isinstance(step, StartHelper) else step for step in steps]
