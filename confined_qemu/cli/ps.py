"""`ps`: the live VMs of this user (root: of everyone), from their journals and the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confined_qemu.host import lsm
from confined_qemu.labels import restore, statefolders
from confined_qemu.model.errors import printable
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.frozen import dataclass
from confined_qemu.model.steps import Relabel

if TYPE_CHECKING:
    from confined_qemu.model.context import Context

_HEADINGS = ("NAME", "PID", "ACCEL", "MEMORY", "CONTEXT", "IMAGES")
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class LiveVm:
    """One live VM. `memory` is its resident memory in bytes; `context` what the kernel says it runs in."""

    name: str
    pid: int
    context: Context | None
    accel: str
    memory: int
    images: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `ps --json` prints for this VM."""
        return {
            "name": self.name,
            "pid": self.pid,
            "context": str(self.context) if self.context is not None else None,
            "accel": self.accel,
            "memory": self.memory,
            "images": list(self.images),
        }


def live() -> tuple[LiveVm, ...]:
    """Return the live VMs, in the order of their names.

    Raises:
        JournalError: a journal cannot be read.
    """
    import psutil

    if lsm.mode() is SelinuxMode.DISABLED:
        return ()
    folders = statefolders.readable_folders()
    rows = []
    for entry in restore.readable_entries(folders):
        pid = restore.pid_of(entry)
        if pid is None:
            continue
        try:
            memory = int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            continue  # it has just ended
        images = tuple(step.path for step in entry.record.all_steps if isinstance(step, Relabel))
        rows.append(LiveVm(entry.record.name, pid, lsm.process_context(pid), entry.record.accel, memory, images))
    return tuple(sorted(rows, key=lambda row: (row.name, row.pid)))


def table(rows: tuple[LiveVm, ...]) -> list[str]:
    """Return the rows as lines for a person, under their headings."""
    cells = [_HEADINGS] + [
        (
            printable(row.name),
            str(row.pid),
            printable(row.accel),
            f"{row.memory // _MEBIBYTE}M",
            str(row.context),
            printable(" ".join(row.images)) or "-",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
