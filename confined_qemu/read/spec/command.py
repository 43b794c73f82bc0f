"""The command line of one VM while it grows: QEMU's arguments, and the files and helpers noted on the way. Pure."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from confined_qemu.model import hostpaths
from confined_qemu.model.commas import escape
from confined_qemu.model.resource import Access, Role

if TYPE_CHECKING:
    from confined_qemu.model.helper import Helper
    from confined_qemu.model.resource import Listener, Resource
    from confined_qemu.read.spec.vm import VM


def options(*words: str, **values: str) -> str:
    """Return a comma list: `words` as they are, then `values` escaped."""
    # A key of QEMU's may hold a dash, a Python name may not.
    return ",".join([*words, *(f"{key.replace('_', '-')}={escape(value)}" for key, value in values.items())])


class Command:
    """The growing command line of one VM."""

    def __init__(self, vm: VM, folder: str) -> None:
        self.vm = vm
        self.folder = folder
        self.arguments: list[str] = []
        self.resources: list[Resource] = []
        self.listeners: list[Listener] = []
        self.helpers: list[Helper] = []
        self._controllers: set[str] = set()
        self._boot = 0

    def add(self, *arguments: str) -> int:
        """Append arguments; return the number of the last one."""
        self.arguments += arguments
        return len(self.arguments) - 1

    def path(self, path: str) -> str:
        """Return the path from the root; `..` stays, because a link may stand before it."""
        return posixpath.join(self.folder, path)

    def content(self, path: str, role: Role) -> str:
        """Note a file that the VM only reads; return its path."""
        return self.file(path, role, Access.READ, role.value)

    def file(self, path: str, role: Role, access: Access, source: str) -> str:
        """Note a file; return its path."""
        whole = self.path(path)
        # Flash and ISO images are never probed either.
        form = "raw" if role in {Role.CDROM, Role.FIRMWARE, Role.NVRAM} else None
        self.note(hostpaths.resource(whole, role, access, source, format=form))
        return whole

    def note(self, found: Resource | None) -> None:
        """Add a file; None is a path that names none of the host."""
        if found is not None:
            self.resources.append(found)

    def boot_index(self) -> str:
        """Return the next place in the boot order; 0 is QEMU's own, for `-kernel`."""
        self._boot += 1
        return str(self._boot)

    def virtio(self, kind: str) -> str:
        """Return the virtio device for the machine's bus; microvm has no PCI, the rest is QEMU's alias."""
        return f"virtio-{kind}-device" if self.vm.machine == "microvm" else f"virtio-{kind}"

    def controller(self, name: str, device: str) -> str:
        """Add a controller before its first device; return its name."""
        if name not in self._controllers:
            self._controllers.add(name)
            self.add("-device", options(device, id=name))
        return name
