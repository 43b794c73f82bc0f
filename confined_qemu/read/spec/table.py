"""The keys of a spec, each with its kind and a line about it: read by the loader and by the JSON Schema."""

from __future__ import annotations

from confined_qemu.model.context import Context
from confined_qemu.model.invocation import Accel, Confinement, Hypervisor, Seclabel, SeclabelType, SecondWall
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.read.spec.devices import (
    Char,
    HostDevice,
    Input,
    MemoryBacking,
    Network,
    NetworkType,
    NicModel,
    Share,
    ShareDriver,
    Sound,
    Tpm,
    TpmModel,
    TpmVersion,
)
from confined_qemu.read.spec.kinds import Choice, Integer, Key, ListOf, Table, Text, WordOr, YesNo
from confined_qemu.read.spec.rules import size_in_bytes
from confined_qemu.read.spec.vm import NEEDS, VM, Bus, Disk, DiskFormat, DiskLabel, ExtraFile

if TYPE_CHECKING:
    from typing import Any, Final


PATH: Final = Text("a path")
CONTEXT_PATTERN: Final = r"[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+(:s[\s\S]*)?"
IMAGE: Final = Text("a context such as system_u:object_r:svirt_image_t:s0", CONTEXT_PATTERN, Context.parse)
PROCESS: Final = Text("a context such as system_u:system_r:svirt_t:s0:c1,c2", CONTEXT_PATTERN, Context.parse)
_CHAR_PATTERN: Final = r"stdio|null|none|file:[\s\S]+|unix:[\s\S]+"
PORT: Final = Text("stdio, null, none, file:PATH or unix:PATH", _CHAR_PATTERN + "|mon:stdio", Char.parse)
CONTROL: Final = Text("stdio, none or unix:PATH", r"stdio|none|unix:[\s\S]+", Char.parse)


def _forbid(key: str, value: Any, *keys: str) -> dict[str, Any]:
    """Return a schema rule: where `key` is `value`, the others may not be there."""
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"not": {"anyOf": [{"required": [other]} for other in keys]}},
    }


NO: Final = {"enum": [False, "no", "off", "false", "No", "Off", "False", "NO", "OFF", "FALSE"]}
YES: Final = {"enum": [True, "yes", "on", "true", "Yes", "On", "True", "YES", "ON", "TRUE"]}


def _together(first: tuple[str, Any], second: tuple[str, Any]) -> dict[str, Any]:
    """Return a schema rule: two keys may not both match their schemas."""
    keys = dict((first, second))
    return {"not": {"properties": keys, "required": list(keys)}}


DISK_LABEL: Final = Table(
    of=DiskLabel,
    about="a disk's own label, or none",
    keys=(
        Key("relabel", YesNo(), "no: the file keeps the label that it has."),
        Key("label", IMAGE, "The label that the file gets, in place of the VM's.", ("context",)),
    ),
    rules=(("allOf", [_together(("relabel", NO), ("label", {}))]),),
)

DISK: Final = Table(
    of=Disk,
    about="a disk: file and format, and how the guest sees it",
    keys=(
        Key(
            "file",
            PATH,
            "The image; a relative path starts at the spec's folder.",
            ("path", "source", "image", "filename", "src", "dev"),
            stand_in="/",
            missing="add file: PATH",
        ),
        Key(
            "format",
            Choice(DiskFormat),
            "What the image is. Never probed: a guest can write what a probe reads.",
            ("type", "driver"),
            stand_in=DiskFormat.RAW,
            missing="add format: raw (or qcow2, …); it is never probed, a guest can write what a probe reads",
        ),
        Key("bus", Choice(Bus), "What the disk is plugged into.", ("if", "interface", "target")),
        Key("readonly", YesNo(), "yes: the guest cannot write it, and VMs may share it.", ("read_only", "ro")),
        Key(
            "shareable",
            YesNo(),
            "yes: several VMs write it at once (raw only); it keeps the shared label after the VM's end.",
            ("shared", "share"),
        ),
        Key("seclabel", DISK_LABEL, "This disk's own label.", ("label",)),
    ),
    rules=(
        (
            "allOf",
            [
                _together(("readonly", YES), ("bus", {"enum": [Bus.IDE.value, Bus.SATA.value]})),
                _together(("shareable", YES), ("format", {"not": {"const": DiskFormat.RAW.value}})),
                _together(("shareable", YES), ("bus", {"const": Bus.FDC.value})),
            ],
        ),
    ),
)

EXTRA_FILE: Final = Table(
    of=ExtraFile,
    about="a file that the VM opens while it runs, told so over QMP",
    keys=(
        Key(
            "file",
            PATH,
            "A disk, or what a command writes (a snapshot, a screen, a log); made when it is missing and not readonly.",
            ("path", "source", "image", "filename"),
            stand_in="/",
            missing="add file: PATH",
        ),
        Key("readonly", YesNo(), "yes: the VM only reads it, and VMs may share it.", ("read_only", "ro")),
        Key(
            "format",
            Choice(DiskFormat),
            "What a disk image is; one whose header names other files must say it.",
            ("type", "driver"),
        ),
    ),
)

NETWORK: Final = Table(
    of=Network,
    about="a network card: type, and what belongs to the type",
    keys=(
        Key("type", Choice(NetworkType), "none, user (QEMU's own NAT) or tap.", ("mode", "backend")),
        Key("model", Choice(NicModel), "The card that the guest sees.", ("device",)),
        Key(
            "mac",
            Text(
                "a unicast MAC address such as 52:54:00:12:34:56",
                "[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}",
            ),
            "The card's address; QEMU's own default when it is left out, the same for every VM.",
            ("macaddr", "address"),
        ),
        Key(
            "ifname",
            Text("an interface name of at most 15 characters", "[A-Za-z0-9_.-]{1,15}"),
            "tap: a tap device that is there already.",
            ("dev", "interface", "tap"),
        ),
        Key("fd", Integer(3, 1023), "tap: the number of an inherited descriptor of the tap device."),
        Key(
            "hostfwd",
            ListOf(
                Text(
                    "a forwarding such as tcp:127.0.0.1:2222-:22",
                    r"(tcp|udp)?:[0-9A-Za-z.-]*:[0-9]{1,5}-[0-9A-Za-z.-]*:[0-9]{1,5}",
                )
            ),
            "user: ports of the host that lead to the guest, such as tcp:127.0.0.1:2222-:22.",
            ("forward", "ports", "portforward"),
        ),
    ),
    rules=(
        (
            "allOf",
            [
                _forbid("type", "user", "ifname", "fd"),
                _forbid("type", "none", "ifname", "fd", "hostfwd", "mac"),
                _forbid("type", "tap", "hostfwd"),
                {
                    "if": {"properties": {"type": {"const": "tap"}}, "required": ["type"]},
                    "then": {"oneOf": [{"required": ["ifname"]}, {"required": ["fd"]}]},
                },
                {
                    "if": {"not": {"required": ["type"]}},
                    "then": {"not": {"anyOf": [{"required": [key]} for key in ("ifname", "fd", "hostfwd", "mac")]}},
                },
            ],
        ),
    ),
)

TPM: Final = Table(
    of=Tpm,
    about="a TPM: the folder of its state, and how the guest sees it",
    keys=(
        Key(
            "state",
            PATH,
            "The folder of the TPM's state, for this VM alone; made when it is missing.",
            ("path", "dir", "source", "tpmstate"),
            stand_in="/",
            missing="add state: FOLDER",
        ),
        Key("version", Choice(TpmVersion), "The version of the TPM."),
        Key("model", Choice(TpmModel), "The device that the guest sees.", ("device",)),
    ),
)

SHARE: Final = Table(
    of=Share,
    about="a shared folder: dir and tag, and how it is shared",
    keys=(
        Key(
            "dir",
            PATH,
            "The folder of the host; without relabel it keeps its label, so it must be one that VMs may use.",
            ("path", "source", "folder"),
            stand_in="/",
            missing="add dir: FOLDER",
        ),
        Key(
            "tag",
            Text("a name of at most 31 letters, digits and / _ . : -", r"[A-Za-z0-9/_.:-]{1,31}"),
            "What the guest mounts: mount -t virtiofs TAG /mnt.",
            ("target", "mount_tag", "name"),
            stand_in="unnamed",
            missing="add tag: NAME",
        ),
        Key("driver", Choice(ShareDriver), "virtiofs (by virtiofsd) or 9p (by QEMU itself).", ("type",)),
        Key("readonly", YesNo(), "yes: the guest cannot write it.", ("read_only", "ro")),
        Key(
            "relabel",
            YesNo(),
            "yes: the folder and all that is in it is labelled for the VM, and gets its own labels back at the end.",
            ("seclabel",),
        ),
    ),
)

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
    "then": {
        "properties": {
            "disks": {"items": {"properties": {"seclabel": {"not": _NAMES_LABEL}}}},
            "cdrom_seclabel": {"not": _NAMES_LABEL},
        }
    },
}
"""A disk's own label needs a VM whose files are relabelled."""


_NO_CARD: Final = {
    "anyOf": [
        {"const": "none"},
        {"type": "object", "properties": {"type": {"const": "none"}}},
    ]
}


def _size(text: str) -> str:
    size_in_bytes(text)
    return text


def _seclabel(values: dict[str, Any]) -> Seclabel:
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
                _forbid("type", "dynamic", "label"),
                _forbid("type", "static", "baselabel"),
                _forbid("type", "none", "label", "baselabel"),
                {"if": {"not": {"required": ["type"]}}, "then": {"not": {"required": ["label"]}}},
                {
                    "if": {"properties": {"type": {"const": "static"}}, "required": ["type"]},
                    "then": {
                        "required": ["label"],
                        "properties": {"label": {"pattern": "^[^:]*:[^:]*:[^:]*:"}},
                    },
                },
                _together(("type", {"const": "none"}), ("relabel", YES)),
                {
                    "if": {"properties": {"type": {"const": "dynamic"}}},
                    "then": {"properties": {"relabel": YES}},
                },
            ],
        ),
    ),
)

NAME: Final = Key(
    "name",
    Text("a name of letters, digits, . _ and -, at most 64", r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
    "The VM's name: in `confined-qemu ps`, in messages, in /run/confined-qemu/NAME.",
    stand_in="unnamed",
    missing="add name: NAME",
)
HYPERVISOR: Final = Key("hypervisor", Choice(Hypervisor), "qemu, or xen: a domain of Xen's, with keys of its own.")
MEMORY: Final = Key(
    "memory",
    Text("a whole number and its unit, such as 128M", r"[1-9][0-9]{0,11}[KMGT]", _size),
    "The guest's memory.",
    ("ram", "mem"),
)

_NETWORK_DOC: Final = "none, user, or a mapping for a tap device, forwarded ports and the like."

SPEC: Final = Table(
    of=VM,
    about="one VM for confined-qemu",
    keys=(
        NAME,
        HYPERVISOR,
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
        MEMORY,
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
        Key("cdrom_format", Choice(DiskFormat), "What that image is; raw where it is left out, as an ISO image is."),
        Key("cdrom_seclabel", DISK_LABEL, "That image's own label."),
        Key("kernel", PATH, "A kernel that QEMU loads itself."),
        Key("initrd", PATH, "The kernel's initial RAM disk.", ("initramfs",)),
        Key("dtb", PATH, "The kernel's device tree."),
        Key("cmdline", Text("a kernel command line"), "The kernel's command line.", ("append", "kernel_args")),
        Key("firmware", PATH, "Firmware code, read-only flash (OVMF_CODE.fd).", ("bios", "loader", "uefi")),
        Key("firmware_format", Choice(DiskFormat), "What that file is; raw where it is left out."),
        Key("nvram", PATH, "The VM's own copy of the firmware's variables.", ("vars",)),
        Key("nvram_format", Choice(DiskFormat), "What that file is; raw where it is left out."),
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
        Key(
            "networks",
            ListOf(NETWORK),
            "Several network cards, in the place of network.",
            ("nics",),
        ),
        Key(
            "host_devices",
            ListOf(
                Text(
                    "usb:VENDOR:PRODUCT, usb:BUS-PORT, usb:BUS/ADDRESS or pci:0000:01:00.0",
                    HostDevice.PATTERN,
                    HostDevice.parse,
                )
            ),
            "Devices of the host that the guest gets: usb:046d:c52b, usb:1-2 (a port), pci:0000:01:00.0 (by vfio-pci).",
            ("hostdev", "hostdevs", "devices"),
        ),
        Key("input", ListOf(Choice(Input)), "USB devices to point and type with: a tablet follows the host's pointer."),
        Key("sound", Choice(Sound), "A sound card for the guest; the host does not play it."),
        Key("rng", PATH, "The host's source of a virtio random number generator, such as /dev/urandom."),
        Key("balloon", YesNo(), "yes: the guest has a virtio memory balloon.", ("memballoon",)),
        Key(
            "vsock",
            Integer(3, 0xFFFFFFFE),
            "The guest's number (CID) on the host's vsock; it needs vhost_vsock.",
            ("cid",),
        ),
        Key(
            "memory_backing",
            Choice(MemoryBacking),
            "memfd: memory that other programs can map; hugepages: the host's huge pages (/dev/hugepages).",
            ("memoryBacking",),
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
            "landlock",
            Choice(SecondWall),
            "Landlock beside SELinux: `also` or `no`; auto is also, unless something can have QEMU open files later.",
        ),
        Key(
            "require_domain",
            YesNo(),
            "yes: refuse to launch from outside confined-qemu's own SELinux domain.",
        ),
        Key(
            "harden",
            YesNo(),
            "no: QEMU keeps the caller's capabilities, privileges and control group, and gets no -sandbox (seccomp).",
        ),
        Key("core", YesNo(), "yes: a QEMU that crashes may leave a core file, which holds the guest's memory."),
        Key("seclabel", SECLABEL, "The VM's label, with libvirt's meaning.", ("label",)),
    ),
    rules=(
        ("dependentRequired", {key: [needed] for key, needed in NEEDS.items()}),
        (
            "allOf",
            [
                _together(("confinement", {"const": "none"}), ("require_domain", YES)),
                _together(("confinement", {"const": "none"}), ("landlock", {"const": "also"})),
                _together(("confinement", {"const": "landlock"}), ("landlock", {"const": "no"})),
                _OVERRIDES,
                {
                    "if": {"properties": {"networks": {"type": "array", "minItems": 1}}, "required": ["networks"]},
                    "then": {"properties": {"network": _NO_CARD}},
                },
                *(
                    _together((one, {"enum": ["stdio", "mon:stdio"]}), (other, {"const": "stdio"}))
                    for one, other in (("serial", "monitor"), ("serial", "qmp"), ("monitor", "qmp"))
                ),
                *(
                    _together(("display", {"const": "curses"}), (key, {"enum": ["stdio", "mon:stdio"]}))
                    for key in ("serial", "monitor", "qmp")
                ),
            ],
        ),
    ),
)
