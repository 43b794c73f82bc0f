"""The disks of a VM as they are wanted. Pure."""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.enums import StrEnum
from confined_qemu.model.frozen import dataclass, field
from confined_qemu.read.spec.rules import Violation, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confined_qemu.model.context import Context


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
