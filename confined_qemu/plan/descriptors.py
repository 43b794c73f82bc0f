"""What happens to each descriptor that the caller hands over: it works in QEMU, or the launch is refused. Pure."""

from __future__ import annotations

from confined_qemu.model import hostpaths, policynames
from confined_qemu.model.errors import HINT
from confined_qemu.model.lean import TYPE_CHECKING, dataclass
from confined_qemu.model.plan import Outcome
from confined_qemu.model.resource import Access, Role
from confined_qemu.model.steps import Relay, Retag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import DescriptorFacts
    from confined_qemu.model.policy import Policy
    from confined_qemu.model.resource import Resource
    from confined_qemu.plan.svirt import Levels


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom the descriptors go to.

    `private` is the label of a file of the VM's own, `uid` the launcher's user, and `opened` the descriptors that QEMU
    opens anew by name, for which SELinux asks one permission more than for using what was handed over.
    """

    process: Context
    private: Context | None
    at: Levels
    policy: Policy
    uid: int
    opened: frozenset[int] = frozenset()
    labelled: frozenset[int] = frozenset()
    """Those whose file gets a label of the VM's (`files`)."""


def files(
    descriptors: Iterable[DescriptorFacts], process: Context, own: Context, policy: Policy
) -> dict[int, Resource]:
    """Return the files that are to be labelled for a VM because it got them by number, as if they had been named.

    Those that it may not use as they are, and that the launcher (`own`) may label: an image, or a log among images.
    """
    found = {}
    for descriptor in descriptors:
        label, path = descriptor.label, descriptor.path
        if descriptor.kind != "file" or descriptor.swapped or label is None or path is None:
            continue
        if not policy.denied(process, label, "file", _uses(descriptor)):
            continue
        if policy.denied(own, label, "file", ("relabelfrom",)):
            continue
        access = Access.READ if not descriptor.writable else Access.WRITE
        role = Role.LOG if not descriptor.readable else Role.DISK
        if descriptor.readable and descriptor.writable:
            access = Access.READ_WRITE
        resource = hostpaths.resource(path, role, access, f"descriptor {descriptor.number}")
        if resource is not None:
            found[descriptor.number] = resource
    return found


def _uses(descriptor: DescriptorFacts) -> list[str]:
    return (["read"] if descriptor.readable else []) + (["write"] if descriptor.writable else [])


def decide(descriptor: DescriptorFacts, to: Recipient) -> Outcome:
    """Return the step that brings a descriptor to a VM, or why it cannot be; neither if it is so.

    At exec the kernel swaps a descriptor that the new domain may not use for a null device
    (`security/selinux/hooks.c`, `flush_unauthorized_files`), so it is asked beforehand.
    """
    label, name = descriptor.label, f"descriptor {descriptor.number}"
    if descriptor.number in to.labelled or (label is None and not descriptor.swapped):
        return Outcome()
    if descriptor.swapped or label is None:
        return _denial(
            f"{name} was replaced by a null device when {policynames.LAUNCHER} was entered"
            f"{HINT}pass a pipe or a file, or start from a context that may share it"
        )
    permissions = [*_uses(descriptor), *(["open"] if descriptor.number in to.opened else [])]
    missing = to.policy.denied(to.process, label, descriptor.kind, permissions)
    if not missing:
        return Outcome()
    return _brought(descriptor, to, label, permissions, missing)


def _brought(
    descriptor: DescriptorFacts, to: Recipient, label: Context, permissions: list[str], missing: tuple[str, ...]
) -> Outcome:
    """Return how a descriptor that the VM may not use as it is becomes one that it may use, or why not."""
    what = f"descriptor {descriptor.number} ({label})"
    denied = f"{what}: {to.process.type} may not {' and '.join(missing)} it"
    if to.at.apart:
        return _denial(f"{what}: {to.process} may not {' and '.join(missing)} it{HINT}{to.at.way}")
    if descriptor.kind == "unix_stream_socket":
        return Outcome(steps=(Relay(descriptor.number, to.process),))
    if descriptor.kind == "file" and not descriptor.links and to.private is not None:
        # nobody finds it by name any more, and who has it open keeps it: as good as the VM's own
        return _retagged(descriptor, to, to.private, permissions, denied)
    if descriptor.kind == "fifo_file":
        return _retagged(descriptor, to, to.at.pipe(label), permissions, denied)
    if missing == ("open",):
        denied += f" by name (/proc/self/fd/N, /dev/stdout){HINT}name the file itself, or use QEMU's stdio"
    else:
        denied += f"{HINT}{_BY_PIPE}"
    return _denial(denied)


_BY_PIPE = "send it through a pipe instead, for example: ... | cat"


def _retagged(
    descriptor: DescriptorFacts, to: Recipient, label: Context, permissions: list[str], denied: str
) -> Outcome:
    if to.policy.denied(to.process, label, descriptor.kind, permissions):
        return _denial(f"{denied}{HINT}{_BY_PIPE}")
    if to.uid in (0, descriptor.owner):
        return Outcome(steps=(Retag(descriptor.number, label),))
    owner = f"it belongs to uid {descriptor.owner}, who alone could bring it to the VM's level"
    return _denial(f"{denied}: {owner}{HINT}{_BY_PIPE}")


def _denial(line: str) -> Outcome:
    return Outcome(denials=(line,))
