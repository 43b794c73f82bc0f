"""Ends a Xen domain whose launcher is gone: before the labels of its images go back, and never after."""

from __future__ import annotations

import os
import time

from confined_qemu.host import flask, xl
from confined_qemu.model.errors import HostError
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from confined_qemu.model.xen import LiveDomain


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
    found = _found(name, uuid)
    if found is None:
        return
    said = xl.run("destroy", str(found.number))
    deadline = time.monotonic() + _PATIENCE
    while _found(name, uuid) is not None:
        if said.code or time.monotonic() > deadline:
            reason = _denial(found.number) or said.reason if said.code else "it is still shutting down"
            raise HostError(
                f"the domain {name} ({found.number}) cannot be destroyed: {reason}; its images keep their labels",
                hint=f"run: xl destroy {found.number} && confined-qemu recover",
            )
        time.sleep(_PAUSE)


def _denial(number: int) -> str | None:
    """Return Flask's own words where it does not let dom0 destroy the domain: xl has none."""
    words = f" target=d{number} "
    return next((line for line in reversed(xl.denials()) if words in line and "{ destroy }" in line), None)


def _found(name: str, uuid: str) -> LiveDomain | None:
    """Return the domain, or None where there is none.

    Raises:
        HostError: it may be one that Flask does not let dom0 see.
    """
    domains = xl.domains()
    found = next((domain for domain in domains if domain.uuid == uuid), None)
    if found is None and flask.loaded().hides_one(domain.number for domain in domains):
        raise HostError(
            f"Flask keeps dom0 from seeing a domain, which may be {name}: its images keep their labels",
            hint="see which: xl dmesg | grep getdomaininfo; then run: confined-qemu recover",
        )
    return found
