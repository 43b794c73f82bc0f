"""`plan` and `check`: the plan that a launch would execute now, or would on a host with a given policy."""

from __future__ import annotations

import os

from confined_qemu.host import lsm
from confined_qemu.host.inherited import initial
from confined_qemu.launch import collect, session
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import UsageError
from confined_qemu.model.facts import SelinuxFacts, SelinuxMode
from confined_qemu.model.frozen import replace
from confined_qemu.model.invocation import Invocation
from confined_qemu.model.policy import NO_POLICY
from confined_qemu.plan.planner import plan as make_plan

if TYPE_CHECKING:
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.mcs import Pair
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.xen import XenDomain, XenPlan

_EXAMPLE = (1, 2)
"""The pair of a plan for another host, where nobody named one."""


def of(
    wanted: Invocation | XenDomain, descriptors: tuple[int, ...], *, pair: Pair | None, policy_root: str | None
) -> Plan | XenPlan:
    """Return the plan of a VM, or of a domain of Xen's.

    Raises:
        ConfinedQemuError: the host or the policy's folder cannot be read.
        UsageError: a domain's plan for another host: what Xen knows cannot be read from a folder.
    """
    if isinstance(wanted, Invocation):
        return plan(wanted, descriptors, pair=pair, policy_root=policy_root)
    from confined_qemu.launch import xen

    if policy_root is not None:
        raise UsageError("a Xen domain is planned in its dom0 only", hint="leave out --policy-root")
    return xen.dry_run(wanted, pair)


def plan(
    invocation: Invocation,
    descriptors: tuple[int, ...],
    *,
    pair: Pair | None = None,
    policy_root: str | None = None,
) -> Plan:
    """Return the plan; `policy_root` is a policy's folder, whose contexts stand for those of a host with SELinux.

    Raises:
        ConfinedQemuError: the host or the policy's folder cannot be read.
    """
    caller = collect.Caller(initial(), descriptors, "")
    if policy_root is not None:
        if session.needs_labels(invocation, SelinuxMode.ENFORCING):
            invocation = collect.followed(invocation, confined=False)
        return make_plan(invocation, _elsewhere(invocation, caller, policy_root, pair), NO_POLICY)
    return session.dry_run(invocation, caller, pair)


def _elsewhere(invocation: Invocation, caller: collect.Caller, policy_root: str, pair: Pair | None) -> Facts:
    """Return facts as on a host that enforces this policy and whose files carry no label yet."""
    from confined_qemu.model.mcs import Pair as MakePair

    contexts = lsm.policy_contexts(policy_root)
    here = SelinuxFacts(SelinuxMode.DISABLED)
    facts = collect.collect(invocation, caller, here)
    there = SelinuxFacts(SelinuxMode.ENFORCING, contexts=contexts, in_domain=True)
    return replace(facts, selinux=there, elsewhere=True, pair=pair or MakePair(*_EXAMPLE), uid=os.geteuid())
