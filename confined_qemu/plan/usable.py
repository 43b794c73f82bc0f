"""Why a file cannot be used at all, by whichever wall the VM is held. Pure."""

from __future__ import annotations

from confined_qemu.model import hostpaths, labelrules
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.resource import Access, Role

if TYPE_CHECKING:
    from confined_qemu.model.facts import Facts, FileFacts
    from confined_qemu.model.resource import Resource

_COPY_VARIABLES = (
    f"the system's file for all VMs cannot be written{HINT}use a copy for this VM (cp {{}} ./VARS.fd), or readonly=on "
    "if it is the firmware's code"
)


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
        f"it belongs to uid {found.owner}, and the header of {resource.named_by} names it, which belongs to uid "
        f"{namer.owner}, who may not open it{HINT}chown one of the two if that is right"
    )


def named(resource: Resource) -> str:
    """Return what is to be known about a file that nobody typed, to be put behind a message about it."""
    if resource.named_by is None:
        return ""
    start = ", and QEMU starts relative names at its own working directory" if resource.role is Role.DATA_FILE else ""
    return f": the header of {resource.named_by} names it{start}{HINT}do not start an image that you do not trust"
