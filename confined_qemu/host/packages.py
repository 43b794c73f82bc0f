"""Names the command by which this host's own distribution installs what is missing."""

from __future__ import annotations

from confined_qemu.model import distribution
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from confined_qemu.model.distribution import Family, Package

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
"""os-release(5): the first that is there counts."""


def family() -> Family | None:
    """Return this host's family of distributions; None where no file of its names one that is known."""
    for path in OS_RELEASE:
        try:
            # unbuffered: a buffered file is asked whether it is a terminal (ioctl), which a domain may not do to it
            with open(path, "rb", buffering=0) as file:
                return distribution.family(file.read().decode("utf-8", "replace"))
        except OSError:
            continue
    return None


def command(package: Package) -> str:
    """Return the command that installs a package here."""
    return distribution.command(family(), package)
