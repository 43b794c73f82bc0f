"""The sVirt rules: which context a VM's process and each of its files gets, and at which level. Pure.

After the SELinux Wiki's sVirt page and libvirt's security_selinux.c; the policy's own files
`virtual_domain_context` and `virtual_image_context` name the types.

What a policy with sensitivities (MLS) asks beyond categories is `Levels`. There a process reads what its level
dominates and writes at its own level only, whatever its type may do (reference policy, policy/mls: `l1 dom l2`,
`l1 eq l2`). On a policy with categories only (MCS) `Levels` changes nothing.
"""

from __future__ import annotations

from confined_qemu.model import policynames
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import Boolean
from confined_qemu.model.invocation import Seclabel, SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace
from confined_qemu.model.mcs import Level, Pair, Range
from confined_qemu.model.resource import Sharing

if TYPE_CHECKING:
    from confined_qemu.model.context import PolicyContexts
    from confined_qemu.model.facts import FileFacts, SelinuxFacts
    from confined_qemu.model.policy import Policy

_LOWEST = Level(0)


def process_context(contexts: PolicyContexts, seclabel: Seclabel, pair: Pair | None, *, tcg: bool) -> Context | None:
    """Return the context QEMU runs in, None for a VM of seclabel type none.

    A static label is taken whole. A dynamic VM gets the policy's domain (its TCG line for TCG, or the type of
    `baselabel`) at the pair; without a pair (a query) at the bare sensitivity.
    """
    if seclabel.type is SeclabelType.NONE:
        return None
    if seclabel.type is SeclabelType.STATIC:
        return seclabel.label
    base = contexts.tcg if tcg and contexts.tcg is not None else contexts.kvm
    if seclabel.baselabel is not None:
        base = replace(base, type=seclabel.baselabel.type)
    return base.at(_level(base, pair))


def file_context(contexts: PolicyContexts, process: Context, sharing: Sharing) -> Context | None:
    """Return the label for a file of a VM that runs as `process`; None leaves the file as it is.

    Private: the image type at the process's level. Shared: the same type without categories. Content: the
    content type without categories.
    """
    match sharing:
        case Sharing.PRIVATE:
            return replace(contexts.image, range=process.range)
        case Sharing.SHARED:
            return contexts.image
        case Sharing.CONTENT:
            return contexts.content
        case Sharing.UNLABELLED:
            return None


def label_by_hand(contexts: PolicyContexts, process: Context, sharing: Sharing, seclabel: Seclabel) -> Context:
    """Return the label that a person gives a file for a VM: at a static one's level, without a pair for all others."""
    label = file_context(contexts, process, sharing) or contexts.image
    static = seclabel.type is SeclabelType.STATIC
    return label if static or label.range is None else label.at(Level(label.range.low.sensitivity))


def _level(base: Context, pair: Pair | None) -> Level:
    sensitivity = base.range.low.sensitivity if base.range is not None else 0
    return pair.level(sensitivity) if pair is not None else Level(sensitivity)


# ---- levels


@dataclass(frozen=True, slots=True)
class Lowered:
    """What is said of a label that goes back to a lower level than the VM wrote at; nothing where it does not."""

    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of one VM that runs as `process`, and of its caller."""

    selinux: SelinuxFacts
    seclabel: Seclabel
    process: Context

    @property
    def caller(self) -> Level:
        """The level that the caller works at: the low end of its range."""
        found = self.selinux.caller
        return _low(found) if found is not None else _LOWEST

    @property
    def _own(self) -> Level:
        return _low(self.process)

    @property
    def _clearance(self) -> Level:
        found = self.selinux.caller
        return found.range.high if found is not None and found.range is not None else self._own

    @property
    def _static(self) -> bool:
        return self.seclabel.type is SeclabelType.STATIC

    def dynamic(self, pair: Pair | None) -> Context:
        """Return a dynamic VM's context at its caller's sensitivity, as libvirt takes its own; a query's at its level.

        On MCS the policy's own sensitivity, which the context has, is the only one.
        """
        if not self.selinux.mls:
            return self.process
        return self.process.at(self.caller if pair is None else pair.level(self.caller.sensitivity))

    @property
    def apart(self) -> bool:
        """Whether the VM's level is another than its caller's, so that what it says is not for the caller to read.

        A dynamic VM's pair is the launcher's choice and classifies nothing.
        """
        return self.selinux.mls and self._static and self._own != self.caller

    def pipe(self, label: Context) -> Context:
        """Return the label that makes a caller's pipe one that a dynamic VM may write to."""
        if not self.selinux.mls:
            return label.at(Level(self._own.sensitivity))
        return Context(label.user, "object_r", policynames.STDIO, Range.single(self.caller))

    @property
    def way(self) -> str:
        """How the caller gets to the VM's level."""
        return f"work at its level: newrole -l {Range(self._own, self._clearance)}{HINT}or give it /dev/null"

    @property
    def beyond(self) -> str | None:
        """What to say where the VM's level lies beyond the caller's clearance; None where it does not."""
        if not self.selinux.mls or self._clearance.dominates(self._own):
            return None
        return (
            f"the VM's level, {self._own}, is beyond your clearance, {self._clearance}"
            f"{HINT}give it a level that yours dominates"
        )

    # ---- files

    def given(self, sharing: Sharing, label: Context, found: Context | None) -> Context:
        """Return the label for a file that is there, at a level that MLS allows.

        What is only read keeps its level: the launcher lowers nothing. What static VMs share is at their one level.
        """
        if not self.selinux.mls:
            return label
        if sharing is Sharing.CONTENT and found is not None:
            return label.at(_low(found))
        return label.at(self._own) if sharing is Sharing.SHARED and self._static else label

    def kept(self, restore: Context, written_at: Context) -> Context:
        """Return a label to end with, not below the level that the file was written at."""
        return restore.at(_low(written_at)) if self.selinux.mls else restore

    def ended(self, contexts: PolicyContexts, found: Context | None, default: Context | None) -> Context:
        """Return the label to end with: as found, unless a dead VM left it; then the policy's.

        A static VM's own label is the administrator's work, and no label comes back at a lower sensitivity.
        """
        if found is None:
            return contexts.restored()
        stale = contexts.is_given(found) and bool(_low(found).categories)
        if not stale or (self._static and found.range == self.process.range):
            return found
        if self.selinux.mls:
            return contexts.restored().at(Level(_low(found).sensitivity))
        usable = default is not None and "image" in default.type and not contexts.is_given(default)
        return default if usable and default is not None else contexts.restored()

    def reader(self) -> Context:
        """Return as whom a file must be readable to be left alone: any VM of the sensitivity, or a static VM of MLS."""
        if self.selinux.mls and self._static:
            return self.process
        return self.process.at(Level(self._own.sensitivity))

    def lowered(self, given: Context, restore: Context | None, found: FileFacts, place: str, policy: Policy) -> Lowered:
        """Say that what the VM writes is readable at a lower level once the label is back (a dynamic pair apart).

        The launcher's domain may lower a label, its caller perhaps not: that takes a boolean. Without that domain the
        kernel asks what the caller may.
        """
        written = _low(given) if self._static else Level(_low(given).sensitivity)
        if not self.selinux.mls or restore is None or _low(restore).dominates(written):
            return Lowered()
        line = (
            f"{place}: written at {written} and then labelled {restore} again, where lower levels read it"
            f"{HINT}to keep its level: chcon -l {written} {found.real}"
        )
        if not self.selinux.in_domain or policy.boolean(policynames.LOWER_LABELS) is Boolean.ON:
            return Lowered(warnings=(line,))
        return Lowered((f"{line}{HINT}or, if they may: {policynames.turned_on(policynames.LOWER_LABELS)}",))

    def below(self, label: Context, path: str) -> str | None:
        """Say that a file lies below the caller's level, where the launcher would write down; None where not."""
        if not self.selinux.mls or _low(label).dominates(self.caller):
            return None
        return f"it is at {label.range}, below your level {self.caller}{HINT}run: chcon -l {self.caller} {path}"

    def mend(self, found: Context | None, path: str, chcon: str) -> str:
        """Return what to do about a file at another level: raise it, or bring the VM to one that it cannot read."""
        level = _low(found) if found is not None else self._own
        if not self.selinux.mls or self._own.dominates(level):
            return f"run: {chcon}"
        there = self.process.at(level)
        return f"give the VM the label {there}{HINT}or, if {self._own} may read {path}, run: {chcon}"

    def advice(self, sharing: Sharing) -> str:
        """Return what to do where a VM may not use the label that it would get; empty where MLS is not the reason."""
        if self.selinux.mls and sharing is Sharing.SHARED:
            return f"{HINT}give the VMs that share it one static label: a VM writes at its own level only"
        return ""


def _low(context: Context) -> Level:
    return context.range.low if context.range is not None else _LOWEST
