"""Options of QEMU whose values need more than the table of options says, and what they open without naming it. Pure.

Sources (QEMU 10.0): `net/tap.c`, `hw/virtio/vhost-vsock.c`, `hw/scsi/vhost-scsi.c`, `hw/usb/host-libusb.c`,
`hw/usb/u2f-passthru.c`, `ui/udmabuf.c`, `ui/egl-helpers.c`, `audio/ossaudio.c`, `backends/tpm/tpm_passthrough.c`,
`backends/iommufd.c`, `backends/hostmem-epc.c`, `backends/rng-random.c`, `target/i386/sev.c`, `target/i386/kvm/kvm.c`.
"""

from __future__ import annotations

import posixpath

from confined_qemu.model import hostpaths
from confined_qemu.model.commas import split
from confined_qemu.model.errors import HINT, CommandLineError, printable
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace
from confined_qemu.model.resource import TUN, Access, Role, Takes
from confined_qemu.read.qemu.collector import Socket, around, child, json_pairs, objects, pairs, read_keys, truth
from confined_qemu.read.qemu.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confined_qemu.read.qemu.collector import Collector

_UNIX = "unix:"
_EXEC = "exec:"
_CREDENTIALS = {
    "tls-creds-x509": (
        *("ca-cert.pem", "ca-crl.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"),
        "dh-params.pem",
    ),
    "tls-creds-psk": ("keys.psk", "dh-params.pem"),
    "tls-creds-anon": ("dh-params.pem",),
}
"""The files that QEMU opens in such an object's folder (`crypto/tlscreds*.c`)."""
_SPICE_KEYS = {
    "x509-cacert-file": "ca-cert.pem",
    "x509-cert-file": "server-cert.pem",
    "x509-key-file": "server-key.pem",
}
_DIRECTORIES = ("/dev/hugepages", "/dev/hugepages/")


def filesystem(collector: Collector, option: str, value: str) -> None:
    """Read `-fsdev` and `-virtfs` (`fsdev/qemu-fsdev-opts.c`): with `readonly=on` the folder is only read.

    Raises:
        CommandLineError: the list cannot be read, or an unknown key holds a path.
    """
    values = objects(option, value, "fsdriver")
    last = dict(values)
    if truth(last, "readonly"):
        collector.add(last.get("path", ""), Role.SHARE, Access.READ, f"-{option} path=")
        values = tuple((key, text) for key, text in values if key != "path")
    read_keys(collector, option, OPTIONS[option], values)


def vnc(collector: Collector, option: str, value: str) -> Socket | None:
    """Read `-vnc unix:PATH,…` (`ui/vnc.c`): QEMU makes the socket, by path alone, or connects with `reverse=on`.

    Raises:
        CommandLineError: the list cannot be read.
    """
    values = dict(pairs(option, value, "vnc"))
    _sasl_files(collector, option, values)
    address = values.get("vnc", "")
    path, source = address.removeprefix(_UNIX), f"-{option} {_UNIX}"
    if path in ("", address):
        return None
    if truth(values, "reverse"):
        collector.add(path, Role.SOCKET, Access.CONNECT, source)
        return None
    before, after = around(value, "vnc", "vnc")
    return Socket("vnc", path, source, f"{before}vnc={_UNIX}", after, takes=Takes.LISTED_PATH, given=value)


def display(collector: Collector, option: str, value: str) -> Socket | None:
    """Read `-display TYPE,…`: `vnc=` is `-vnc`, `dbus` has a bus's address.

    Raises:
        CommandLineError: the list cannot be read.
    """
    if value.startswith("vnc="):
        found = vnc(collector, option, value.removeprefix("vnc="))
        return None if found is None else replace(found, before=f"vnc={found.before}", given=value)
    values = objects(option, value, "type")
    read_keys(collector, option, OPTIONS[option], values)
    last = dict(values)
    bus(collector, last.get("addr", ""), f"-{option} addr=")
    _screen_nodes(collector, option, last, last.get("type", ""))
    if last.get("type") == "spice-app":
        collector.remarks.append(
            f"-{option} spice-app: QEMU starts a viewer, confined like the VM, and makes its socket where it may not"
            f"{HINT}start the viewer yourself, with -spice unix=on,addr=PATH,disable-ticketing=on"
        )
    return None


def bus(collector: Collector, address: str, source: str) -> None:
    """Add the socket of a D-Bus address (`unix:path=/run/…,guid=…;…`)."""
    for single in address.split(";"):
        if single.startswith(_UNIX):
            for item in single.removeprefix(_UNIX).split(","):
                if item.startswith("path="):
                    collector.add(item.removeprefix("path="), Role.SOCKET, Access.CONNECT, source)


def spice(collector: Collector, option: str, value: str) -> Socket | None:
    """Read `-spice …` (`ui/spice-core.c`): `addr=` is a path with `unix=on`, and QEMU takes nothing else.

    Raises:
        CommandLineError: the list cannot be read.
    """
    values = pairs(option, value)
    read_keys(collector, option, OPTIONS[option], values)
    last = dict(values)
    _screen_nodes(collector, option, last, "spice")
    _sasl_files(collector, option, last)
    if "x509-dir" in last:
        # what is named one by one comes in the place of the folder's (`ui/spice-core.c`)
        names = [name for key, name in _SPICE_KEYS.items() if key not in last]
        _credentials(collector, last["x509-dir"], names, f"-{option} x509-dir=")
    path = last.get("addr", "")
    if not truth(last, "unix") or not path:
        return None
    before, after = around(value, None, "addr")
    source = f"-{option} addr="
    return Socket("spice", path, source, f"{before}addr=", after, takes=Takes.LISTED_PATH, given=value)


def incoming(collector: Collector, option: str, value: str) -> Socket | None:
    """Read `-incoming unix:PATH`, `file:PATH[,offset=N]`, a JSON channel list, or what names no file.

    `fd:N` is a connection and no listening socket, so QEMU makes one by its path alone (`migration/socket.c`).

    Raises:
        CommandLineError: the JSON cannot be read, or holds a path whose use is not known.
    """
    if value.startswith(("{", "[")):
        last = dict(json_pairs(option, f'{{"channels":{value}}}'))
        for key, text in last.items():
            place, name = key.rpartition(".")[::2]
            source = f"-{option} {key}="
            if name == "path":
                collector.add(text, Role.SOCKET, Access.LISTEN, source)
            elif name == "filename":
                collector.add(text, Role.STATE, Access.READ, source)
            elif key.endswith(".args.0"):
                # this one is not looked for in PATH (`io/channel-command.c`)
                collector.program(text if "/" in text else f"./{text}", source)
            elif ".args." not in key and child(last, f"{place}.args") == {}:
                collector.unknown_path(option, key, text)
    elif value.startswith(_UNIX) and value != _UNIX:
        path, source = value.removeprefix(_UNIX), f"-{option} {_UNIX}"
        return Socket("incoming", path, source, _UNIX, "", takes=Takes.PATH, given=value)
    elif value.startswith(_EXEC):
        collector.program("/bin/sh", f"-{option} {_EXEC}")
    elif value.startswith("file:"):
        path = value.removeprefix("file:").partition(",offset=")[0]
        collector.add(path, Role.STATE, Access.READ, f"-{option} file:")
    return None


def initrd(collector: Collector, option: str, value: str) -> None:
    """Read `-initrd FILE`, or a multiboot kernel's `-initrd "FILE ARGUMENTS,FILE ARGUMENTS"`.

    The kernel's format decides which it is, and is not known here: a comma means a list, but a spec names one file.
    """
    modules = split(value) if collector.origin is None else [value]
    paths = [value] if len(modules) == 1 else [module.lstrip(" ").partition(" ")[0] for module in modules]
    for path in paths:
        collector.add(path, Role.INITRD, Access.READ, f"-{option}")


def _credentials(collector: Collector, folder: str, names: Sequence[str], source: str) -> None:
    """Add the files of a folder of TLS credentials; which of them are needed depends, and QEMU says what it misses."""
    for name in names if folder else ():
        secret = name.endswith(("-key.pem", ".psk"))
        role = Role.SECRET if secret else Role.CONFIG
        collector.add(posixpath.join(folder, name), role, Access.READ, source, optional=True)


def memory(collector: Collector, path: str, source: str, *, readonly: bool = False) -> None:
    """Add a file of guest memory; QEMU makes one that has no name in a folder such as `/dev/hugepages`."""
    if path.endswith("/") or path in _DIRECTORIES:
        collector.add(path, Role.MEMORY, Access.DIRECTORY, source)
    elif readonly:
        collector.add(path, Role.MEMORY, Access.READ, source)
    else:
        collector.add(path, Role.MEMORY, Access.CREATE, source)


def device(collector: Collector, option: str, value: str) -> None:
    """Read `-device DRIVER,…`.

    Raises:
        CommandLineError: the list cannot be read, or an unknown key holds a path.
    """
    values = objects(option, value, "driver")
    read_keys(collector, option, OPTIONS[option], values, ("db",))
    _device_nodes(collector, option, dict(values))


def audio(collector: Collector, option: str, value: str) -> None:
    """Read `-audiodev DRIVER,…` and `-audio`.

    Raises:
        CommandLineError: the list cannot be read, or an unknown key holds a path.
    """
    values = objects(option, value, "driver")
    last = dict(values)
    driver = last.get("driver", "")
    named = [f"{way}.dev" for way in ("in", "out")] if driver != "oss" else []  # ALSA's and sndio's names are no paths
    read_keys(collector, option, OPTIONS[option], values, [*named, "server"] if driver == "pa" else named)
    _sound_nodes(collector, option, last)
    for server in last.get("server", "").split() if driver == "pa" else ():
        # `{MACHINE}unix:/PATH`, `/PATH`, or a host's name (PulseAudio's server strings)
        path = server.rpartition("}")[2].removeprefix(_UNIX)
        if path.startswith("/"):
            collector.add(path, Role.SOCKET, Access.CONNECT, f"-{option} server=")


def icount(collector: Collector, option: str, value: str) -> None:
    """Read `-icount …,rr=record|replay,rrfile=` (`replay/replay.c`): a recording holds what the guest was told."""
    values = objects(option, value, "shift")
    last = dict(values)
    if last.get("rr") == "replay":
        collector.add(last.get("rrfile", ""), Role.STATE, Access.READ, f"-{option} rrfile=")
        values = tuple((key, text) for key, text in values if key != "rrfile")
    read_keys(collector, option, OPTIONS[option], values)


def plugin(collector: Collector, option: str, value: str) -> None:
    """Read `-plugin FILE,NAME=VALUE…`: a plugin may open what its arguments name.

    Raises:
        CommandLineError: an argument is an absolute path.
    """
    values = pairs(option, value, "file")
    read_keys(collector, option, OPTIONS[option], values)
    others = [key for key, text in values if key != "file" and not _says_no_file(text)]
    if others:
        collector.remarks.append(
            printable(
                f"-{option} {', '.join(others)}: a plugin may open what its arguments name, and that gets no label"
            )
        )


def _says_no_file(text: str) -> bool:
    return text in {"on", "off", "yes", "no", "true", "false"} or text[:1].isdigit() or text.startswith("/")


def tpmdev(collector: Collector, option: str, value: str) -> None:
    """Read `-tpmdev TYPE,…`.

    Raises:
        CommandLineError: the list cannot be read, or an unknown key holds a path.
    """
    values = pairs(option, value, "type")
    read_keys(collector, option, OPTIONS[option], values)
    _tpm_nodes(collector, option, dict(values))


def object_(collector: Collector, option: str, value: str) -> None:
    """Read `-object TYPE,…`.

    Raises:
        CommandLineError: the list cannot be read, or an unknown key holds a path.
    """
    values = objects(option, value, "qom-type")
    last = dict(values)
    kind = last.get("qom-type")
    if kind == "memory-backend-file":
        rest = [(key, text) for key, text in values if key != "mem-path"]
        memory(collector, last.get("mem-path", ""), f"-{option} mem-path=", readonly=truth(last, "readonly"))
        read_keys(collector, option, OPTIONS[option], rest)
        return
    if kind in _CREDENTIALS:
        _credentials(collector, last.get("dir", ""), _CREDENTIALS[kind], f"-{option} dir=")
    read_keys(collector, option, OPTIONS[option], values)
    _object_nodes(collector, option, last)
    if kind == "dbus-vmstate":
        bus(collector, last.get("addr", ""), f"-{option} addr=")


def global_(collector: Collector, option: str, value: str) -> None:
    """Read `-global DRIVER.PROPERTY=VALUE` or `-global driver=D,property=P,value=V` (`qdev_global_add`).

    Raises:
        CommandLineError: an unknown property holds a path.
    """
    name, equals, text = value.partition("=")
    driver, dot, key = name.partition(".")
    if not (equals and dot and "," not in name):
        values = dict(pairs(option, value))
        driver, key, text = (values.get(part, "") for part in ("driver", "property", "value"))
    read_keys(collector, option, OPTIONS["device"], [("driver", driver), (key, text)])


# ---- what is opened although no value names it by its path: nodes of drivers, devices by address or number


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
WINDOWS = frozenset({"gtk", "sdl"})
"""Displays that QEMU itself draws in a window (`ui/gtk.c`, `ui/sdl2.c`)."""
_TUN, _VHOST_NET = Node(TUN, ("fd", "fds", "helper")), Node("/dev/vhost-net", ("vhostfd", "vhostfds"))
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


def _device_nodes(collector: Collector, option: str, values: Mapping[str, str]) -> None:
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


def _object_nodes(collector: Collector, option: str, values: Mapping[str, str]) -> None:
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


def _sound_nodes(collector: Collector, option: str, values: Mapping[str, str]) -> None:
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


def _screen_nodes(collector: Collector, option: str, values: Mapping[str, str], kind: str) -> None:
    """Add the render node of a display (`kind`) that draws with OpenGL; a window's own is Mesa's choice."""
    if values.get("rendernode"):
        return
    wants = kind == "egl-headless" or values.get("gl", "off") not in {"off", "no", "false", "n"}
    if wants and kind in {"egl-headless", "gtk", "sdl", "dbus", "spice", "spice-app"}:
        window = kind in WINDOWS
        collector.add(_RENDER, Role.HOST_DEVICE, Access.READ_WRITE, f"-{option} gl=", optional=window)


def _sasl_files(collector: Collector, option: str, values: Mapping[str, str]) -> None:
    """Add what Cyrus SASL reads for `sasl=on`; another store of passwords than its own stands in its configuration."""
    if truth(dict(values), "sasl"):
        for path, role in SASL.items():
            collector.add(path, role, Access.READ, f"-{option} sasl=", optional=True)


def _tpm_nodes(collector: Collector, option: str, values: Mapping[str, str]) -> None:
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
