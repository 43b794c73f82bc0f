"""The plan that a launch would execute now, or would on a host with a given policy; nothing is changed."""

from __future__ import annotations

import os

from confined_qemu.host import lsm, survey
from confined_qemu.host.inherited import initial
from confined_qemu.launch import collect
from confined_qemu.model.errors import UsageError
from confined_qemu.model.facts import SelinuxFacts, SelinuxMode
from confined_qemu.model.invocation import Invocation, SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING, replace
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
        return make_plan(*_elsewhere(invocation, caller, policy_root, pair), NO_POLICY)
    return here(invocation, caller, pair)


def here(invocation: Invocation, caller: collect.Caller, pair: Pair | None = None) -> Plan:
    """Return the plan that `session.launch` would execute now; its pair is free at this moment."""
    mode = lsm.mode()
    if not collect.needs_labels(invocation, mode) or invocation.query:
        return make_plan(*collect.unlabelled(invocation, caller, mode), collect.policy(mode))
    invocation = collect.followed(invocation)
    facts = collect.labelled(invocation, caller, survey.as_launched(survey.selinux(scan=False)))
    if pair is not None and invocation.seclabel.type is not SeclabelType.STATIC:
        return make_plan(invocation, replace(facts, pair=pair, selinux=survey.scanned(facts.selinux)), lsm)
    from confined_qemu.launch import conflicts, pairs

    registry = pairs.open_registry()
    facts = conflicts.reserved(registry, invocation, facts)
    registry.close()
    return make_plan(invocation, facts, lsm)


def _elsewhere(
    invocation: Invocation, caller: collect.Caller, policy_root: str, pair: Pair | None
) -> tuple[Invocation, Facts]:
    """Return the invocation and facts as on a host that enforces this policy and whose files carry no label yet."""
    from confined_qemu.model.mcs import Pair as MakePair

    contexts = lsm.policy_contexts(policy_root)
    if collect.needs_labels(invocation, SelinuxMode.ENFORCING):
        invocation = collect.followed(invocation, confined=False)
    facts = collect.collect(invocation, caller, SelinuxFacts(SelinuxMode.DISABLED))
    there = SelinuxFacts(SelinuxMode.ENFORCING, contexts=contexts, in_domain=True)
    pair = pair or MakePair(*_EXAMPLE)
    return invocation, replace(facts, selinux=there, elsewhere=True, pair=pair, uid=os.geteuid())
