"""The keys of a Xen domain's spec (`hypervisor: xen`), each with its kind and a line about it."""

from __future__ import annotations

from confined_qemu.model.invocation import Seclabel, SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.xen import DOMAIN, XenType
from confined_qemu.read.spec.kinds import Choice, Integer, Key, ListOf, Table, Text, YesNo
from confined_qemu.read.spec.rules import refuse
from confined_qemu.read.spec.table import HYPERVISOR, MEMORY, NAME, PATH, PROCESS
from confined_qemu.read.spec.vm import DiskFormat
from confined_qemu.read.spec.xenvm import MOST_DISKS, XenConfinement, XenImage, XenVM, xen_seclabel_violations

if TYPE_CHECKING:
    from typing import Any, Final


_NOT_RAW: Final = [word.value for word in DiskFormat if word is not DiskFormat.RAW]
_OBJECT: Final = {"type": "string", "pattern": "^[^:]*:object_r:"}


def _seclabel(values: dict[str, Any]) -> Seclabel:
    """Return the seclabel; a domain's images are always labelled."""
    made = Seclabel(**values)
    refuse(xen_seclabel_violations(made))
    return made


def _without(key: str, value: str, other: str) -> dict[str, Any]:
    """Return a schema rule: where `key` is `value`, `other` may not be there."""
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"not": {"required": [other]}},
    }


XEN_DISK: Final = Table(
    of=XenImage,
    about="a disk of a Xen domain: file and format",
    keys=(
        Key(
            "file",
            PATH,
            "The image; a relative path starts at the spec's folder. The guest sees xvda, xvdb, …",
            ("path", "source", "image", "filename", "target", "dev"),
            stand_in="/",
            missing="add file: PATH",
        ),
        Key(
            "format",
            Choice(DiskFormat),
            "raw: what Xen serves without a QEMU in dom0.",
            ("type", "driver"),
            stand_in=DiskFormat.RAW,
            missing="add format: raw",
        ),
        Key("readonly", YesNo(), "yes: the guest cannot write it, and domains may share it.", ("read_only", "ro")),
    ),
    rules=(("allOf", [{"not": {"properties": {"format": {"enum": _NOT_RAW}}, "required": ["format"]}}]),),
)

XEN_SECLABEL: Final = Table(
    of=Seclabel,
    about="the domain's label in Flask",
    build=_seclabel,
    keys=(
        Key(
            "type",
            Choice(SeclabelType),
            "dynamic: a fresh category pair, where Flask's policy has categories; static: your label.",
        ),
        Key("label", PROCESS, "static: the domain's whole context in Flask's policy."),
        Key("baselabel", PROCESS, f"dynamic: the context that gets the pair; {DOMAIN} when it is left out."),
    ),
    rules=(
        (
            "allOf",
            [
                _without("type", "dynamic", "label"),
                _without("type", "static", "baselabel"),
                {"if": {"not": {"required": ["type"]}}, "then": {"not": {"required": ["label"]}}},
                {
                    "if": {"properties": {"type": {"const": "static"}}, "required": ["type"]},
                    "then": {"required": ["label"]},
                },
                {"not": {"properties": {"type": {"const": "none"}}, "required": ["type"]}},
                *({"not": {"properties": {key: _OBJECT}, "required": [key]}} for key in ("label", "baselabel")),
            ],
        ),
    ),
)

XEN: Final = Table(
    of=XenVM,
    about="one Xen domain for confined-qemu",
    keys=(
        HYPERVISOR,
        NAME,
        Key(
            "type",
            Choice(XenType),
            "pvh or pv. hvm is refused: its QEMU would run in dom0, not confined.",
            ("builder",),
        ),
        Key("kernel", PATH, "The guest's kernel, which xl loads.", stand_in="/", missing="add kernel: PATH"),
        Key("initrd", PATH, "The kernel's initial RAM disk.", ("ramdisk", "initramfs")),
        Key("cmdline", Text("a kernel command line"), "The kernel's command line.", ("extra", "append", "root")),
        MEMORY,
        Key("cpus", Integer(1, 512), "How many CPUs the guest has.", ("vcpus", "vcpu", "smp", "cores")),
        Key("disks", ListOf(XEN_DISK), f"The disks, at most {MOST_DISKS}: xvda, xvdb, and so on.", ("disk", "drives")),
        Key("seclabel", XEN_SECLABEL, "The domain's label in Flask; dynamic without it.", ("label",)),
        Key(
            "confinement",
            Choice(XenConfinement),
            "selinux: refused unless Flask enforces; auto: a permissive Flask is a warning.",
        ),
    ),
    rules=(
        (
            "allOf",
            [
                {"not": {"properties": {"type": {"const": "hvm"}}, "required": ["type"]}},
                {"properties": {"disks": {"maxItems": MOST_DISKS}}},
            ],
        ),
    ),
)
