"""Looks at what a VM's process can give up: the launcher's capabilities, and which files take one of them."""

from __future__ import annotations

import os
import stat

from confined_qemu.host import capabilities
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.facts import FileKind
from confined_qemu.model.hardening import HardeningFacts
from confined_qemu.model.resource import Access

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.model.facts import FileFacts
    from confined_qemu.model.invocation import Invocation

_READS = frozenset({Access.READ, Access.DIRECTORY})
_WRITES_ONLY = frozenset({Access.WRITE, Access.CONNECT})


def found(invocation: Invocation, files: Mapping[str, FileFacts]) -> HardeningFacts:
    """Return what this process has to give up for a VM whose files were looked at."""
    held = capabilities.held()
    if "dac_override" not in held or invocation.user is not None:
        return HardeningFacts(held)
    overridden = (
        files[resource.path].path
        for resource in invocation.resources
        if _takes_override(files[resource.path], resource.access)
    )
    return HardeningFacts(held, tuple(dict.fromkeys(overridden)))


def _takes_override(found: FileFacts, access: Access) -> bool:
    """Tell whether owner and mode of a file, or of a folder that leads to it, keep its user out who is no root."""
    folders, folder = [], os.path.dirname(found.real)
    while folder not in {"/", ""}:
        folders.append(folder)
        folder = os.path.dirname(folder)
    for path in folders:
        try:
            status = os.stat(path)
        except OSError:
            return False
        if not _may(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), 0o1):
            return True
    if found.kind is FileKind.MISSING:
        return False
    bits = (0o4 if access not in _WRITES_ONLY else 0) | (0o2 if access not in _READS else 0)
    return not _may(found.owner, found.group, found.mode, bits)


def _may(owner: int, group: int, mode: int, bits: int) -> bool:
    """Tell whether the mode gives this process all of `bits`, without any capability."""
    if owner == os.geteuid():
        return mode >> 6 & bits == bits
    if group == os.getegid() or group in os.getgroups():
        return mode >> 3 & bits == bits
    return mode & bits == bits
