"""May a VM use a file as it is? What it needs, why it cannot be used at all, and which boolean opens it. Pure."""

from __future__ import annotations

from confined_qemu.model import hostpaths, labelrules, policynames
from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.facts import Boolean, FileFacts, FileKind
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.resource import TUN, Access, Resource, Role

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
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
_COPY_VARIABLES = (
    "it is the system's own, for all VMs, and no VM may write it"
    f"{HINT}use a copy for this VM (cp {{}} ./VARS.fd), or readonly=on if it is the firmware's code"
)


def needs(resource: Resource, *, opened: bool = True) -> tuple[str, ...]:
    """Return the permissions that QEMU needs on a file; an initrd and a file of guest memory it maps.

    `opened` False: it gets the file open.
    """
    found = (*_NEEDS[resource.access], *(("map",) if resource.role in _MAPPED else ()))
    return found if opened else tuple(permission for permission in found if permission != "open")


def by_qemu(resource: Resource, invocation: Invocation, facts: Facts) -> bool:
    """Tell whether QEMU opens a file itself: no tap device where the launcher attaches to each that there is.

    Fedora's policy lets a VM use an open one only.
    """
    there = sum(facts.files[tap.path].kind is not FileKind.MISSING for tap in invocation.taps)
    return resource.path != TUN or sum(one.path == TUN for one in invocation.resources) > there


def word(kind: FileKind) -> str:
    """Return what messages call a file."""
    return WORDS.get(kind, "file")


# ---- by whichever wall the VM is held


def writes(resource: Resource) -> bool:
    """Tell whether the VM writes the file."""
    return resource.access in (Access.READ_WRITE, Access.WRITE, Access.CREATE)


def unusable(resource: Resource, found: FileFacts, facts: Facts) -> str | None:
    """Return why a file cannot be used at all, by whichever wall the VM is held."""
    if found.problem is not None:
        return f"{found.problem}{named(resource)}"
    if resource.role is Role.NVRAM and writes(resource) and hostpaths.place(found.real) is labelrules.Place.SYSTEM:
        return _COPY_VARIABLES.format(shell_word(found.real))
    return found.used or _stranger(resource, found, facts)


def _stranger(resource: Resource, found: FileFacts, facts: Facts) -> str | None:
    """Return why a header may not name this file: root would hand an image what its owner may not open."""
    namer = facts.files.get(resource.named_by) if resource.named_by is not None else None
    if facts.uid != 0 or namer is None or namer.owner in (0, found.owner):
        return None
    if found.open_to_group(namer.group, writes=writes(resource)):
        return None
    return (
        f"the header of {resource.named_by} (uid {namer.owner}) names it, and that user may not open it "
        f"(uid {found.owner}){HINT}chown one of the two if that is right"
    )


def named(resource: Resource) -> str:
    """Return what is to be known about a file that nobody typed, to be put behind a message about it."""
    if resource.named_by is None:
        return ""
    start = ", and QEMU starts relative names at its own working directory" if resource.role is Role.DATA_FILE else ""
    return f": the header of {resource.named_by} names it{start}{HINT}do not start an image that you do not trust"


# ---- what opens a file that SELinux keeps closed


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
        f"{process} may not make a memory file in a folder labelled {label}{HINT}name a file in it "
        f"(mem-path={path}/NAME), or use memory-backend-memfd or /dev/hugepages"
    )
