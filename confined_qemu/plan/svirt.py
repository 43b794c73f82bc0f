"""The sVirt rules: which context a VM's process and each of its files gets.

After the SELinux Wiki's sVirt page and libvirt's security_selinux.c; the policy's own files
`virtual_domain_context` and `virtual_image_context` name the types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from confined_qemu.context import Context
from confined_qemu.errors import ValueProblem
from confined_qemu.invocation import Seclabel, SeclabelType
from confined_qemu.mcs import Level, Pair, Range
from confined_qemu.resource import Sharing
from confined_qemu.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

RESTORED_TYPE = "virt_image_t"
"""The type of an image that no VM uses, in every policy with a virt module."""


@dataclass(frozen=True, slots=True)
class PolicyContexts:
    """The policy's contexts for VMs. `tcg` is None where the policy has one domain for both accelerators (Debian)."""

    kvm: Context
    tcg: Context | None
    image: Context
    content: Context

    @classmethod
    def parse(cls, domain_text: str, image_text: str) -> PolicyContexts:
        """Read the two files: domain (KVM, then TCG where it has a line of its own) and image (private, content).

        Raises:
            ValueProblem: a line is missing or no context.
        """
        domains = _lines(domain_text, "virtual_domain_context", 1)
        images = _lines(image_text, "virtual_image_context", 2)
        return cls(domains[0], domains[1] if len(domains) > 1 else None, images[0], images[1])

    @property
    def domains(self) -> frozenset[str]:
        """The types that the policy gives to VMs."""
        return frozenset(context.type for context in (self.kvm, self.tcg) if context is not None)

    def restored(self) -> Context:
        """Return the label of an image that no VM uses, where nothing better is known."""
        return replace(self.image, type=RESTORED_TYPE, range=Range.single(Level(0)))

    def is_given(self, label: Context) -> bool:
        """Tell whether `label` is one that a VM's image got from us or from libvirt, not one of its own."""
        return label.type in (self.image.type, self.content.type)

    def is_a_vms(self, label: Context) -> bool:
        """Tell whether `label` is an image's at some VM's pair, so that it must not be trusted to stay readable."""
        return self.is_given(label) and label.range is not None and bool(label.range.low.categories)


def _lines(text: str, name: str, least: int) -> Sequence[Context]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) < least:
        raise ValueProblem(f"the policy's {name} has {len(lines)} of {least} contexts")
    return [Context.parse(line) for line in lines]


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
