"""What happens to each descriptor that the caller hands over: it works in QEMU, or the launch is refused. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confined_qemu.plan.steps import Relay, Retag

if TYPE_CHECKING:
    from confined_qemu.context import Context
    from confined_qemu.facts import DescriptorFacts
    from confined_qemu.plan.decisions import Policy
    from confined_qemu.plan.levels import Levels


def decide(
    descriptor: DescriptorFacts, process: Context, at: Levels, policy: Policy, uid: int
) -> tuple[Relay | Retag | None, str | None]:
    """Return the step that brings a descriptor to a VM of context `process`, or why it cannot be; neither if it is so.

    `uid` is the launcher's. At exec the kernel swaps a descriptor that the new domain may not use for a null device
    (`security/selinux/hooks.c`, `flush_unauthorized_files`), so it is asked beforehand.
    """
    name = f"descriptor {descriptor.number}"
    if descriptor.swapped:
        return None, (
            f"{name}: SELinux took it away when the launcher started, so what it carried would be lost; "
            "give a pipe or a file of yours instead, or start from a context that may share it"
        )
    permissions = (["read"] if descriptor.readable else []) + (["write"] if descriptor.writable else [])
    label = descriptor.label
    missing = policy.denied(process, label, descriptor.kind, permissions) if label is not None else ()
    if not missing or label is None:
        return None, None
    if at.apart:
        return None, f"{name} ({label}): {process} may not {' and '.join(missing)} it; {at.way}"
    if descriptor.kind == "unix_stream_socket":
        return Relay(descriptor.number, process), None
    retagged = at.pipe(label)
    if descriptor.kind == "fifo_file" and not policy.denied(process, retagged, "fifo_file", permissions):
        if uid in (0, descriptor.owner):
            return Retag(descriptor.number, retagged), None
        name += f" belongs to uid {descriptor.owner}, who alone could bring it to the VM's level"
    return None, (
        f"{name} ({label}): {process.type} may not {' and '.join(missing)} it; "
        "send it through a pipe instead, for example: ... | cat"
    )
