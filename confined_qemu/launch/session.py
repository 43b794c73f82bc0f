"""One VM from invocation to exec: `labelled` where SELinux holds it, else `unlabelled`.

The process that enters `launch` is the one that becomes QEMU: pid, parent, group, terminal, descriptors, masks
and environment stay the caller's.
"""

from __future__ import annotations

from confined_qemu.host import lsm
from confined_qemu.launch import collect
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from confined_qemu.labels.trees import Progress
    from confined_qemu.launch.collect import Caller
    from confined_qemu.model.invocation import Invocation


def _untold(folder: str, done: int, count: int) -> None:
    """Take no notice of how far a tree's labelling is."""


def launch(
    invocation: Invocation, caller: Caller, warn: Callable[[str], None], progress: Progress = _untold
) -> NoReturn:
    """Become QEMU, confined as the plan says; labels are put back by the watcher.

    `progress` is told how far the labelling of a tree is.

    Raises:
        ConfinedQemuError: nothing was started, and what had been labelled is as it was.
    """
    mode = lsm.mode()
    if collect.needs_labels(invocation, mode) and not invocation.query:
        from confined_qemu.launch import labelled

        labelled.become(invocation, caller, warn, progress)
    from confined_qemu.launch import unlabelled

    unlabelled.become(invocation, caller, mode, warn)
