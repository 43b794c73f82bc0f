"""`ps`: the live VMs of this user (root: of everyone), from their journals and the kernel."""

from __future__ import annotations

from confined_qemu.host import lsm
from confined_qemu.labels import restore, statefolders
from confined_qemu.launch import heldvms
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError, ValueProblem, printable
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.invocation import Confinement
from confined_qemu.model.lean import TYPE_CHECKING, dataclass
from confined_qemu.model.steps import Relabel
from confined_qemu.model.xen import FLASK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from confined_qemu.labels.journal import Entry
    from confined_qemu.model.xen import LiveDomain

_HEADINGS = ("NAME", "PID", "ACCEL", "MEMORY", "WALL", "CONTEXT", "IMAGES")
_MEBIBYTE = 1 << 20
_BOTH = f"{Confinement.SELINUX}+{Confinement.LANDLOCK}"


@dataclass(frozen=True, slots=True)
class LiveVm:
    """One live VM. `memory` is its resident memory in bytes; `context` what the kernel says it runs in.

    `wall` is what holds it: `selinux`, `landlock` or, for both, `selinux+landlock`; for a domain of Xen's `flask`.
    """

    name: str
    pid: int
    context: Context | None
    accel: str
    memory: int
    images: tuple[str, ...]
    wall: str = Confinement.SELINUX

    def to_json(self) -> dict[str, Any]:
        """Return the object that `ps --json` prints for this VM."""
        return {
            "name": self.name,
            "pid": self.pid,
            "context": str(self.context) if self.context is not None else None,
            "accel": self.accel,
            "memory": self.memory,
            "images": list(self.images),
            "wall": self.wall,
        }


def live() -> tuple[LiveVm, ...]:
    """Return the live VMs, in the order of their names.

    Raises:
        JournalError: a journal cannot be read.
    """
    rows = [*_labelled(), *_held()]
    return tuple(sorted(rows, key=lambda row: (row.name, row.pid)))


def _labelled() -> Iterator[LiveVm]:
    """Yield the VMs that SELinux holds."""
    if lsm.mode() is SelinuxMode.DISABLED:
        return
    folders = statefolders.readable_folders()
    domains: dict[str, LiveDomain] | None = None
    for entry, pid in ((vm.entry, vm.pid) for vm in restore.running(folders)):
        if entry.record.domain is not None:
            domains = _domains() if domains is None else domains
            row = _domain(entry, pid, domains)
            if row is not None:
                yield row
            continue
        memory = _memory(pid)
        if memory is None:
            continue  # it has just ended
        context = lsm.process_context(pid)
        wall = _BOTH if entry.record.landlock else Confinement.SELINUX
        yield LiveVm(entry.record.name, pid, context, entry.record.accel, memory, _images(entry), wall)


def _held() -> Iterator[LiveVm]:
    """Yield the VMs that Landlock holds."""
    for vm in heldvms.live():
        memory = _memory(vm.pid)
        if memory is not None:
            yield LiveVm(vm.name, vm.pid, None, vm.accel, memory, vm.images, Confinement.LANDLOCK)


def _memory(pid: int) -> int | None:
    """Return a process's resident memory in bytes, None where it has ended."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _images(entry: Entry) -> tuple[str, ...]:
    return tuple(step.path for step in entry.record.all_steps if isinstance(step, Relabel))


def _domains() -> dict[str, LiveDomain]:
    """Return the domains that Xen has, by their uuids; none where xl does not say."""
    from confined_qemu.host import xl

    try:
        return {domain.uuid: domain for domain in xl.domains()}
    except HostError:
        return {}


def _domain(entry: Entry, pid: int, domains: dict[str, LiveDomain]) -> LiveVm | None:
    """Return the row of a domain of Xen's, None for one that is not there yet or no more."""
    found = domains.get(entry.record.domain or "")
    if found is None:
        return None
    try:
        context = Context.parse(found.label or "")
    except ValueProblem:
        context = None
    memory = found.memory * _MEBIBYTE
    return LiveVm(entry.record.name, pid, context, entry.record.accel, memory, _images(entry), FLASK)


def table(rows: tuple[LiveVm, ...]) -> list[str]:
    """Return the rows as lines for a person, under their headings."""
    cells = [_HEADINGS] + [
        (
            printable(row.name),
            str(row.pid),
            printable(row.accel),
            f"{row.memory // _MEBIBYTE}M",
            row.wall,
            str(row.context) if row.context is not None else "-",
            printable(" ".join(row.images)) or "-",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
