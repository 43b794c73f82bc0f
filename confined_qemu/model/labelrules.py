"""What is labelled how: one row for each thing that a host file can be to a VM, with the reason. Pure.

The only place that decides between private, shared, content and left alone. The table of the help topic
`labels` is made of it.
"""

from __future__ import annotations

from confined_qemu.model.facts import FileKind
from confined_qemu.model.lean import StrEnum, dataclass
from confined_qemu.model.resource import Access, Role, Sharing


class Place(StrEnum):
    """Where a path leads, as far as its text says."""

    ELSEWHERE = "elsewhere"
    DEVICE = "device"
    """In /dev, and none of those below."""
    OWN_DEVICE = "own device"
    """A node in /dev that is one VM's while it runs: a USB device, guest memory of its own, a disk's generic node."""
    SHARED_DEVICE = "shared device"
    """A node in /dev whose driver keeps its users apart: /dev/net/tun, /dev/vhost-net, /dev/vfio/vfio."""
    SYSTEM = "system"
    """In /usr or /etc."""
    KERNEL = "kernel"
    """In /proc or /sys, or a device that every process has (/dev/null)."""
    DESCRIPTOR = "descriptor"
    """An inherited descriptor by name (`/proc/self/fd/3`)."""


class End(StrEnum):
    """What becomes of the label when the VM is gone."""

    BACK = "the label it had"
    LAST = "the label it had, with the last VM that reads it"
    STAYS = "stays"
    REMOVED = "the file is removed"
    BACK_OR_REMOVED = "the label it had; one that was made and stayed empty is removed"
    NOTHING = ""


_DISKS = frozenset({Role.DISK, Role.FLOPPY, Role.CDROM, Role.BACKING, Role.DATA_FILE, Role.NVRAM})
_LOADED = frozenset(
    {Role.KERNEL, Role.INITRD, Role.DTB, Role.FIRMWARE, Role.ACPI_TABLE, Role.FW_CFG, Role.SMBIOS, Role.OPTION_ROM}
)
OWN_DEVICES = frozenset({Role.USB, Role.EVDEV, Role.VFIO, Role.TPM})
"""What the node of such a role stands for is one VM's while it runs: nobody else could use it meanwhile."""
_FILE = frozenset({FileKind.REGULAR})
_IMAGE = frozenset({FileKind.REGULAR, FileKind.BLOCK})
_STREAM = frozenset({FileKind.REGULAR, FileKind.FIFO})
_SOCKET = frozenset({FileKind.SOCKET})
_NODE = frozenset({FileKind.CHARACTER})
_ANYTHING = frozenset(FileKind)
_ANYWHERE = frozenset({Place.ELSEWHERE, Place.SYSTEM})
_WITH_DEVICES = _ANYWHERE | {Place.DEVICE, Place.OWN_DEVICE, Place.SHARED_DEVICE}
_UNKNOWN_DEVICES = _ANYWHERE | {Place.DEVICE}
_EVERY_ROLE = frozenset(Role)
_EVERY_ACCESS = frozenset(Access)
_READ = frozenset({Access.READ})
_WRITES = frozenset({Access.READ_WRITE, Access.WRITE, Access.CREATE})


@dataclass(frozen=True, slots=True)
class Row:
    """One rule. It covers a file whose role, access and place it names, and labels what is of one of `kinds`.

    `what` is its line in the help topic `labels`, `why` the reason, `source` who else does so or which rule makes it
    so.
    """

    what: str
    roles: frozenset[Role]
    accesses: frozenset[Access]
    places: frozenset[Place]
    kinds: frozenset[FileKind]
    sharing: Sharing
    end: End
    why: str
    source: str
    shareable: bool = False

    def covers(self, role: Role, access: Access, place: Place, *, shareable: bool, kind: FileKind | None) -> bool:
        """Tell whether this is the rule for such a file; `kind` None is one that has not been looked at."""
        named = role in self.roles and access in self.accesses and place in self.places
        return named and self.shareable in (False, shareable) and (kind is None or kind in self.kinds)


_LIBVIRT = "libvirt, security_selinux.c"

TABLE: tuple[Row, ...] = (
    Row(
        "inherited descriptor (`/proc/self/fd/N`, `/dev/stdout`)",
        _EVERY_ROLE, _EVERY_ACCESS, frozenset({Place.DESCRIPTOR}), _ANYTHING, Sharing.UNLABELLED, End.NOTHING,
        "it is the caller's terminal, pipe or log, and another file in every process",
        "Linux, proc(5)",
    ),
    Row(
        "`/proc`, `/sys`, and every process's devices (`/dev/null`, `/dev/urandom`)",
        _EVERY_ROLE, _EVERY_ACCESS, frozenset({Place.KERNEL}), _ANYTHING, Sharing.UNLABELLED, End.NOTHING,
        "they are the host's, and a boolean of the policy opens them (`virt_use_sysfs`)",
        "the policy; libvirt relabels a TPM's cancel file there",
    ),
    Row(
        "device of one VM: USB, hidraw, evdev, a VFIO group or device, TPM, vDPA, DAX, kvmfr, a disk's SCSI or NVMe "
        "generic node",
        _EVERY_ROLE, _EVERY_ACCESS, frozenset({Place.OWN_DEVICE}), _NODE, Sharing.PRIVATE, End.BACK,
        "such a node is one VM's while it runs; the policy's booleans would open all of its type to all VMs",
        f"{_LIBVIRT}: hostdev, input, TPM, nvdimm, SCSI host devices",
    ),
    Row(
        "device that VMs share (`/dev/net/tun`, `/dev/vhost-net`, `/dev/vfio/vfio`, `/dev/sgx_vepc`, a render node)",
        _EVERY_ROLE, _EVERY_ACCESS, frozenset({Place.SHARED_DEVICE}), _NODE, Sharing.UNLABELLED, End.NOTHING,
        "one label for all its users would shut out all but one VM; the policy says whether VMs may use it",
        "the policy; libvirt relabels /dev/sgx_vepc for one VM",
    ),
    Row(
        "disk with `shareable: yes`",
        _DISKS, _EVERY_ACCESS, _WITH_DEVICES, _IMAGE, Sharing.SHARED, End.STAYS,
        "several VMs write it, so no VM's pair fits; shareable beats read-only",
        f"{_LIBVIRT}: shared images are not restored",
        shareable=True,
    ),
    Row(
        "system's file that is only read (`/usr`, `/etc`)",
        _EVERY_ROLE, _READ, frozenset({Place.SYSTEM}), _ANYTHING, Sharing.UNLABELLED, End.NOTHING,
        "it belongs to no VM, and the launcher's domain may not relabel it",
        f"{_LIBVIRT}: firmware code is left alone",
    ),
    Row(
        "disk, data file, floppy, nvram: files and block devices",
        _DISKS, _WRITES, _WITH_DEVICES, _IMAGE, Sharing.PRIVATE, End.BACK,
        "what a guest writes is that guest's alone",
        f"{_LIBVIRT}: image label",
    ),
    Row(
        "read-only disk, cdrom, backing file",
        _DISKS, _READ, _WITH_DEVICES, _IMAGE, Sharing.CONTENT, End.LAST,
        "many VMs read one image; what VMs may read already is left as it is",
        f"{_LIBVIRT}: content label, which libvirt never takes back",
    ),
    Row(
        "kernel, initrd, dtb, firmware, ACPI and SMBIOS tables, fw_cfg, option ROM",
        _LOADED, _READ, _ANYWHERE, _FILE, Sharing.CONTENT, End.LAST,
        "QEMU reads them into the guest, and one serves many VMs",
        f"{_LIBVIRT}: content label",
    ),
    Row(
        "other file that is only read (lists, certificates)",
        frozenset({Role.CONFIG, Role.CHARDEV}), _READ, _ANYWHERE, _STREAM, Sharing.CONTENT, End.LAST,
        "QEMU reads it as it reads a kernel",
        f"{_LIBVIRT}: content label",
    ),
    Row(
        "key or password, saved state (`-incoming file:`)",
        frozenset({Role.SECRET, Role.STATE}), _READ | _WRITES, _ANYWHERE, _STREAM, Sharing.PRIVATE, End.BACK,
        "a secret, or a guest's memory, is for one VM",
        "ours; libvirt labels a saved state as content",
    ),
    Row(
        "guest memory to read (`readonly=on`)",
        frozenset({Role.MEMORY}), _READ, _ANYWHERE, _FILE, Sharing.CONTENT, End.LAST,
        "a template that many VMs map and none writes",
        "QEMU, memory-backend-file",
    ),
    Row(
        "guest memory in a file",
        frozenset({Role.MEMORY}), _WRITES, _ANYWHERE, _FILE, Sharing.PRIVATE, End.BACK,
        "it is all that the guest knows; QEMU makes a missing one and leaves it, so it is made beforehand",
        f"{_LIBVIRT}: nvdimm and memory folders",
    ),
    Row(
        "folder for guest memory (`/dev/hugepages`, `/dev/shm`)",
        frozenset({Role.MEMORY}), frozenset({Access.DIRECTORY, *_WRITES}), _WITH_DEVICES,
        frozenset({FileKind.DIRECTORY}), Sharing.UNLABELLED, End.NOTHING,
        "all VMs use it; QEMU unlinks its file there as soon as it is open, and the policy says where it may make one",
        "QEMU, qemu_ram_alloc_from_file; the policy",
    ),
    Row(
        "log, serial file, trace, dump; pipe (`X.in`, `X.out`)",
        frozenset({Role.LOG, Role.CHARDEV}), _WRITES, _ANYWHERE, _STREAM, Sharing.PRIVATE, End.BACK,
        "a VM may make nothing in its folder, so what is missing is made beforehand",
        f"{_LIBVIRT}: chardev files and pipes",
    ),
    Row(
        "file to be opened while the VM runs (`extra_files:`, `CONFINED_QEMU_EXTRA_PATHS`, `allow`)",
        frozenset({Role.EXTRA}), _WRITES, _WITH_DEVICES, _STREAM | _IMAGE, Sharing.PRIVATE, End.BACK_OR_REMOVED,
        "QMP names it too late for a label; what is missing is made, for a VM may make nothing in its folder",
        "libvirt labels what is hot-plugged; ours: before QMP speaks of it",
    ),
    Row(
        "the same, only to be read (`readonly: yes`, `allow --readonly`)",
        frozenset({Role.EXTRA}), _READ, _WITH_DEVICES, _STREAM | _IMAGE, Sharing.CONTENT, End.LAST,
        "many VMs read one image",
        f"{_LIBVIRT}: content label",
    ),
    Row(
        "pidfile",
        frozenset({Role.PIDFILE}), _WRITES, _ANYWHERE, _FILE, Sharing.PRIVATE, End.REMOVED,
        "QEMU would make and unlink it, and may neither; the watcher does",
        "QEMU, -pidfile",
    ),
    Row(
        "socket that QEMU listens on",
        frozenset({Role.SOCKET}), frozenset({Access.LISTEN}), _WITH_DEVICES, _SOCKET, Sharing.PRIVATE, End.REMOVED,
        "the launcher binds it under the VM's context and hands over the descriptor",
        "libvirt, qemu_command.c: sockets are made for QEMU",
    ),
    Row(
        "socket of another program",
        frozenset({Role.SOCKET}), frozenset({Access.CONNECT}), _WITH_DEVICES, _SOCKET, Sharing.UNLABELLED,
        End.NOTHING,
        "its listener decides who may connect (`connectto`), and relabelling the file would not help",
        "Linux, selinux_socket_unix_stream_connect",
    ),
    Row(
        "other character device that is passed through, is guest memory, or is opened while the VM runs",
        OWN_DEVICES | {Role.MEMORY, Role.EXTRA}, frozenset({Access.READ, Access.READ_WRITE, Access.WRITE}),
        _UNKNOWN_DEVICES, _NODE, Sharing.PRIVATE, End.BACK,
        "it is taken for one VM's, as the devices above",
        f"{_LIBVIRT}: hostdev, input, nvdimm",
    ),
    Row(
        "folder of a TPM's state and what lies in it",
        frozenset({Role.TPM_STATE}), frozenset({Access.DIRECTORY, Access.READ_WRITE}), _ANYWHERE,
        frozenset({FileKind.DIRECTORY, FileKind.REGULAR}), Sharing.PRIVATE, End.BACK,
        "it is the guest's keys; swtpm, at the VM's pair, makes files in it, which get the folder's label at the end",
        f"{_LIBVIRT}: the state of an emulated TPM",
    ),
    Row(
        "shared folder; folder of keys, certificates or firmware",
        _EVERY_ROLE, frozenset({Access.DIRECTORY}), _ANYWHERE, frozenset({FileKind.DIRECTORY}), Sharing.UNLABELLED,
        End.NOTHING,
        "its whole tree would have to follow",
        f"{_LIBVIRT}: shares are left alone",
    ),
    Row(
        "helper program or script of QEMU's",
        frozenset({Role.PROGRAM}), _EVERY_ACCESS, _ANYWHERE, _FILE, Sharing.UNLABELLED, End.NOTHING,
        "it is the system's, and the policy says whether a VM may run it",
        "the policy",
    ),
    Row(
        "other device (a terminal, a serial port, `/dev/hwrng`)",
        _EVERY_ROLE - _DISKS - OWN_DEVICES, _EVERY_ACCESS, _UNKNOWN_DEVICES, _NODE | {FileKind.BLOCK},
        Sharing.UNLABELLED, End.NOTHING,
        "it is the host's, and the policy says whether VMs may use it",
        "the policy (`virt_use_comm`)",
    ),
)  # fmt: skip
"""In order: the first row that covers a file is its rule."""


def row(
    role: Role, access: Access, place: Place, *, shareable: bool = False, kind: FileKind | None = None
) -> Row | None:
    """Return the rule for such a file, None where it cannot be used so; without its `kind` there always is one."""
    return next((row for row in TABLE if row.covers(role, access, place, shareable=shareable, kind=kind)), None)


def sharing(role: Role, access: Access, place: Place, *, shareable: bool = False) -> Sharing:
    """Return how a file is labelled that has not been looked at."""
    found = row(role, access, place, shareable=shareable)
    return found.sharing if found is not None else Sharing.UNLABELLED


def kinds(role: Role, access: Access, place: Place) -> frozenset[FileKind]:
    """Return what a file in this place must be to get a label in this role."""
    rows = (row for row in TABLE if role in row.roles and access in row.accesses and place in row.places)
    return frozenset().union(*(row.kinds for row in rows if row.sharing is not Sharing.UNLABELLED))
