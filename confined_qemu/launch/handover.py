"""`allow` for a VM that Landlock holds: no rule can be added to it, so the open file goes in through its QMP monitor.

QEMU forgets a descriptor when the monitor that brought it closes and nothing uses it (`monitor_fdsets_cleanup`), so it
is made a block node at once, which the client then names.
"""

from __future__ import annotations

import os
import socket
import stat

from confined_qemu.launch import heldvms
from confined_qemu.model.errors import HINT, HostError, printable, shell_word, why
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any, Self

    from confined_qemu.launch.heldvms import HeldVm

_PATIENCE = 5.0
"""Seconds after which a monitor that does not greet is another program's: QEMU speaks with one at a time."""
_LARGEST = 1 << 20
"""Bytes of an answer."""
_INSTEAD = "name the file at the start: extra_files: in the spec, or CONFINED_QEMU_EXTRA_PATHS"


def find(name: str) -> HeldVm | None:
    """Return the one live VM of this name or pid that Landlock holds, None without one.

    Raises:
        HostError: there is more than one.
    """
    live = heldvms.live()
    found = [vm for vm in live if vm.name == name] or [vm for vm in live if name == str(vm.pid)]
    if len(found) > 1:
        pids = ", ".join(str(vm.pid) for vm in found)
        raise HostError(f"{len(found)} VMs are called {name}", hint=f"name one by its pid: {pids}")
    return found[0] if found else None


def allow(vm: HeldVm, path: str, *, readonly: bool) -> str:
    """Hand an open file over as a block node of the VM, and return what was done in a line.

    Raises:
        HostError: it cannot be opened, or the VM has no monitor that takes it.
    """
    if vm.monitor is None:
        raise HostError(
            f"Landlock holds the VM {vm.name}: it takes a file only as a descriptor over QMP, and has no QMP socket"
            f"{HINT}start it with -qmp unix:PATH,server=on,wait=off{HINT}or {_INSTEAD}"
        )
    opened = _opened(path, readonly=readonly)
    try:
        device = not stat.S_ISREG(os.fstat(opened).st_mode)
        with _Monitor.of(vm, vm.monitor) as monitor:
            added = monitor.ask("add-fd", {"opaque": path}, opened)
            number = added["fdset-id"]
            node = f"confined-{number}"
            driver = "host_device" if device else "file"
            monitor.ask(
                "blockdev-add",
                {"driver": driver, "node-name": node, "filename": f"/dev/fdset/{number}", "read-only": readonly},
            )
    finally:
        os.close(opened)
    return f"{vm.name}: {shell_word(path)} is the block node {node}, which QMP names (file, or drive of device_add)"


def revoke(vm: HeldVm) -> str:
    """Say how a file leaves a VM that Landlock holds.

    Raises:
        HostError: always.
    """
    raise HostError(
        f"Landlock holds the VM {vm.name}, and nobody can take a descriptor back from it",
        hint="unplug it (QMP: device_del, then blockdev-del)",
    )


def _opened(path: str, *, readonly: bool) -> int:
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        opened = os.open(path, flags)
    except OSError as error:
        raise HostError(f"cannot be opened: {why(error)}", where=path) from error
    if stat.S_ISREG(os.fstat(opened).st_mode) or stat.S_ISBLK(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    raise HostError("neither a file nor a block device, which alone can be handed over", where=path, hint=_INSTEAD)


@dataclass
class _Monitor:
    """A connection to QEMU's QMP monitor."""

    path: str
    connection: socket.socket
    received: bytes = b""

    @classmethod
    def of(cls, vm: HeldVm, path: str) -> _Monitor:
        """Connect and greet.

        Raises:
            HostError: nobody listens, or QEMU speaks with somebody else.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_PATIENCE)
        monitor = cls(path, connection)
        try:
            connection.connect(path)
            monitor.answer()
        except TimeoutError as error:
            connection.close()
            raise HostError(
                f"the VM {vm.name} speaks QMP with another program here",
                where=path,
                hint="let that program hand the file over (QMP: add-fd), or close its connection",
            ) from error
        except OSError as error:
            connection.close()
            raise HostError(f"cannot be connected to: {why(error)}", where=path) from error
        monitor.ask("qmp_capabilities", {})
        return monitor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, command: str, arguments: dict[str, Any], descriptor: int = -1) -> Any:
        """Send a command and return its answer.

        Raises:
            HostError: QEMU refuses, or ends.
        """
        import json

        text = json.dumps({"execute": command, "arguments": arguments}).encode("utf-8", "surrogateescape")
        try:
            if descriptor >= 0:
                socket.send_fds(self.connection, [text], [descriptor])
            else:
                self.connection.sendall(text)
            while True:
                said = self.answer()
                if "return" in said:
                    return said["return"]
                if "error" in said:
                    what = printable(str(said["error"].get("desc")))
                    raise HostError(f"QEMU refuses {command}: {what}", where=self.path)
        except OSError as error:
            raise HostError(f"QEMU does not answer {command}: {why(error)}", where=self.path) from error

    def answer(self) -> dict[str, Any]:
        """Return the next line that QEMU says.

        Raises:
            OSError: it says nothing, or nothing that is QMP's.
        """
        import json

        while b"\n" not in self.received:
            data = self.connection.recv(65536)
            if not data or len(self.received) > _LARGEST:
                raise OSError("this is not a QMP monitor, or QEMU has ended")
            self.received += data
        line, _, self.received = self.received.partition(b"\n")
        try:
            said = json.loads(line)
        except ValueError as error:
            raise OSError("this is not a QMP monitor") from error
        return said if isinstance(said, dict) else {}
