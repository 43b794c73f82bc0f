"""PCI devices that dom0 has made ready for a domain (`xl pci-assignable-add`), and whether Xen has an IOMMU."""

from __future__ import annotations

import os
import re

from confined_qemu.host import xl
from confined_qemu.model.errors import HostError
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


_DRIVER: Final = "/sys/bus/pci/drivers/pciback"
_ADDRESS: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def assignable() -> tuple[str, ...]:
    """Return the addresses of the devices that pciback holds, in their order."""
    try:
        names = os.listdir(_DRIVER)
    except OSError:
        return ()
    return tuple(sorted(name for name in names if _ADDRESS.fullmatch(name)))


def iommu() -> bool:
    """Tell whether Xen has one that it uses for devices (`virt_caps` of `xl info`).

    Raises:
        HostError: xl does not say.
    """
    said = xl.run("info")
    if said.code:
        raise HostError(f"xl info failed: {said.reason}", hint="see: systemctl status xen")
    words = next((line.partition(":")[2].split() for line in said.out.splitlines() if line.startswith("virt_caps")), [])
    return "hvm_directio" in words or "pv_directio" in words
