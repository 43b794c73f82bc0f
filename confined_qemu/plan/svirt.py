"""The sVirt rules: which context a VM's process and each of its files gets.

After the SELinux Wiki's sVirt page and libvirt's security_selinux.c; the policy's own files
`virtual_domain_context` and `virtual_image_context` name the types.
"""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.frozen import replace
from confined_qemu.model.invocation import Seclabel, SeclabelType
from confined_qemu.model.mcs import Level, Pair
from confined_qemu.model.resource import Sharing

if TYPE_CHECKING:
    from confined_qemu.model.context import Context, PolicyContexts


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
