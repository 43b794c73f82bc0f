"""QEMU's options as data: which take a value, and how a value names files of the host.

Source: `qemu-options.hx` of QEMU 7.2 (its `-help`, with what that leaves out), `docs/about/deprecated` and the
manual page for what 8.x and 9.x added; keys of lists are from the QAPI schema and `-device TYPE,help`. What is not
in `OPTIONS` is refused by name, because it may name a file. Options that no 7.2 or later has are left out.
"""

from __future__ import annotations

from confined_qemu.model.lean import TYPE_CHECKING, Enum, auto, dataclass, field
from confined_qemu.model.resource import Access, Role
from confined_qemu.read.qemu.queries import FLAGS

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(Enum):
    """How an option's value is read for the files that it names."""

    FLAG = auto()
    """There is no value."""
    PLAIN = auto()
    """The value names no file."""
    PATH = auto()
    """The whole value is a path, its commas single (`use`)."""
    LIST = auto()
    """A comma list, some of whose keys are paths (`implied`, `keys`)."""
    DISK = auto()
    """The whole value is a disk's file name, which may begin with a protocol."""
    DRIVE = auto()
    BLOCKDEV = auto()
    CHARDEV = auto()
    LEGACY = auto()
    """A character device in the old one-word syntax (`unix:PATH,server`, `file:PATH`)."""
    OWN = auto()
    """The option has a reader of its own, under its own name."""


@dataclass(frozen=True, slots=True)
class Use:
    """What QEMU does with a path; how it is labelled follows from that (`labelrules`). `many` parts several paths."""

    role: Role
    access: Access
    many: str | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `keys` are `KEY` or `DRIVER:KEY`, where DRIVER is the value of the implied first key."""

    kind: Kind
    implied: str | None = None
    use: Use | None = None
    keys: Mapping[str, Use] = field(default_factory=dict)
    strict: bool = False
    """Refuse an absolute path under a key that is not known: types of devices and objects are many."""


_READ, _CREATE, _DIR, _CONNECT = Access.READ, Access.CREATE, Access.DIRECTORY, Access.CONNECT
_FIRMWARE = Use(Role.FIRMWARE, _READ)
_KERNEL = Use(Role.KERNEL, _READ)
_INITRD = Use(Role.INITRD, _READ)
_DTB = Use(Role.DTB, _READ)
_ROM = Use(Role.OPTION_ROM, _READ)
_LOG = Use(Role.LOG, _CREATE)
_CONFIG = Use(Role.CONFIG, _READ)
_MEMORY = Use(Role.MEMORY, _CREATE)
_SERVED = Use(Role.SERVED, _DIR)
_SHARE = Use(Role.SHARE, _DIR)
_SOCKET = Use(Role.SOCKET, _CONNECT)
_BIND = Use(Role.SOCKET, Access.LISTEN)
_PROGRAM = Use(Role.PROGRAM, _READ)
_DEVICE = Use(Role.HOST_DEVICE, Access.READ_WRITE)
_VFIO = Use(Role.VFIO, Access.READ_WRITE)
_EVDEV = Use(Role.EVDEV, Access.READ_WRITE)
_SECRET = Use(Role.SECRET, _READ)

_DEVICES = {
    "romfile": _ROM,
    "loader:file": _KERNEL,
    "guest-loader:kernel": _KERNEL,
    "guest-loader:initrd": _INITRD,
    "hostdevice": Use(Role.USB, Access.READ_WRITE),
    "rootdir": _SERVED,
    "evdev": _EVDEV,
    "vfio-pci:host": _VFIO,
    "vfio-pci-nohotplug:host": _VFIO,
    "sysfsdev": _VFIO,
    "vhostdev": _DEVICE,
    "hidraw": Use(Role.USB, Access.READ_WRITE),
    "sdrfile": Use(Role.FW_CFG, _READ),
    "frudatafile": Use(Role.FW_CFG, _READ),
    "jsonfile": Use(Role.NVRAM, _CREATE),
    "wayland-socket-path": _SOCKET,
    "vfio-user-pci:socket.path": _SOCKET,
    "cdat": Use(Role.ACPI_TABLE, _READ),
    "pcap": _LOG,
    "netboot_fw": _FIRMWARE,
    "s390-ipl:firmware": _FIRMWARE,
    "u2f-emulated:dir": Use(Role.SECRET, _DIR),
    "u2f-emulated:cert": _SECRET,
    "u2f-emulated:privkey": _SECRET,
    "u2f-emulated:entropy": _SECRET,
    "u2f-emulated:counter": Use(Role.SECRET, Access.READ_WRITE),
}
"""`-device` and `-global`: the properties that are files (each type's `-device TYPE,help`)."""

_OBJECTS = {
    "memory-backend-file:mem-path": _MEMORY,
    "secret:file": _SECRET,
    "tls-cipher-suites:dir": Use(Role.SECRET, _DIR),
    "tls-creds-x509:dir": Use(Role.SECRET, _DIR),
    "tls-creds-psk:dir": Use(Role.SECRET, _DIR),
    "tls-creds-anon:dir": Use(Role.SECRET, _DIR),
    "authz-list-file:filename": _CONFIG,
    "authz-listfile:filename": _CONFIG,
    "rng-random:filename": Use(Role.HOST_DEVICE, _READ),
    "input-linux:evdev": _EVDEV,
    "pr-manager-helper:path": _SOCKET,
    "sev-guest:sev-device": _DEVICE,
    "sev-guest:dh-cert-file": _FIRMWARE,
    "sev-guest:session-file": _FIRMWARE,
    "sev-snp-guest:sev-device": _DEVICE,
    "sev-snp-guest:certs-path": _FIRMWARE,
    "tdx-guest:quote-generation-socket.path": _SOCKET,
    "igvm-cfg:file": _FIRMWARE,
    "filter-dump:file": _LOG,
    "qtest:log": _LOG,
    "x-vfio-user-server:socket.path": _BIND,
    "x-remote-object:socket.path": _SOCKET,
}
"""`-object` (`qapi/qom.json`)."""

_AUDIO = {
    "wav:path": _LOG,
    "oss:in.dev": _DEVICE,
    "oss:out.dev": _DEVICE,
}
"""`-audiodev` (`qapi/audio.json`); ALSA's and sndio's devices have names of their own, and `pa` has code of its own."""

_NETWORK = {
    "script": _PROGRAM,
    "downscript": _PROGRAM,
    "tftp": _SERVED,
    "smb": _SERVED,
    "vhostdev": _DEVICE,
    "map-path": _DEVICE,
}
"""`-netdev`, `-nic` and `-net` (`qapi/net.json`); `stream`, `dgram` and `guestfwd` have code of their own."""

_TABLES = Use(Role.ACPI_TABLE, _READ, many=":")


def _path(use: Use) -> Option:
    return Option(Kind.PATH, use=use)


def _list(implied: str | None, keys: Mapping[str, Use], *, strict: bool = False) -> Option:
    return Option(Kind.LIST, implied, keys=keys, strict=strict)


_NAMES = """
    action add-fd append compat d dfilter echr g iscsi loadvm m mon msg name numa overcommit
    prom-env rotate rtc runas sandbox seed semihosting-config set smp usbdevice uuid vga watchdog-action xen-domid
"""
"""Options whose value is a number, a word, an id, or the guest's own."""
_DISKS = ("hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock", "cdrom", "pflash")
_OLD_CHARDEVS = ("serial", "parallel", "monitor", "qmp", "qmp-pretty", "debugcon", "gdb", "qtest")
_MACHINE = _list(
    "type",
    {"kernel": _KERNEL, "initrd": _INITRD, "shim": _KERNEL, "dtb": _DTB, "firmware": _FIRMWARE, "dumpdtb": _LOG},
    strict=True,
)

OPTIONS: dict[str, Option] = {
    **dict.fromkeys(FLAGS, Option(Kind.FLAG)),
    **dict.fromkeys(_NAMES.split(), Option(Kind.PLAIN)),
    **dict.fromkeys(_DISKS, Option(Kind.DISK)),
    **dict.fromkeys(_OLD_CHARDEVS, Option(Kind.LEGACY)),
    **dict.fromkeys(("M", "machine"), _MACHINE),
    **dict.fromkeys(("netdev", "nic", "net"), Option(Kind.OWN, "type", keys=_NETWORK, strict=True)),
    **dict.fromkeys(("audiodev", "audio"), Option(Kind.OWN, "driver", keys=_AUDIO, strict=True)),
    **dict.fromkeys(("cpu", "global", "incoming", "initrd", "vnc"), Option(Kind.OWN)),
    "accel": _list("accel", {"device": _DEVICE, "rapl-helper-socket": _SOCKET}, strict=True),
    "acpitable": _list(None, {"file": _TABLES, "data": _TABLES}, strict=True),
    "bios": _path(_FIRMWARE),
    "blockdev": Option(Kind.BLOCKDEV, "driver"),
    "boot": _list("order", {"splash": _FIRMWARE}),
    "chardev": Option(Kind.CHARDEV, "backend"),
    "chroot": _path(_SERVED),
    "D": _path(_LOG),
    "device": Option(Kind.OWN, "driver", keys=_DEVICES, strict=True),
    "display": Option(Kind.OWN, "type", keys={"rendernode": _DEVICE}),
    "drive": Option(Kind.DRIVE),
    "dtb": _path(_DTB),
    "dump-vmstate": _path(_LOG),
    "fsdev": Option(Kind.OWN, "fsdriver", keys={"path": _SHARE, "socket": _SOCKET}, strict=True),
    "virtfs": Option(Kind.OWN, "fsdriver", keys={"path": _SHARE, "socket": _SOCKET}, strict=True),
    "fw_cfg": _list("name", {"file": Use(Role.FW_CFG, _READ)}),
    "icount": Option(Kind.OWN, "shift", keys={"rrfile": _LOG}, strict=True),
    "k": _path(_FIRMWARE),  # a layout, which is looked for as firmware is
    "kernel": _path(_KERNEL),
    "L": _path(Use(Role.FIRMWARE, _DIR)),
    "mem-path": _path(_MEMORY),
    "object": Option(Kind.OWN, "qom-type", keys=_OBJECTS, strict=True),
    "option-rom": _list("romfile", {"romfile": _ROM}),
    "pidfile": _path(Use(Role.PIDFILE, _CREATE)),
    "plugin": Option(Kind.OWN, "file", keys={"file": _PROGRAM}, strict=True),
    "qtest-log": _path(_LOG),
    "readconfig": _path(_CONFIG),
    "run-with": _list(None, {"chroot": _SERVED}, strict=True),
    "shim": _path(_KERNEL),
    "smbios": _list(None, {"file": Use(Role.SMBIOS, _READ), "path": Use(Role.SMBIOS, _READ)}),
    "spice": Option(
        Kind.OWN,
        keys={
            "x509-dir": Use(Role.SECRET, _DIR),
            "x509-key-file": _SECRET,
            "x509-cert-file": _CONFIG,
            "x509-cacert-file": _CONFIG,
            "x509-dh-key-file": _CONFIG,
            "rendernode": _DEVICE,
        },
    ),
    "tpmdev": Option(
        Kind.OWN,
        "type",
        keys={
            "path": Use(Role.TPM, Access.READ_WRITE),
            "cancel-path": Use(Role.TPM, Access.WRITE),
        },
        strict=True,
    ),
    "trace": _list("enable", {"file": _LOG, "events": _CONFIG}),
}
