"""May QEMU be started in its context? Each reason why not, with what mends it. Pure."""

from __future__ import annotations

from confined_qemu.model import policynames
from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import Boolean
from confined_qemu.model.invocation import SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts, Occupant
    from confined_qemu.model.invocation import Seclabel
    from confined_qemu.model.policy import Policy

INSTALL = "confined-qemu policy install"
_USERDOMAIN = (policynames.TRANSITION_USERDOMAIN, policynames.VIRT_TRANSITION_USERDOMAIN)
"""Both must be on, where a policy has both, before QEMU starts in a person's domain."""


def unknown(seclabel: Seclabel, process: Context, policy: Policy) -> str | None:
    """Say that the loaded policy knows no such context; None when it does."""
    if policy.is_valid(process):
        return None
    return (
        f"{_source(seclabel)}: not a context of the loaded policy: {process}{HINT}see: semanage user -l; seinfo -r -x"
    )


def occupied(seclabel: Seclabel, process: Context, occupants: tuple[Occupant, ...]) -> list[str]:
    """Say who holds categories of a static level that nobody may share with it."""
    return [
        f"{_source(seclabel)}: {process.range} overlaps {occupant.level}, which is reserved for {_who(occupant)}"
        f"{HINT}choose other categories, or stop that VM"
        for occupant in occupants
    ]


def _who(occupant: Occupant) -> str:
    pid = f" (pid {occupant.pid})" if occupant.pid is not None else ""
    return f"the VM {occupant.name}{pid}" if occupant.name is not None else f"another VM{pid}"


def transition(seclabel: Seclabel, process: Context, facts: Facts, policy: Policy) -> str | None:
    """Say why QEMU may not be started as `process`, and what lets it; None when it may."""
    selinux = facts.selinux
    if selinux.own is None or selinux.contexts is None:
        return None
    denied = bool(policy.denied(selinux.own, process, "process", ("transition",)))
    if policy.user_type(process.role) == process.type:
        return _userdomain(seclabel, process, selinux.own, policy, denied=denied)
    if not denied:
        return None
    usual = selinux.contexts.kvm
    start = f"{selinux.own.type} may not transition to {process.type}"
    if process.type not in (domains := selinux.contexts.domains):
        return f"{_source(seclabel)}: {start}, which is not a VM's domain{HINT}use {' or '.join(sorted(domains))}"
    if process.range is not None:
        better = usual.at(process.range.low)
        if better != process and not policy.denied(selinux.own, better, "process", ("transition",)):
            return f"{_source(seclabel)}: {selinux.own} may not transition to {process}{HINT}write {better}"
    return f"{start}{HINT}run: {INSTALL}"


def _userdomain(seclabel: Seclabel, process: Context, own: Context, policy: Policy, *, denied: bool) -> str | None:
    off = [name for name in _USERDOMAIN if policy.boolean(name) is Boolean.OFF]
    what = f"{_source(seclabel)}: {process.type} is a user's domain, which confines no VM"
    if off:
        return f"{what}, and a boolean forbids it here{HINT}run: {policynames.turned_on(*off)}"
    if denied and policy.boolean(policynames.TRANSITION_USERDOMAIN) is Boolean.ABSENT:
        return f"{what}, and {own.type} may not transition to it{HINT}run: {INSTALL}"
    return f"{_source(seclabel)}: {own} may not transition to {process}" if denied else None


def way_back(facts: Facts, policy: Policy, what: str) -> str | None:
    """Say why the launcher may not give QEMU the caller's context back; None when it may."""
    own, caller = facts.selinux.own, facts.selinux.caller
    if own is None or caller is None or not policy.denied(own, caller, "process", ("transition",)):
        return None
    return (
        f"{what}: QEMU would keep your context, {caller.type}, to which the launch script may not transition"
        f"{HINT}start it by confined-qemu run or exec, or {facts.emulator.path} itself, or run: "
        + policynames.turned_on(policynames.TRANSITION_USERDOMAIN)
    )


def _source(seclabel: Seclabel) -> str:
    if seclabel.type is SeclabelType.STATIC:
        return "seclabel.label"
    return "seclabel.baselabel" if seclabel.baselabel is not None else "the policy's virtual_domain_context"


def permissive(process: Context) -> str:
    """Return what is said of a VM whose type is permissive on a host that enforces: nothing holds it."""
    return (
        f"{process.type} is permissive in this policy: what the VM is denied is logged and not enforced"
        f"{HINT}run: semanage permissive -d {process.type}"
    )
