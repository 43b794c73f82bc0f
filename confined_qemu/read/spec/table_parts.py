"""The mappings within a spec, and the kinds of value that several keys share. Pure."""

from __future__ import annotations

from typing import Any, Final

from confined_qemu.model.context import Context
from confined_qemu.read.spec.devices import Char, Network, NetworkType, NicModel
from confined_qemu.read.spec.disks import Bus, Disk, DiskFormat, DiskLabel, ExtraFile
from confined_qemu.read.spec.kinds import Choice, Integer, Key, ListOf, Table, Text, YesNo

PATH: Final = Text("a path")
CONTEXT_PATTERN: Final = r"[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+(:s[\s\S]*)?"
IMAGE: Final = Text("a context such as system_u:object_r:svirt_image_t:s0", CONTEXT_PATTERN, Context.parse)
PROCESS: Final = Text("a context such as system_u:system_r:svirt_t:s0:c1,c2", CONTEXT_PATTERN, Context.parse)
_CHAR_PATTERN: Final = r"stdio|null|none|file:[\s\S]+|unix:[\s\S]+"
PORT: Final = Text("stdio, null, none, file:PATH or unix:PATH", _CHAR_PATTERN + "|mon:stdio", Char.parse)
CONTROL: Final = Text("stdio, none or unix:PATH", r"stdio|none|unix:[\s\S]+", Char.parse)


def forbid(key: str, value: Any, *keys: str) -> dict[str, Any]:
    """Return a schema rule: where `key` is `value`, the others may not be there."""
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"not": {"anyOf": [{"required": [other]} for other in keys]}},
    }


NO: Final = {"enum": [False, "no", "off", "false", "No", "Off", "False", "NO", "OFF", "FALSE"]}
YES: Final = {"enum": [True, "yes", "on", "true", "Yes", "On", "True", "YES", "ON", "TRUE"]}


def together(first: tuple[str, Any], second: tuple[str, Any]) -> dict[str, Any]:
    """Return a schema rule: two keys may not both match their schemas."""
    keys = dict((first, second))
    return {"not": {"properties": keys, "required": list(keys)}}


DISK_LABEL: Final = Table(
    of=DiskLabel,
    about="a disk's own label, or none",
    build=lambda values, _path: DiskLabel(**values),
    keys=(
        Key("relabel", YesNo(), "no: the file keeps the label that it has."),
        Key("label", IMAGE, "The label that the file gets, in place of the VM's.", ("context",)),
    ),
    rules=(("allOf", [together(("relabel", NO), ("label", {}))]),),
)

DISK: Final = Table(
    of=Disk,
    about="a disk: file and format, and how the guest sees it",
    build=lambda values, path: Disk(**values, source=f"{path}.file"),
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
                together(("readonly", YES), ("bus", {"enum": [Bus.IDE.value, Bus.SATA.value]})),
                together(("shareable", YES), ("format", {"not": {"const": DiskFormat.RAW.value}})),
                together(("shareable", YES), ("bus", {"const": Bus.FDC.value})),
            ],
        ),
    ),
)

EXTRA_FILE: Final = Table(
    of=ExtraFile,
    about="a file that the VM opens while it runs, told so over QMP",
    build=lambda values, _path: ExtraFile(**values),
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
    build=lambda values, _path: Network(**values),
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
                forbid("type", "user", "ifname", "fd"),
                forbid("type", "none", "ifname", "fd", "hostfwd", "mac"),
                forbid("type", "tap", "hostfwd"),
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
