"""Options of QEMU whose values need more than the table of options says: networks, displays, migration. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confined_qemu.model.commas import escape, split
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.resource import Access, Role, Takes
from confined_qemu.read.qemu import chardevs
from confined_qemu.read.qemu.collector import Socket, read_keys
from confined_qemu.read.qemu.keyvals import child, json_pairs, objects, pairs, truth
from confined_qemu.read.qemu.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from confined_qemu.read.qemu.collector import Collector

_UNIX = "unix:"
_NETWORK_KEYS = ("bootfile", "guestfwd", "hostfwd", "path", "sock")
_TAP_SCRIPTS = {"script": "/etc/qemu-ifup", "downscript": "/etc/qemu-ifdown"}
"""What QEMU runs where it is told nothing else (`net/tap.c`)."""
_NODES = {"iommufd": "/dev/iommu", "memory-backend-epc": "/dev/sgx_vepc"}
"""What objects open that name no file (`backends/iommufd.c`, `hostmem-epc.c`)."""
_DIRECTORIES = ("/dev/hugepages", "/dev/hugepages/")


def network(collector: Collector, option: str, value: str) -> Socket | None:
    """Read `-netdev`, `-nic` and `-net`: scripts, helpers, shares, and sockets of `stream` and `dgram`.

    Returns the socket that the launcher makes.

    Raises:
        CommandLineError: the list cannot be read, or an unknown key holds a path.
    """
    values = objects(option, value, "type")
    known = [*_NETWORK_KEYS, "addr.path", "local.path", "remote.path"]
    last = dict(values)
    kept = [(key, "" if key.endswith("script") and text == "no" else text) for key, text in values]
    read_keys(collector, option, OPTIONS[option], kept, known)
    made, kind = None, last.get("type")
    if kind in {"stream", "dgram"}:
        listens = truth(last, "server") and kind == "stream"
        access = Access.LISTEN if listens else Access.CONNECT
        made = _stream(collector, option, value, values, access)
        collector.add(last.get("local.path", ""), Role.SOCKET, Access.LISTEN, f"-{option} local.path=")
        collector.add(last.get("remote.path", ""), Role.SOCKET, Access.CONNECT, f"-{option} remote.path=")
    if kind == "tap" and not {"fd", "fds", "helper"} & last.keys():
        for key, script in _TAP_SCRIPTS.items():
            if key not in last:
                collector.add(script, Role.PROGRAM, Access.READ, f"-{option} {key}=")
        collector.add("/dev/net/tun", Role.HOST_DEVICE, Access.READ_WRITE, f"-{option} tap")
    collector.needs_tmpdir |= "smb" in last  # where Samba's configuration is written (`net/slirp.c`)
    if kind == "vde" and "sock" in last:
        # the switch's folder; its socket is in it (libvdeplug)
        collector.add(f"{last['sock']}/ctl", Role.SOCKET, Access.CONNECT, f"-{option} sock=")
    for key, text in values:
        # guestfwd=tcp:ADDRESS:PORT-DEVICE, in the old syntax of character devices (`net/slirp.c`)
        if key.startswith("guestfwd") and "-" in text:
            device = chardevs.compat(option, text.partition("-")[2])
            chardevs.files(collector, device, f"-{option} guestfwd=")
    return made


def _stream(
    collector: Collector, option: str, value: str, values: Sequence[tuple[str, str]], access: Access
) -> Socket | None:
    """Return the socket of a `stream` (`net/stream.c`): QEMU takes a descriptor in the place of its address.

    Raises:
        CommandLineError: an abstract socket would listen, which SELinux cannot keep from other VMs.
    """
    last = dict(values)
    path, source = last.get("addr.path", ""), f"-{option} addr.path="
    if not path or last.get("addr.type", "unix") != "unix":
        return None
    if truth(last, "addr.abstract"):
        if access is Access.LISTEN:
            raise CommandLineError(
                f"{source}{path!r}: any VM may connect to an abstract socket", hint="leave addr.abstract=on out"
            )
        return None
    again = any(last.get(key, "0") != "0" for key in ("reconnect", "reconnect-ms"))
    if access is Access.CONNECT or option != "netdev":
        collector.add(path, Role.SOCKET, access, source)
    if option != "netdev" or again:
        return None  # QEMU connects anew by the path alone
    name = chardevs.plain_name(last.get("id", ""), "netdev")
    if value.startswith("{"):
        import json

        others = {key: item for key, item in json.loads(value).items() if key != "addr"}
        before = json.dumps({**others, "addr": None}, ensure_ascii=False).removesuffix("null}")
        return Socket(name, path, source, f'{before}{{"type": "fd", "str": "', '"}}', access, given=value)
    before, after = _around(value, "type", "addr.path", also=("addr.type", "addr.abstract", "addr.tight"))
    return Socket(name, path, source, f"{before}addr.type=fd,addr.str=", after, access, given=value)


def _around(value: str, implied: str | None, key: str, also: Sequence[str] = ()) -> tuple[str, str]:
    """Return a comma list's items before and after the last `key`; other items with that key or `also` are left out."""
    items = split(value)
    keys = [found for found, _ in pairs(key, value, implied)]  # one for each item
    place = max(number for number, found in enumerate(keys) if found == key)
    kept = [(number, escape(item)) for number, item in enumerate(items) if keys[number] not in {key, *also}]
    before = "".join(f"{item}," for number, item in kept if number < place)
    return before, "".join(f",{item}" for number, item in kept if number > place)


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
    address = values.get("vnc", "")
    path, source = address.removeprefix(_UNIX), f"-{option} {_UNIX}"
    if path in ("", address):
        return None
    if truth(values, "reverse"):
        collector.add(path, Role.SOCKET, Access.CONNECT, source)
        return None
    before, after = _around(value, "vnc", "vnc")
    return Socket("vnc", path, source, f"{before}vnc={_UNIX}", after, takes=Takes.LISTED_PATH, given=value)


def display(collector: Collector, option: str, value: str) -> Socket | None:
    """Read `-display TYPE,…`: `vnc=` is `-vnc`, `dbus` has a bus's address.

    Raises:
        CommandLineError: the list cannot be read.
    """
    if value.startswith("vnc="):
        found = vnc(collector, option, value.removeprefix("vnc="))
        return None if found is None else found._replace(before=f"vnc={found.before}", given=value)
    values = objects(option, value, "type")
    read_keys(collector, option, OPTIONS[option], values)
    bus(collector, dict(values).get("addr", ""), f"-{option} addr=")
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
    path = last.get("addr", "")
    if not truth(last, "unix") or not path:
        return None
    before, after = _around(value, None, "addr")
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
            elif child(last, f"{place}.args") == {}:
                collector.unknown_path(option, key, text)
    elif value.startswith(_UNIX) and value != _UNIX:
        path, source = value.removeprefix(_UNIX), f"-{option} {_UNIX}"
        return Socket("incoming", path, source, _UNIX, "", takes=Takes.PATH, given=value)
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


def memory(collector: Collector, path: str, source: str, *, readonly: bool = False) -> None:
    """Add a file of guest memory; QEMU makes one that has no name in a folder such as `/dev/hugepages`."""
    if path.endswith("/") or path in _DIRECTORIES:
        collector.add(path, Role.MEMORY, Access.DIRECTORY, source)
    elif readonly:
        collector.add(path, Role.MEMORY, Access.READ, source)
    else:
        collector.add(path, Role.MEMORY, Access.CREATE, source)


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
    read_keys(collector, option, OPTIONS[option], values)
    if kind in _NODES and not last.get("fd"):
        collector.add(_NODES[kind], Role.HOST_DEVICE, Access.READ_WRITE, f"-{option} {kind}")
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
    "netdev": network,
    "fsdev": filesystem,
    "virtfs": filesystem,
    "nic": network,
    "net": network,
    "vnc": vnc,
    "display": display,
    "spice": spice,
    "incoming": incoming,
    "initrd": initrd,
    "object": object_,
    "global": global_,
}
"""The readers of the options of kind OWN; each returns the socket in the value that is to be rewritten."""
