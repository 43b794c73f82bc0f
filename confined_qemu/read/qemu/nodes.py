"""What QEMU opens although no value names it by its path: nodes of drivers, and devices by address or number. Pure.

Sources (QEMU 10.0): `net/tap.c`, `hw/virtio/vhost-vsock.c`, `hw/scsi/vhost-scsi.c`, `hw/usb/host-libusb.c`,
`hw/usb/u2f-passthru.c`, `ui/udmabuf.c`, `ui/egl-helpers.c`, `audio/ossaudio.c`, `backends/tpm/tpm_passthrough.c`,
`backends/iommufd.c`, `backends/hostmem-epc.c`, `backends/rng-random.c`, `target/i386/sev.c`, `target/i386/kvm/kvm.c`.
"""

from __future__ import annotations

from confined_qemu.model import hostpaths
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.frozen import dataclass
from confined_qemu.model.resource import Access, Role
from confined_qemu.read.qemu.keyvals import truth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.read.qemu.collector import Collector


@dataclass(frozen=True, slots=True)
class Node:
    """What is opened where none of `unless` is given; `optional` is what QEMU does without."""

    path: str
    unless: tuple[str, ...] = ()
    role: Role = Role.HOST_DEVICE
    access: Access = Access.READ_WRITE
    optional: bool = False


DEVICES = {
    "vhost-vsock": Node("/dev/vhost-vsock", ("vhostfd",)),
    "vhost-scsi": Node("/dev/vhost-scsi", ("vhostfd",)),
}
"""`-device`, by the beginning of the type (`vhost-vsock-pci-non-transitional`)."""
OBJECTS = {
    "iommufd": Node("/dev/iommu", ("fd",)),
    "memory-backend-epc": Node("/dev/sgx_vepc"),
    "rng-random": Node("/dev/urandom", ("filename",), access=Access.READ),
}
"""`-object`, by its type."""
GUARDS = {
    "sev-guest": Node("/dev/sev", ("sev-device",)),
    "sev-snp-guest": Node("/dev/sev", ("sev-device",)),
}
"""The same, of objects that open it once the machine has them: `-machine confidential-guest-support=ID`."""
SOUND = {
    "alsa": (Node("/dev/snd/controlC0", optional=True),),
    "oss": (Node("/dev/dsp", ("in.dev",)), Node("/dev/dsp", ("out.dev",))),
}
"""`-audiodev`, by its driver; without a sound card ALSA is silent, and OSS ends QEMU."""
SERVERS = {
    "pa": ("$PULSE_SERVER", "$PULSE_RUNTIME_PATH/native", "$XDG_RUNTIME_DIR/pulse/native", "/run/pulse/native"),
    "pipewire": ("$PIPEWIRE_REMOTE", "$PIPEWIRE_RUNTIME_DIR/pipewire-0", "$XDG_RUNTIME_DIR/pipewire-0"),
}
"""The sockets of sound servers where `-audiodev` names none (libpulse, libpipewire), in their order."""
BRAILLE = {"/var/lib/BrlAPI/0": (Role.SOCKET, Access.CONNECT), "/etc/brlapi.key": (Role.SECRET, Access.READ)}
"""Where BRLTTY listens, and its key: libbrlapi's own places, since QEMU names it none (`chardev/baum.c`)."""
SASL = {"/etc/sasl2/qemu.conf": Role.CONFIG, "/etc/sasldb2": Role.SECRET}
_TUN, _VHOST_NET = Node("/dev/net/tun", ("fd", "fds", "helper")), Node("/dev/vhost-net", ("vhostfd", "vhostfds"))
_UDMABUF, _RENDER = "/dev/udmabuf", hostpaths.RENDER_NODE
_TPM = "/dev/tpm0"
_NSS = "/etc/pki/nssdb"
"""libcacard's default."""
_PROVISION = "sgx-provisionkey"
_USB_KEYS = {"hostbus": "bus", "hostaddr": "addr", "hostport": "port", "vendorid": "vendor", "productid": "product"}
_HEXADECIMAL = ("vendorid", "productid")
_SIXTEEN = 16
_LAST_ADDRESS = 127


def _take(collector: Collector, node: Node, values: Mapping[str, str], source: str) -> None:
    if not any(values.get(key) for key in node.unless):
        collector.add(node.path, node.role, node.access, source, optional=node.optional)


def device(collector: Collector, option: str, values: Mapping[str, str]) -> None:
    """Add what a device opens by itself.

    Raises:
        CommandLineError: QEMU would choose a device of the host's that nobody can foresee.
    """
    driver = values.get("driver", "")
    source = f"-{option} {driver}"
    for beginning, node in DEVICES.items():
        if driver.startswith(beginning):
            _take(collector, node, values, source)
    if driver == "usb-host" and not values.get("hostdevice"):
        _usb(collector, values, source)
    elif driver == "u2f-passthru" and not values.get("hidraw"):
        raise CommandLineError(
            f"{source}: QEMU would take the first security key that it finds", hint="name it: hidraw="
        )
    elif driver == "ccid-card-emulated":
        _card(collector, values, source)
    elif driver == "pvrdma":
        raise CommandLineError(
            f"{source}: QEMU would open the node that belongs to ibdev={values.get('ibdev', '')!r}",
            hint="leave the device out",
        )
    elif driver.startswith(("virtio-gpu", "virtio-vga")) and truth(dict(values), "blob"):
        # rutabaga and virgl keep blobs elsewhere
        optional = any(word in driver for word in ("-gl", "rutabaga"))
        collector.add(_UDMABUF, Role.HOST_DEVICE, Access.READ_WRITE, f"{source},blob=", optional=optional)


def _card(collector: Collector, values: Mapping[str, str], source: str) -> None:
    """Add the database of an emulated smart card: NSS' own where none is named, and `sql:` before a folder."""
    kind, colon, folder = values.get("db", _NSS).partition(":")
    path = folder if colon and kind in {"sql", "dbm"} else values.get("db", _NSS)
    collector.add(path, Role.SECRET, Access.DIRECTORY, f"{source},db=", optional="db" not in values)


def _usb(collector: Collector, values: Mapping[str, str], source: str) -> None:
    """Add a USB device that is named by bus, address, port, vendor or product; zero stands for any."""
    wanted: dict[str, str] = {}
    for key, name in _USB_KEYS.items():
        text = values.get(key, "")
        if key == "hostport" and text:
            wanted[name] = text
        elif (number := _number(text, f"{source},{key}=")) != 0:
            wanted[name] = f"{number:04x}" if key in _HEXADECIMAL else str(number)
    if not wanted:
        raise CommandLineError(
            f"{source}: QEMU would take every USB device of the host", hint="name one: hostdevice=/dev/bus/usb/…"
        )
    path = hostpaths.usb_device(wanted)
    if {*wanted} == {"bus", "addr"} and int(wanted["addr"]) <= _LAST_ADDRESS:
        path = f"/dev/bus/usb/{int(wanted['bus']):03}/{int(wanted['addr']):03}"
    collector.add(path, Role.USB, Access.READ_WRITE, source)


def _number(text: str, source: str) -> int:
    """Return a number as QEMU reads one: decimal, or with 0x or a leading zero."""
    try:
        if text in {"", "0"}:
            return 0
        if text[0] == "0" and text[1:2] not in "xX":
            return int(text, 8)
        return int(text, _SIXTEEN if text[:2] in {"0x", "0X"} else 10)
    except ValueError:
        raise CommandLineError(
            f"{source}{text!r}: not a number", hint="write it as lsusb does, with 0x before it"
        ) from None


def object_(collector: Collector, option: str, values: Mapping[str, str]) -> None:
    """Add what an object opens by itself; some only where they are among the machine's `guards`."""
    kind = values.get("qom-type", "")
    nodes = OBJECTS | GUARDS if values.get("id") in collector.guards else OBJECTS
    if kind in nodes:
        _take(collector, nodes[kind], values, f"-{option} {kind}")


def tap(collector: Collector, option: str, values: Mapping[str, str]) -> None:
    """Add the nodes of a tap device; vhost=on is the kernel's own driver for virtio-net."""
    _take(collector, _TUN, values, f"-{option} tap")
    if truth(dict(values), "vhost", default=truth(dict(values), "vhostforce")):
        _take(collector, _VHOST_NET, values, f"-{option} vhost=")


def sound(collector: Collector, option: str, values: Mapping[str, str]) -> None:
    """Add the nodes of a sound card."""
    driver = values.get("driver", "")
    for node in SOUND.get(driver, ()):
        _take(collector, node, values, f"-{option} {driver}")
    if driver in SERVERS and not values.get("server"):
        first, *others = SERVERS[driver]
        source = f"-{option} {driver}"
        collector.add(first, Role.SOCKET, Access.CONNECT, source, optional=True, otherwise=tuple(others))


def braille(collector: Collector, source: str) -> None:
    """Add what a braille display is reached by."""
    for path, (role, access) in BRAILLE.items():
        collector.add(path, role, access, f"{source} braille", optional=True)


def screen(collector: Collector, option: str, values: Mapping[str, str], kind: str) -> None:
    """Add the render node of a display (`kind`) that draws with OpenGL; a window's own is Mesa's choice."""
    if values.get("rendernode"):
        return
    wants = kind == "egl-headless" or values.get("gl", "off") not in {"off", "no", "false", "n"}
    if wants and kind in {"egl-headless", "gtk", "sdl", "dbus", "spice", "spice-app"}:
        window = kind in {"gtk", "sdl"}
        collector.add(_RENDER, Role.HOST_DEVICE, Access.READ_WRITE, f"-{option} gl=", optional=window)


def sasl(collector: Collector, option: str, values: Mapping[str, str]) -> None:
    """Add what Cyrus SASL reads for `sasl=on`; another store of passwords than its own stands in its configuration."""
    if truth(dict(values), "sasl"):
        for path, role in SASL.items():
            collector.add(path, role, Access.READ, f"-{option} sasl=", optional=True)


def tpm(collector: Collector, option: str, values: Mapping[str, str]) -> None:
    """Add a passed-through TPM's own node and the file in sysfs that ends a command of it."""
    if values.get("type") != "passthrough":
        return
    path = values.get("path") or _TPM
    if not values.get("path"):
        collector.add(path, Role.TPM, Access.READ_WRITE, f"-{option} passthrough")
    if not values.get("cancel-path"):
        name = path.rpartition("/")[2]
        for group in ("tpm", "misc"):
            cancel = f"/sys/class/{group}/{name}/device/cancel"
            collector.add(cancel, Role.TPM, Access.WRITE, f"-{option} passthrough", optional=True)


def processor(collector: Collector, option: str, value: str) -> None:
    """Add what `-cpu …,+sgx-provisionkey` opens."""
    words = value.split(",")
    if any(word.removeprefix("+").partition("=")[0] == _PROVISION and not word.startswith("-") for word in words):
        collector.add("/dev/sgx_provision", Role.HOST_DEVICE, Access.READ, f"-{option} {_PROVISION}", optional=True)
