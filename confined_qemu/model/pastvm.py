"""A VM that ran, or runs still, as its history tells: who it was, in which context, when, with which files. Pure."""

from __future__ import annotations

from confined_qemu.model.context import Context
from confined_qemu.model.lean import dataclass


@dataclass(frozen=True, slots=True)
class GivenFile:
    """A file that a VM was given, with the label that it got."""

    path: str
    inode: int
    label: str


@dataclass(frozen=True, slots=True)
class PastVm:
    """A VM that runs or ran. Times in milliseconds of the clock; `end` None: it may still run.

    `pid` is the launcher's, which became QEMU. `files` are those that were labelled for it.
    """

    name: str
    context: Context
    pid: int
    start: int
    end: int | None = None
    files: tuple[GivenFile, ...] = ()

    def lived(self, time: int) -> bool:
        """Tell whether `time` lies in its life."""
        return self.start <= time and (self.end is None or time <= self.end)

    def runs_as(self, context: Context) -> bool:
        """Tell whether a process in `context` is one of its: QEMU, or a helper at the same pair."""
        if context == self.context:
            return True
        mine = self.context.range
        return mine is not None and bool(mine.low.categories) and context.range == mine
