"""A virtual machine as it is wanted: values and the rules between them, nothing of the host.

Keys have libvirt's names where libvirt has one, QEMU's elsewhere. Every rule that ties several keys together is in this
module or in that of its devices. A class refuses values that break rules, and names all
of these rules at once (`Broken`).
"""

from __future__ import annotations

from confined_qemu.model.invocation import Accel, Confinement, Hypervisor, Seclabel, SeclabelType, SecondWall
from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass, field, replace
from confined_qemu.read.spec.devices import (
    Char,
    CharKind,
    HostDevice,
    Input,
    MemoryBacking,
    Network,
    NetworkType,
    Share,
    Sound,
    Tpm,
    share_violations,
)
from confined_qemu.read.spec.rules import Violation, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from confined_qemu.model.context import Context

# ---- its disks


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


@dataclass(frozen=True, slots=True)
class DiskLabel:
    """One disk's own seclabel: libvirt's `<seclabel>` within a disk's source."""

    relabel: bool | None = None
    label: Context | None = None

    def __post_init__(self) -> None:
        refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        if self.label is not None and self.relabel is False:
            yield Violation("label", "a label, and relabel says no", "drop one of the two", ("relabel",))


@dataclass(frozen=True, slots=True)
class ExtraFile:
    """A file that the VM will be told to open while it runs (QMP); one without a format is probed as QEMU would."""

    file: str
    readonly: bool = False
    format: DiskFormat | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk."""

    file: str
    format: DiskFormat
    bus: Bus = Bus.VIRTIO
    readonly: bool = False
    shareable: bool = False
    seclabel: DiskLabel = field(default_factory=DiskLabel)

    def __post_init__(self) -> None:
        refuse(self._violations())

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


# ---- the whole of it

NEEDS = {
    **dict.fromkeys(("initrd", "cmdline", "dtb"), "kernel"),
    "nvram": "firmware",
    **{f"{key}_format": key for key in ("cdrom", "firmware", "nvram")},
    "cdrom_seclabel": "cdrom",
}
"""A key, and the one without which it means nothing (QEMU: "-initrd only allowed with -kernel option")."""
Q35 = ("q35", "pc-q35")
"""How the machine types begin whose disk controller is AHCI: six ports of one disk each, for `ide` and `sata`."""
IDE_PLACES = 4
"""A PC's two IDE channels take two devices each."""
Q35_PORTS = 6
FLOPPY_PLACES = 2
CDROM_PLACE = 2
"""Where QEMU itself puts a CD-ROM: the second channel's first place (the guest's hdc), the third port."""


def seclabel_violations(seclabel: Seclabel) -> Iterator[Violation]:
    """Yield each of libvirt's rules (security_manager.c, domain_conf.c) that a VM's seclabel breaks."""
    kind = seclabel.type
    if kind is SeclabelType.DYNAMIC and seclabel.label is not None:
        yield Violation(
            "label", "the label of a dynamic VM is chosen for it", "use type: static, or baselabel", ("type",)
        )
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
        yield Violation("relabel", "a VM without a label relabels nothing", "write relabel: no", ("type",))
    if kind is SeclabelType.NONE and seclabel.label is not None:
        yield Violation("label", "type: none has no label", "use type: static", ("type",))
    if kind is not SeclabelType.DYNAMIC and seclabel.baselabel is not None:
        hint = "use type: dynamic" if kind is SeclabelType.NONE else "use label"
        yield Violation("baselabel", "only a dynamic VM has a baselabel", hint, ("type",))


_NULL, _NONE = Char(CharKind.NULL), Char(CharKind.NONE)


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
    cdrom_format: DiskFormat | None = None
    cdrom_seclabel: DiskLabel | None = None
    kernel: str | None = None
    initrd: str | None = None
    dtb: str | None = None
    cmdline: str | None = None
    firmware: str | None = None
    firmware_format: DiskFormat | None = None
    nvram: str | None = None
    nvram_format: DiskFormat | None = None
    serial: Char = _NULL
    monitor: Char = _NONE
    qmp: Char = _NONE
    display: str = "none"
    network: Network = field(default_factory=Network)
    networks: tuple[Network, ...] = ()
    host_devices: tuple[HostDevice, ...] = ()
    input: tuple[Input, ...] = ()
    sound: Sound | None = None
    rng: str | None = None
    balloon: bool = False
    vsock: int | None = None
    memory_backing: MemoryBacking | None = None
    tpm: Tpm | None = None
    shares: tuple[Share, ...] = ()
    extra_files: tuple[ExtraFile, ...] = ()
    qemu_args: tuple[str, ...] = ()
    confinement: Confinement = Confinement.AUTO
    landlock: SecondWall = SecondWall.AUTO
    require_domain: bool = False
    harden: bool = True
    core: bool = False
    seclabel: Seclabel = field(default_factory=Seclabel)
    hypervisor: Literal[Hypervisor.QEMU] = Hypervisor.QEMU

    def __post_init__(self) -> None:
        refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        for key, needed in NEEDS.items():
            if getattr(self, key) is not None and getattr(self, needed) is None:
                yield Violation(key, f"{key} without {needed}", f"add {needed}, or drop {key}", (needed,))
        for violation in seclabel_violations(self.seclabel):
            involves = tuple(f"seclabel.{key}" for key in violation.involves)
            yield replace(violation, key=f"seclabel.{violation.key}", involves=involves)
        yield from self._overrides()
        if self.confinement is Confinement.NONE and self.require_domain:
            hint = "drop one of the two"
            yield Violation("require_domain", "confinement is none: there is no domain", hint, ("confinement",))
        if self.confinement is Confinement.NONE and self.landlock is SecondWall.ALSO:
            yield Violation(
                "landlock", "confinement is none: nothing holds it", "drop one of the two", ("confinement",)
            )
        if self.confinement is Confinement.LANDLOCK and self.landlock is SecondWall.NO:
            yield Violation("landlock", "confinement: landlock needs it", "drop one of the two", ("confinement",))
        if self.networks and self.network.type is not NetworkType.NONE:
            yield Violation(
                "networks", "a VM has network or networks, not both", "move that card into networks", ("network",)
            )
        yield from self._stdio_twice()
        yield from self._too_many_on_a_bus()
        yield from self._file_twice()
        yield from share_violations(self.shares)

    def _overrides(self) -> Iterator[Violation]:
        """A disk's own label needs a VM whose files are relabelled (libvirt's domain_validate.c)."""
        if self.seclabel.relabel:
            return
        hint = "write relabel: yes in the VM's seclabel, or leave this out and label the file by hand (chcon)"
        labels = {f"disks[{number}].seclabel": disk.seclabel for number, disk in enumerate(self.disks)}
        if self.cdrom_seclabel is not None:
            labels["cdrom_seclabel"] = self.cdrom_seclabel
        for place, own in labels.items():
            key = "label" if own.label is not None else "relabel"
            if own.label is not None or own.relabel:
                what = "this VM's seclabel relabels nothing, so a disk gets no label of its own"
                yield Violation(f"{place}.{key}", what, hint, ("seclabel", "disks", "cdrom_seclabel"))

    def _stdio_twice(self) -> Iterator[Violation]:
        holders = [key for key in ("serial", "monitor", "qmp") if getattr(self, key).on_stdio]
        if self.display == "curses":
            holders.insert(0, "display")
        for key in holders[1:]:
            hint = "use serial: mon:stdio for both, or unix:PATH" if key == "monitor" else "use unix:PATH"
            yield Violation(key, f"standard input and output are used by {holders[0]} already", hint, (holders[0],))

    @property
    def cards(self) -> tuple[Network, ...]:
        """Return all network cards."""
        return tuple(card for card in (self.networks or (self.network,)) if card.type is not NetworkType.NONE)

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
                yield Violation(
                    key, f"{path!r} is used by {first} already, and this VM writes it", hint, (first, "disks")
                )

    def _files(self) -> Iterator[tuple[str, str, bool]]:
        for number, disk in enumerate(self.disks):
            yield f"disks[{number}].file", disk.file, not disk.readonly
        for number, extra in enumerate(self.extra_files):
            yield f"extra_files[{number}].file", extra.file, not extra.readonly
        for key in ("cdrom", "kernel", "initrd", "dtb", "firmware", "nvram"):
            if (path := getattr(self, key)) is not None:
                yield key, path, key == "nvram"
        for key in ("serial", "monitor", "qmp"):
            if (path := getattr(self, key).path) is not None:
                yield key, path, True
