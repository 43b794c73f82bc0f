"""The keys of a spec, each with its kind and a line about it: read by the loader and by the JSON Schema."""

from __future__ import annotations

from typing import Any, Final

from confined_qemu.model.invocation import Accel, Confinement, Seclabel, SeclabelType
from confined_qemu.read.spec.devices import Network, NetworkType
from confined_qemu.read.spec.kinds import Choice, Integer, Key, ListOf, Table, Text, WordOr, YesNo
from confined_qemu.read.spec.rules import size_in_bytes
from confined_qemu.read.spec.table_helpers import SHARE, TPM
from confined_qemu.read.spec.table_parts import (
    CONTROL,
    DISK,
    EXTRA_FILE,
    NETWORK,
    PATH,
    PORT,
    PROCESS,
    YES,
    forbid,
    together,
)
from confined_qemu.read.spec.vm import NEEDS, VM

_NAMES_LABEL: Final = {"anyOf": [{"required": ["label"]}, {"properties": {"relabel": YES}, "required": ["relabel"]}]}
_LABELS_NOTHING: Final = {
    "anyOf": [
        {"properties": {"type": {"const": "none"}}, "required": ["type"]},
        {
            "properties": {"type": {"const": "static"}},
            "required": ["type"],
            "not": {"properties": {"relabel": YES}, "required": ["relabel"]},
        },
    ]
}
_OVERRIDES: Final = {
    "if": {"properties": {"seclabel": _LABELS_NOTHING}, "required": ["seclabel"]},
    "then": {"properties": {"disks": {"items": {"properties": {"seclabel": {"not": _NAMES_LABEL}}}}}},
}
"""A disk's own label needs a VM whose files are relabelled."""


def _size(text: str) -> str:
    size_in_bytes(text)
    return text


def _seclabel(values: dict[str, Any], _path: str) -> Seclabel:
    """Return the seclabel; only a dynamic one relabels unless told otherwise, as in libvirt."""
    dynamic = values.get("type", SeclabelType.DYNAMIC) is SeclabelType.DYNAMIC
    return Seclabel(**({"relabel": dynamic} | values))


SECLABEL: Final = Table(
    of=Seclabel,
    about="the VM's seclabel, with libvirt's meaning",
    build=_seclabel,
    keys=(
        Key(
            "type",
            Choice(SeclabelType),
            "dynamic: a fresh category pair; static: your label; none: no label.",
        ),
        Key("relabel", YesNo(), "Whether files get labels: yes for dynamic, no for static unless said."),
        Key("label", PROCESS, "static: the process's whole context, range included."),
        Key("baselabel", PROCESS, "dynamic: the context whose type the process gets."),
    ),
    rules=(
        (
            "allOf",
            [
                forbid("type", "dynamic", "label"),
                forbid("type", "static", "baselabel"),
                forbid("type", "none", "label", "baselabel"),
                {"if": {"not": {"required": ["type"]}}, "then": {"not": {"required": ["label"]}}},
                {
                    "if": {"properties": {"type": {"const": "static"}}, "required": ["type"]},
                    "then": {
                        "required": ["label"],
                        "properties": {"label": {"pattern": "^[^:]*:[^:]*:[^:]*:"}},
                    },
                },
                together(("type", {"const": "none"}), ("relabel", YES)),
                {
                    "if": {"properties": {"type": {"const": "dynamic"}}},
                    "then": {"properties": {"relabel": YES}},
                },
            ],
        ),
    ),
)

_NETWORK_DOC: Final = "none, user, or a mapping for a tap device, forwarded ports and the like."

SPEC: Final = Table(
    of=VM,
    about="one VM for confined-qemu",
    build=lambda values, _path: VM(**values),
    keys=(
        Key(
            "name",
            Text("a name of letters, digits, . _ and -, at most 64", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
            "The VM's name: in `confined-qemu ps`, in messages, in /run/confined-qemu/NAME.",
            stand_in="unnamed",
            missing="add name: NAME",
        ),
        Key("emulator", PATH, "A program on PATH, or a path (one with a slash).", ("qemu", "binary")),
        Key("accel", Choice(Accel), "auto takes KVM where VT-x or AMD-V is really there.", ("accelerator",)),
        Key(
            "machine",
            Text("a machine type such as pc or q35", r"[A-Za-z0-9][A-Za-z0-9._+-]*"),
            "QEMU's machine type.",
        ),
        Key(
            "cpu",
            Text("a CPU model such as max or qemu64,+ssse3", r"[A-Za-z0-9][A-Za-z0-9._+=,:-]*"),
            "QEMU's CPU model and its features; QEMU's default when it is left out.",
            ("cpu_model",),
        ),
        Key("cpus", Integer(1, 4096), "How many CPUs the guest has.", ("vcpus", "vcpu", "smp", "cores")),
        Key(
            "memory",
            Text("a whole number and its unit, such as 128M", r"[1-9][0-9]{0,11}[KMGT]", _size),
            "The guest's memory.",
            ("ram", "mem"),
        ),
        Key(
            "user",
            Text("a user's name or number", r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?"),
            "Run QEMU as this user.",
            ("runas",),
        ),
        Key(
            "disks",
            ListOf(DISK),
            "The disks, in the order in which they are tried at boot.",
            ("disk", "drives"),
        ),
        Key("cdrom", PATH, "An ISO image, tried after the disks at boot.", ("iso",)),
        Key("kernel", PATH, "A kernel that QEMU loads itself."),
        Key("initrd", PATH, "The kernel's initial RAM disk.", ("initramfs",)),
        Key("dtb", PATH, "The kernel's device tree."),
        Key("cmdline", Text("a kernel command line"), "The kernel's command line.", ("append", "kernel_args")),
        Key("firmware", PATH, "Firmware code, read-only flash (OVMF_CODE.fd).", ("bios", "loader", "uefi")),
        Key("nvram", PATH, "The VM's own copy of the firmware's variables.", ("vars",)),
        Key(
            "serial",
            PORT,
            "The first serial line: stdio, mon:stdio, null, none, file:PATH or unix:PATH.",
            ("console",),
        ),
        Key("monitor", CONTROL, "QEMU's monitor for people: stdio, none or unix:PATH."),
        Key("qmp", CONTROL, "QEMU's monitor for programs: stdio, none or unix:PATH."),
        Key(
            "display",
            Text(
                "none, curses, gtk, sdl or vnc=ADDRESS:NUMBER",
                r"none|curses|gtk|sdl|vnc=[A-Za-z0-9.-]*:[0-9]{1,5}",
            ),
            "Where the screen is shown.",
            ("graphics", "vnc"),
        ),
        Key(
            "network",
            WordOr(Choice(NetworkType), NETWORK, lambda kind: Network(type=kind)),
            _NETWORK_DOC,
            ("net", "nic"),
        ),
        Key("tpm", TPM, "A TPM for the guest, emulated by swtpm, which runs confined at the VM's pair."),
        Key("shares", ListOf(SHARE), "Folders of the host that the guest mounts.", ("share", "filesystems", "virtfs")),
        Key(
            "extra_files",
            ListOf(EXTRA_FILE),
            "Files that the VM opens while it runs, told so over QMP: they have its label from the start.",
            ("extra_paths", "hotplug"),
        ),
        Key(
            "qemu_args",
            ListOf(Text("an argument")),
            "More arguments for QEMU, read as on its own command line.",
            ("args", "extra"),
        ),
        Key(
            "confinement",
            Choice(Confinement),
            "What must hold the VM; it is not started without.",
            ("sandbox",),
        ),
        Key(
            "require_domain",
            YesNo(),
            "yes: refuse to launch from outside confined-qemu's own SELinux domain.",
        ),
        Key("seclabel", SECLABEL, "The VM's label, with libvirt's meaning.", ("label",)),
    ),
    rules=(
        ("dependentRequired", {key: [needed] for key, needed in NEEDS.items()}),
        (
            "allOf",
            [
                together(("confinement", {"const": "none"}), ("require_domain", YES)),
                _OVERRIDES,
                *(
                    together((one, {"enum": ["stdio", "mon:stdio"]}), (other, {"const": "stdio"}))
                    for one, other in (("serial", "monitor"), ("serial", "qmp"), ("monitor", "qmp"))
                ),
                *(
                    together(("display", {"const": "curses"}), (key, {"enum": ["stdio", "mon:stdio"]}))
                    for key in ("serial", "monitor", "qmp")
                ),
            ],
        ),
    ),
)
