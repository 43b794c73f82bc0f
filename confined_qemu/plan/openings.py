"""What a file needs, and what opens one that is closed as it is: a boolean, or another way to write it. Pure."""

from __future__ import annotations

from confined_qemu.model import policynames
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import Boolean, FileFacts, FileKind
from confined_qemu.model.resource import Access, Resource, Role

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.policy import Policy

WORDS = {
    FileKind.DIRECTORY: "folder",
    FileKind.CHARACTER: "character device",
    FileKind.SOCKET: "socket",
    FileKind.BLOCK: "block device",
    FileKind.FIFO: "pipe",
}
"""What messages call a file that is no plain one."""


_NEEDS = {
    Access.READ: ("open", "read"),
    Access.READ_WRITE: ("open", "read", "write"),
    Access.WRITE: ("open", "write"),
    Access.CREATE: ("open", "write"),
    Access.DIRECTORY: ("search",),
    Access.CONNECT: ("write",),
    Access.LISTEN: ("write",),
}
_RELABEL = {
    FileKind.BLOCK: policynames.USE_BLOCK_DEVICES,
    FileKind.CHARACTER: policynames.USE_HOST_DEVICES,
}
"""The boolean of our own module that lets the launcher relabel such a device."""
_MAPPED = frozenset({Role.INITRD, Role.MEMORY})


def needs(resource: Resource) -> tuple[str, ...]:
    """Return the permissions that QEMU needs on a file; an initrd and a file of guest memory it maps."""
    return (*_NEEDS[resource.access], *(("map",) if resource.role in _MAPPED else ()))


def word(kind: FileKind) -> str:
    """Return what messages call a file."""
    return WORDS.get(kind, "file")


def to_vms(label: Context | None, policy: Policy) -> str | None:
    """Return the command that opens what is left alone to VMs, None where no boolean of the policy does."""
    boolean = policynames.OPENING.get(label.type) if label is not None else None
    if boolean is None or policy.boolean(boolean) is not Boolean.OFF:
        return None
    return f"run: {policynames.turned_on(boolean)}"


def to_launcher(found: FileFacts, label: Context, policy: Policy) -> str | None:
    """Say why the launcher may not relabel a device, and which boolean lets it; None for what is no device."""
    boolean = _RELABEL.get(found.kind)
    if boolean is None:
        return None
    word = WORDS[found.kind]
    if policy.boolean(boolean) is Boolean.OFF:
        return f"the launcher may not relabel a {word}{HINT}run: {policynames.turned_on(boolean)}"
    return f"the launcher may not relabel a {word} of type {label.type}"


def memory_folder(path: str, label: Context, process: Context, policy: Policy) -> str | None:
    """Return why QEMU may not make its memory file, which gets no name, in a folder; None where it may.

    The policy lets a VM do so in a hugetlbfs and in /dev/shm.
    """
    made = policy.created(process, label, FileKind.REGULAR)
    if not (
        policy.denied(process, label, FileKind.DIRECTORY, ("search", "write", "add_name", "remove_name"))
        or policy.denied(process, made, FileKind.REGULAR, ("create", "open", "read", "write", "unlink"))
    ):
        return None
    return (
        f"{process} may make no memory file in a folder labelled {label}{HINT}name a file in it "
        f"(mem-path={path}/NAME), or use memory-backend-memfd or /dev/hugepages"
    )
