"""Ends a Xen domain whose launcher is gone: before the labels of its images go back, and never after."""

from __future__ import annotations

import os
import time

from confined_qemu.host import xl
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import HostError

if TYPE_CHECKING:
    from typing import Final


_PATIENCE: Final = 60.0
"""Seconds for a destroyed domain to give back its memory, and its disks."""
_PAUSE: Final = 0.2


def end(name: str, uuid: str) -> None:
    """Destroy the domain that has this uuid, and return once it is gone; nothing where there is none.

    Raises:
        HostError: it cannot be destroyed, or does not go: its images are in use.
    """
    if os.geteuid() != 0:
        # only root starts domains: a journal of another user's that names one is a trap for root's `recover`
        raise HostError(f"the journal of {name} names a domain of Xen's, which only root starts", hint="remove it")
    found = xl.with_uuid(uuid)
    if found is None:
        return
    said = xl.run("destroy", str(found.number))
    deadline = time.monotonic() + _PATIENCE
    while xl.with_uuid(uuid) is not None:
        if said.code or time.monotonic() > deadline:
            reason = said.reason if said.code else "it is still shutting down"
            raise HostError(
                f"the domain {name} ({found.number}) cannot be destroyed: {reason}; its images keep their labels",
                hint=f"run: xl destroy {found.number} && confined-qemu recover",
            )
        time.sleep(_PAUSE)
