"""A Xen domain as a spec wants it: values and the rules between them. Pure."""

from __future__ import annotations

from confined_qemu.model.invocation import Confinement, Hypervisor, Seclabel, SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass, field
from confined_qemu.model.xen import XenDisk, XenDomain, XenType
from confined_qemu.read.spec.rules import Violation, refuse, size_in_bytes
from confined_qemu.read.spec.vm import DiskFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

_MEBIBYTE = 1 << 20
MOST_DISKS = 16
"""Devices of one letter, xvda to xvdp."""


class XenConfinement(StrEnum):
    """What must hold a domain: Flask enforcing, or Flask alone (`auto`), which then says what it only watches."""

    SELINUX = "selinux"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class XenImage:
    """One disk of a domain."""

    file: str
    format: DiskFormat
    readonly: bool = False

    def __post_init__(self) -> None:
        refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        if self.format is not DiskFormat.RAW:
            what = f"Xen's tools serve a {self.format} image by a QEMU in dom0 that nothing confines"
            yield Violation("format", what, f"convert it: qemu-img convert -f {self.format} -O raw OLD NEW")


@dataclass(frozen=True, slots=True)
class XenVM:
    """A domain. Paths are as they were written, `memory` is a size such as `128M`."""

    name: str
    kernel: str
    type: XenType = XenType.PVH
    initrd: str | None = None
    cmdline: str | None = None
    memory: str = "128M"
    cpus: int = 1
    disks: tuple[XenImage, ...] = ()
    seclabel: Seclabel = field(default_factory=Seclabel)
    confinement: XenConfinement = XenConfinement.SELINUX
    hypervisor: Literal[Hypervisor.XEN] = Hypervisor.XEN

    def __post_init__(self) -> None:
        refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        if self.type is XenType.HVM:
            what = (
                "an HVM guest's devices are emulated by a QEMU that xl starts in dom0, in xl's own context, unconfined"
            )
            yield Violation("type", what, "use type: pvh or pv; or run this image without hypervisor: xen")
        if self.name.isdecimal():
            yield Violation("name", "xl takes a number for a domain's id", "begin the name with a letter")
        if size_in_bytes(self.memory) % _MEBIBYTE:
            yield Violation("memory", "Xen counts memory in MiB", "write a whole number of M, G or T")
        if len(self.disks) > MOST_DISKS:
            yield Violation("disks", f"a domain has {MOST_DISKS} disks at most", "leave some out")
        seen: dict[str, int] = {}
        for number, disk in enumerate(self.disks):
            first = seen.setdefault(disk.file, number)
            if first != number:
                what = f"{disk.file!r} is used by disks[{first}] already"
                yield Violation(f"disks[{number}].file", what, "give each its own file", ("disks",))

    def domain(self, folder: str) -> XenDomain:
        """Return the domain that is asked for; relative paths start at `folder`."""
        return XenDomain(
            name=self.name,
            type=self.type,
            kernel=_at(folder, self.kernel),
            initrd=_at(folder, self.initrd) if self.initrd is not None else None,
            cmdline=self.cmdline,
            memory=size_in_bytes(self.memory) // _MEBIBYTE,
            cpus=self.cpus,
            disks=tuple(
                XenDisk(_at(folder, disk.file), f"xvd{chr(ord('a') + number)}", disk.readonly,
                        f"disks[{number}].file")
                for number, disk in enumerate(self.disks)
            ),
            seclabel=self.seclabel,
            confinement=Confinement(self.confinement),
        )  # fmt: skip


def _at(folder: str, path: str) -> str:
    """Return a path that starts at `folder` where it is a relative one."""
    return path if path.startswith("/") else f"{folder.rstrip('/')}/{path}"


def xen_seclabel_violations(seclabel: Seclabel) -> Iterator[Violation]:
    """Yield each rule that a domain's seclabel breaks: Flask labels every domain, and knows no type none."""
    if seclabel.type is SeclabelType.NONE:
        yield Violation("type", "Flask labels every domain", "use type: dynamic or static")
    if seclabel.type is SeclabelType.DYNAMIC and seclabel.label is not None:
        yield Violation("label", "a dynamic domain gets its label", "use type: static, or baselabel", ("type",))
    if seclabel.type is SeclabelType.STATIC and seclabel.label is None:
        hint = "write the domain's whole context, such as system_u:system_r:domU_t"
        yield Violation("label", "a static domain needs a label", hint, ("type", "label"))
    if seclabel.type is SeclabelType.STATIC and seclabel.baselabel is not None:
        yield Violation("baselabel", "only a dynamic domain has a baselabel", "use label", ("type",))
    for key in ("label", "baselabel"):
        context = getattr(seclabel, key)
        if context is not None and context.role == "object_r":
            what = "object_r is the role of what is used, not of a domain, and Flask would take it"
            yield Violation(key, what, f"write {context.user}:system_r:{context.type}")
