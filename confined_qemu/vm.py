"""A virtual machine as it is wanted: values and the rules between them, nothing of the host.

libvirt's words where libvirt has one, QEMU's elsewhere. Every rule that ties several keys together is in
this module, and each class refuses values that break one, all of them at once (`Broken`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from confined_qemu.errors import ValueProblem
from confined_qemu.invocation import Accel, Confinement, Seclabel, SeclabelType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confined_qemu.context import Context


class Violation(NamedTuple):
    """A rule that some values break.

    `key` is where the message belongs (`seclabel.label`), `involves` names the other keys of the rule: a
    reader that could not read one of those has said so already, and drops the violation.
    """

    key: str
    what: str
    hint: str
    involves: tuple[str, ...] = ()


class Broken(ValueProblem):
    """Values that do not go together; `violations` holds every rule that they break."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        first = violations[0]
        super().__init__(first.what, where=first.key, hint=first.hint)
        self.violations = violations


def _refuse(found: Iterator[Violation]) -> None:
    violations = tuple(found)
    if violations:
        raise Broken(violations)


class DiskFormat(StrEnum):
    """What the bytes of an image mean. It is always stated: a guest can write a header that fools a probe."""

    RAW = "raw"
    QCOW2 = "qcow2"
    QCOW = "qcow"
    QED = "qed"
    VDI = "vdi"
    VHDX = "vhdx"
    VMDK = "vmdk"
    VPC = "vpc"
    PARALLELS = "parallels"
    LUKS = "luks"


class Bus(StrEnum):
    """How the guest sees a disk: libvirt's `<target bus=>`."""

    IDE = "ide"
    SATA = "sata"
    SCSI = "scsi"
    VIRTIO = "virtio"
    USB = "usb"
    FDC = "fdc"


class CharKind(StrEnum):
    """Where a serial line or a monitor ends on the host."""

    NONE = "none"
    """There is no such device."""
    NULL = "null"
    """The device is there, and what it says is dropped."""
    STDIO = "stdio"
    MUX = "mon:stdio"
    """Standard input and output shared with QEMU's monitor, as `-serial mon:stdio`."""
    FILE = "file"
    UNIX = "unix"


class NetworkType(StrEnum):
    """What a VM's network card is plugged into."""

    NONE = "none"
    USER = "user"
    TAP = "tap"


class NicModel(StrEnum):
    """The network card that the guest sees."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"


@dataclass(frozen=True, slots=True)
class Char:
    """The host's end of a character device; `path` is there for `file` and `unix`, and only there."""

    kind: CharKind
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Char:
        """Read `stdio`, `mon:stdio`, `null`, `none`, `file:PATH` or `unix:PATH`.

        Raises:
            ValueProblem: none of these.
        """
        kind, colon, path = text.partition(":")
        if colon and path and kind in {CharKind.FILE, CharKind.UNIX}:
            return cls(CharKind(kind), path)
        if text in {CharKind.NONE, CharKind.NULL, CharKind.STDIO, CharKind.MUX}:
            return cls(CharKind(text))
        raise ValueProblem(f"{text!r} is none of stdio, null, none, file:PATH and unix:PATH")

    def __str__(self) -> str:
        return self.kind.value if self.path is None else f"{self.kind.value}:{self.path}"

    @property
    def on_stdio(self) -> bool:
        """Tell whether it takes QEMU's standard input and output."""
        return self.kind in {CharKind.STDIO, CharKind.MUX}


@dataclass(frozen=True, slots=True)
class DiskLabel:
    """One disk's own seclabel: libvirt's `<seclabel>` within a disk's source."""

    relabel: bool | None = None
    label: Context | None = None

    def __post_init__(self) -> None:
        _refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        if self.label is not None and self.relabel is False:
            yield Violation("label", "a label, and relabel says no", "drop one of the two", ("relabel",))


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk. `source` is the place that asked for it, for messages (`disks[0].file`)."""

    file: str
    format: DiskFormat
    bus: Bus = Bus.VIRTIO
    readonly: bool = False
    shareable: bool = False
    seclabel: DiskLabel = field(default_factory=DiskLabel)
    source: str = "disk"

    def __post_init__(self) -> None:
        _refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        if self.readonly and self.bus in {Bus.IDE, Bus.SATA}:
            # Measured with QEMU 7.2: "-device ide-hd: Block node is read-only".
            yield Violation(
                "readonly",
                f"a disk on bus {self.bus} cannot be read-only: there is no such hardware",
                "use bus: virtio, scsi or usb, or the key cdrom",
                ("bus",),
            )
        if self.shareable and self.format is not DiskFormat.RAW:
            # libvirt's rule (qemu_domain.c): two writers of a format with metadata destroy it.
            yield Violation(
                "shareable",
                f"a {self.format} image cannot be shared: two VMs that write its tables destroy it",
                "use format: raw, or readonly: yes with a private overlay for each VM",
                ("format",),
            )
        if self.shareable and self.bus is Bus.FDC:
            yield Violation("shareable", "a floppy cannot be shared", "use another bus", ("bus",))


@dataclass(frozen=True, slots=True)
class Network:
    """The VM's network card: what it is plugged into, and how the guest sees it.

    `fd` is the number of an inherited descriptor of a tap device; `hostfwd` holds QEMU's texts, such as
    `tcp:127.0.0.1:2222-:22`.
    """

    type: NetworkType = NetworkType.NONE
    model: NicModel = NicModel.VIRTIO
    mac: str | None = None
    ifname: str | None = None
    fd: int | None = None
    hostfwd: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        tap = self.type is NetworkType.TAP
        for key in ("ifname", "fd"):
            if getattr(self, key) is not None and not tap:
                yield Violation(key, f"only a tap network has {key}", "use type: tap", ("type",))
        if self.hostfwd and self.type is not NetworkType.USER:
            yield Violation("hostfwd", "only a user network forwards ports", "use type: user", ("type",))
        if self.mac is not None and self.type is NetworkType.NONE:
            yield Violation("mac", "there is no network card", "use type: user or tap", ("type",))
        if tap and (self.ifname is None) == (self.fd is None):
            yield Violation(
                "type",
                "a tap network needs one of ifname and fd",
                "name the interface (ifname: tap0) or the descriptor (fd: 5)",
                ("ifname", "fd"),
            )


NEEDS = {"initrd": "kernel", "cmdline": "kernel", "dtb": "kernel", "nvram": "firmware"}
"""A key, and the one without which it means nothing (QEMU: "-initrd only allowed with -kernel option")."""
Q35 = ("q35", "pc-q35")
"""How the machine types begin whose disk controller is AHCI: six ports of one disk each, for `ide` and `sata`."""
IDE_PLACES = 4
"""A PC's two IDE channels take two devices each."""
Q35_PORTS = 6
FLOPPY_PLACES = 2
CDROM_PLACE = 2
"""Where QEMU itself puts a CD-ROM: the second channel's first place (the guest's hdc), the third port."""
_SIZE = re.compile(r"([1-9][0-9]{0,11})([KMGT])")


def size_in_bytes(text: str) -> int:
    """Return the bytes that `128M` stands for; K, M, G and T are powers of 1024, as in QEMU.

    Raises:
        ValueProblem: no whole number, or no suffix: QEMU takes a bare number as MiB, libvirt as KiB.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueProblem(f"{text!r} is not a size", hint="write a whole number and K, M, G or T, such as 128M")
    return int(match[1]) << (10 * ("KMGT".index(match[2]) + 1))


def seclabel_violations(seclabel: Seclabel) -> Iterator[Violation]:
    """Yield each of libvirt's rules (security_manager.c, domain_conf.c) that a VM's seclabel breaks."""
    kind = seclabel.type
    if kind is SeclabelType.DYNAMIC and seclabel.label is not None:
        yield Violation("label", "a dynamic VM gets its label", "use type: static, or baselabel", ("type",))
    if kind is SeclabelType.DYNAMIC and not seclabel.relabel:
        hint = "use type: static for files that carry the right labels already"
        yield Violation("relabel", "a dynamic VM's files must be relabelled: its categories are new", hint, ("type",))
    if kind is SeclabelType.STATIC and seclabel.label is None:
        hint = "write the process's whole context, such as system_u:system_r:svirt_t:s0:c1,c2"
        yield Violation("label", "a static VM needs a label", hint, ("type", "label"))
    if kind is SeclabelType.STATIC and seclabel.label is not None and seclabel.label.range is None:
        hint = f"add the level, such as {seclabel.label}:s0:c1,c2"
        yield Violation("label", "a static label needs a range", hint, ("type",))
    if kind is SeclabelType.NONE and seclabel.relabel:
        yield Violation("relabel", "a VM without a label relabels nothing", "say relabel: no", ("type",))
    if kind is SeclabelType.NONE and seclabel.label is not None:
        yield Violation("label", "type none has no label", "use type: static", ("type",))
    if kind is not SeclabelType.DYNAMIC and seclabel.baselabel is not None:
        hint = "use type: dynamic" if kind is SeclabelType.NONE else "use label"
        yield Violation("baselabel", "only a dynamic VM has a baselabel", hint, ("type",))


@dataclass(frozen=True, slots=True)
class VM:
    """A VM. Paths are as they were written; `cpus` is a count, `memory` a size such as `128M`."""

    name: str
    emulator: str = "qemu-system-x86_64"
    accel: Accel = Accel.AUTO
    machine: str = "pc"
    cpu: str | None = None
    cpus: int = 1
    memory: str = "128M"
    user: str | None = None
    disks: tuple[Disk, ...] = ()
    cdrom: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    dtb: str | None = None
    cmdline: str | None = None
    firmware: str | None = None
    nvram: str | None = None
    serial: Char = Char(CharKind.NULL)
    monitor: Char = Char(CharKind.NONE)
    qmp: Char = Char(CharKind.NONE)
    display: str = "none"
    network: Network = field(default_factory=Network)
    qemu_args: tuple[str, ...] = ()
    confinement: Confinement = Confinement.SELINUX
    require_domain: bool = False
    seclabel: Seclabel = field(default_factory=Seclabel)

    def __post_init__(self) -> None:
        _refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        for key, needed in NEEDS.items():
            if getattr(self, key) is not None and getattr(self, needed) is None:
                yield Violation(key, f"{key} without {needed}", f"add {needed}, or drop {key}", (needed,))
        for violation in seclabel_violations(self.seclabel):
            involves = tuple(f"seclabel.{key}" for key in violation.involves)
            yield violation._replace(key=f"seclabel.{violation.key}", involves=involves)
        if self.confinement is Confinement.NONE and self.require_domain:
            hint = "drop one of the two"
            yield Violation("require_domain", "confinement is none: there is no domain", hint, ("confinement",))
        yield from self._stdio_twice()
        yield from self._too_many_on_a_bus()
        yield from self._file_twice()

    def _stdio_twice(self) -> Iterator[Violation]:
        holders = [key for key in ("serial", "monitor", "qmp") if getattr(self, key).on_stdio]
        if self.display == "curses":
            holders.insert(0, "display")
        for key in holders[1:]:
            hint = "use serial: mon:stdio for both, or unix:PATH" if key == "monitor" else "use unix:PATH"
            yield Violation(key, f"{holders[0]} has standard input and output already", hint, (holders[0],))

    @property
    def is_q35(self) -> bool:
        """Tell whether the machine's own disk controller is AHCI."""
        return self.machine.startswith(Q35)

    def ide_places(self) -> dict[int, int]:
        """Return the place on the machine's own disk controller of each disk that belongs there, by its number."""
        buses = {Bus.IDE, Bus.SATA} if self.is_q35 else {Bus.IDE}
        numbers = [number for number, disk in enumerate(self.disks) if disk.bus in buses]
        places = [place for place in range(len(numbers) + 1) if self.cdrom is None or place != CDROM_PLACE]
        return dict(zip(numbers, places, strict=False))

    def _too_many_on_a_bus(self) -> Iterator[Violation]:
        # Measured with QEMU 7.2: "Can't create IDE unit 2, bus supports only 2 units".
        most = Q35_PORTS if self.is_q35 else IDE_PLACES
        for number, place in self.ide_places().items():
            if place >= most:
                what = f"a {self.machine} has {most} places for disks, and they are taken (a cdrom takes one)"
                yield Violation(f"disks[{number}].bus", what, "use bus: virtio or scsi", ("disks", "machine"))
        floppies = [number for number, disk in enumerate(self.disks) if disk.bus is Bus.FDC]
        for number in floppies[FLOPPY_PLACES:]:
            what = f"there are {FLOPPY_PLACES} floppy drives at most"
            yield Violation(f"disks[{number}].bus", what, "use bus: virtio or usb", ("disks",))

    def _file_twice(self) -> Iterator[Violation]:
        """No file twice when the VM writes it: the labels would differ, and QEMU could not lock it."""
        seen: dict[str, tuple[str, bool]] = {}
        for key, path, writes in self._files():
            first, first_writes = seen.setdefault(path, (key, writes))
            if first != key and (writes or first_writes):
                hint = "give each its own file"
                yield Violation(key, f"{path!r} is {first} already, and this VM writes it", hint, (first, "disks"))

    def _files(self) -> Iterator[tuple[str, str, bool]]:
        for number, disk in enumerate(self.disks):
            yield f"disks[{number}].file", disk.file, not disk.readonly
        for key in ("cdrom", "kernel", "initrd", "dtb", "firmware", "nvram"):
            if (path := getattr(self, key)) is not None:
                yield key, path, key == "nvram"
        for key in ("serial", "monitor", "qmp"):
            if (path := getattr(self, key).path) is not None:
                yield key, path, True
