"""Asks the kernel about Landlock, and the host what a VM's rules are made of; changes nothing."""

from __future__ import annotations

from confined_qemu.host import installation, landlock
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import HINT, HostError
from confined_qemu.model.landlock import LandlockFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.model.facts import Facts


def kernel() -> LandlockFacts:
    """Return the kernel's ABI alone; one that cannot be asked is a `problem`."""
    try:
        return LandlockFacts(landlock.abi())
    except HostError as error:
        return LandlockFacts(0, problem=f"{error.what}{HINT}{error.hint}" if error.hint else error.what)


def facts(found_kernel: LandlockFacts, found: Facts, environment: Mapping[bytes, bytes]) -> LandlockFacts:
    """Return what the rules of this VM are made of on this host; a kernel without Landlock has none."""
    if not found_kernel.abi:
        return found_kernel
    return LandlockFacts(found_kernel.abi, installation.found(found.emulator.real, environment))
