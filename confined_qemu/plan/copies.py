"""A file that is only read and cannot be labelled where it lies: a copy of it, in a folder of the VM's own. Pure.

The usual one is the host's own kernel in /boot, which no VM may read, and whose label must stay. The copy has the VM's
label, its path stands in QEMU's argument, and it goes with the folder.
"""

from __future__ import annotations

import posixpath

from confined_qemu.model.commas import escape, split
from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import FileKind
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.plan import Outcome, PlannedResource
from confined_qemu.model.policy import denied
from confined_qemu.model.resource import PROBED, Access, Resource, Role, Sharing
from confined_qemu.model.steps import Copy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.policy import Policy
    from confined_qemu.plan.files import Wanted

LARGEST = 1 << 30
"""Bytes of all copies of a VM together: an ISO image of a CD-ROM, or a kernel and its initial RAM disk, fits."""
_ROLES = frozenset(
    {Role.KERNEL, Role.INITRD, Role.DTB, Role.FIRMWARE, Role.ACPI_TABLE, Role.FW_CFG, Role.SMBIOS, Role.OPTION_ROM}
    | {Role.CDROM, Role.DISK, Role.FLOPPY}
)


@dataclass
class CopyPlanner:
    """Plans the copies of one VM; `folder` plans the folder for them and returns its path."""

    invocation: Invocation
    facts: Facts
    policy: Policy
    label: Context | None
    folder: Callable[[], str]
    arguments: dict[int, str] = field(default_factory=dict)
    """QEMU's arguments as they have become so far, by their index."""
    _size: int = 0
    _count: int = 0

    def instead(self, wanted: Wanted, uses: Sequence[Resource], outcome: Outcome) -> Outcome:
        """Return what comes of a file that the VM may not use as it lies; `uses` are all that QEMU does with it.

        `outcome` holds the denial, and is returned where no copy helps.
        """
        found = wanted.found
        if self.label is None or found.identity is None:
            return outcome
        own = self.facts.selinux.own
        if found.kind is not FileKind.REGULAR or self.invocation.user is not None or not all(map(_copied, uses)):
            return outcome
        if own is not None and denied(self.policy, own, found.label, "file", "open", "read"):
            return outcome
        if self._size + found.size > LARGEST:
            more = f"{HINT}a copy for the VM would do, but copies may have {LARGEST >> 20} MiB together"
            return replace(outcome, denials=tuple(f"{line}{more}" for line in outcome.denials))
        target = posixpath.join(self.folder(), f"copy-{self._count}")
        changed = self._rewritten(uses, target)
        if changed is None:
            return outcome
        self.arguments |= changed
        self._size += found.size
        self._count += 1
        step = Copy(target, found.real, found.identity, found.size, self.label)
        copied = (replace(use, path=target, sharing=Sharing.PRIVATE) for use in uses)
        resources = tuple(PlannedResource(use, target, self.label, None) for use in copied)
        return Outcome(steps=(step,), resources=resources, arguments=changed)

    def _rewritten(self, uses: Sequence[Resource], target: str) -> dict[int, str] | None:
        """Return the arguments with the copy's path in them, None where one cannot be written so."""
        changed: dict[int, str] = {}
        for use in uses:
            if use.argument is None:
                return None
            before = changed.get(
                use.argument, self.arguments.get(use.argument, self.invocation.arguments[use.argument])
            )
            after = _replaced(before, use.path, target)
            if after is None:
                return None
            changed[use.argument] = after
        return changed


def _copied(use: Resource) -> bool:
    # one that QEMU looks into is refused where it names others (`headers`)
    plain = use.format in {None, "raw", PROBED} and use.named_by is None and use.sharing is Sharing.CONTENT
    return plain and use.role in _ROLES and use.access is Access.READ and use.label is None and use.relabel is not False


def _replaced(argument: str, path: str, target: str) -> str | None:
    """Return an argument with `target` for `path`: as the whole, or as a value of a comma list."""
    if argument == path:
        return target
    if argument.startswith("{") or "," in target:
        return None
    items = [item.partition("=") for item in split(argument)]
    places = [number for number, (key, equals, text) in enumerate(items) if (text if equals else key) == path]
    if not places:
        return None
    parts = [
        escape(f"{key}={target}" if equals else target) if number in places else escape(f"{key}{equals}{text}")
        for number, (key, equals, text) in enumerate(items)
    ]
    return ",".join(parts)
