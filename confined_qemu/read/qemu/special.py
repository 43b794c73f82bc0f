"""Options of QEMU whose values need more than the table of options says: displays, migration, objects. Pure."""

from __future__ import annotations

import posixpath

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.commas import split
from confined_qemu.model.errors import HINT, printable
from confined_qemu.model.frozen import replace
from confined_qemu.model.resource import Access, Role, Takes
from confined_qemu.read.qemu import networks, nodes
from confined_qemu.read.qemu.collector import Socket, read_keys
from confined_qemu.read.qemu.keyvals import around, child, json_pairs, objects, pairs, truth
from confined_qemu.read.qemu.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    nodes.sasl(collector, option, values)
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
    nodes.screen(collector, option, last, last.get("type", ""))
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
    nodes.screen(collector, option, last, "spice")
    nodes.sasl(collector, option, last)
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
    nodes.device(collector, option, dict(values))


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
    nodes.sound(collector, option, last)
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
    nodes.tpm(collector, option, dict(values))


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
    nodes.object_(collector, option, last)
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


READERS: dict[str, Callable[[Collector, str, str], Socket | None]] = {
    "netdev": networks.network,
    "device": device,
    "audiodev": audio,
    "audio": audio,
    "cpu": nodes.processor,
    "icount": icount,
    "plugin": plugin,
    "tpmdev": tpmdev,
    "fsdev": filesystem,
    "virtfs": filesystem,
    "nic": networks.network,
    "net": networks.network,
    "vnc": vnc,
    "display": display,
    "spice": spice,
    "incoming": incoming,
    "initrd": initrd,
    "object": object_,
    "global": global_,
}
"""The readers of the options of kind OWN; each returns the socket in the value that is to be rewritten."""
