"""Options of QEMU whose values need more than the table of options says: networks, displays, migration. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confined_qemu.cmdline import chardevs
from confined_qemu.cmdline.collector import read_keys
from confined_qemu.cmdline.commas import split
from confined_qemu.cmdline.keyvals import child, json_pairs, objects, pairs, truth
from confined_qemu.cmdline.options import OPTIONS
from confined_qemu.resource import Access, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from confined_qemu.cmdline.collector import Collector

_UNIX = "unix:"
_NETWORK_KEYS = ("bootfile", "guestfwd", "hostfwd", "path", "sock")
_TAP_SCRIPTS = {"script": "/etc/qemu-ifup", "downscript": "/etc/qemu-ifdown"}
"""What QEMU runs where it is told nothing else (`net/tap.c`)."""
_DIRECTORIES = ("/dev/hugepages", "/dev/hugepages/")


def network(collector: Collector, option: str, value: str) -> None:
    """Read `-netdev`, `-nic` and `-net`: scripts, helpers, shares, and sockets of `stream` and `dgram`.

    Raises:
        CommandLineError: the list cannot be read, or an unknown key holds a path.
    """
    values = objects(option, value, "type")
    known = [*_NETWORK_KEYS, "addr.path", "local.path", "remote.path"]
    last = dict(values)
    kept = [(key, "" if key.endswith("script") and text == "no" else text) for key, text in values]
    read_keys(collector, option, OPTIONS[option], kept, known)
    kind = last.get("type")
    if kind in {"stream", "dgram"}:
        listens = truth(last, "server") and kind == "stream"
        for key in ("addr.path", "path"):
            access = Access.LISTEN if listens else Access.CONNECT
            if not truth(last, "addr.abstract", "abstract"):
                collector.add(last.get(key, ""), Role.SOCKET, access, f"-{option} {key}=")
        collector.add(last.get("local.path", ""), Role.SOCKET, Access.LISTEN, f"-{option} local.path=")
        collector.add(last.get("remote.path", ""), Role.SOCKET, Access.CONNECT, f"-{option} remote.path=")
    if kind == "tap" and not {"fd", "fds", "helper"} & last.keys():
        for key, script in _TAP_SCRIPTS.items():
            if key not in last:
                collector.add(script, Role.HELPER, Access.READ, f"-{option} {key}=")
    if kind == "vde" and "sock" in last:
        # the switch's folder; its socket is in it (libvdeplug)
        collector.add(f"{last['sock']}/ctl", Role.SOCKET, Access.CONNECT, f"-{option} sock=")
    for key, text in values:
        # guestfwd=tcp:ADDRESS:PORT-DEVICE, in the old syntax of character devices (`net/slirp.c`)
        if key.startswith("guestfwd") and "-" in text:
            device = chardevs.compat(option, text.partition("-")[2])
            chardevs.files(collector, device, f"-{option} guestfwd=")


def filesystem(collector: Collector, option: str, value: str) -> None:
    """Read `-fsdev` and `-virtfs` (`fsdev/qemu-fsdev-opts.c`): with `readonly=on` the folder is only read.

    Raises:
        CommandLineError: the list cannot be read, or an unknown key holds a path.
    """
    values = objects(option, value, "fsdriver")
    last = dict(values)
    if truth(last, "readonly"):
        collector.add(last.get("path", ""), Role.FILESYSTEM, Access.READ, f"-{option} path=")
        values = tuple((key, text) for key, text in values if key != "path")
    read_keys(collector, option, OPTIONS[option], values)


def vnc(collector: Collector, option: str, value: str) -> None:
    """Read `-vnc unix:PATH,…` (`ui/vnc.c`): QEMU makes the socket, or connects with `reverse=on`.

    Raises:
        CommandLineError: the list cannot be read.
    """
    values = dict(pairs(option, value, "vnc"))
    address = values.get("vnc", "")
    if address.startswith(_UNIX):
        access = Access.CONNECT if truth(values, "reverse") else Access.LISTEN
        collector.add(address.removeprefix(_UNIX), Role.SOCKET, access, f"-{option} {_UNIX}")


def display(collector: Collector, option: str, value: str) -> None:
    """Read `-display TYPE,…`: `vnc=` is `-vnc`, `dbus` has a bus's address.

    Raises:
        CommandLineError: the list cannot be read.
    """
    if value.startswith("vnc="):
        vnc(collector, option, value.removeprefix("vnc="))
        return
    values = objects(option, value, "type")
    read_keys(collector, option, OPTIONS[option], values)
    bus(collector, dict(values).get("addr", ""), f"-{option} addr=")


def bus(collector: Collector, address: str, source: str) -> None:
    """Add the socket of a D-Bus address (`unix:path=/run/…,guid=…;…`)."""
    for single in address.split(";"):
        if single.startswith(_UNIX):
            for item in single.removeprefix(_UNIX).split(","):
                if item.startswith("path="):
                    collector.add(item.removeprefix("path="), Role.SOCKET, Access.CONNECT, source)


def spice(collector: Collector, option: str, value: str) -> None:
    """Read `-spice …` (`ui/spice-core.c`): `addr=` is a path with `unix=on`.

    Raises:
        CommandLineError: the list cannot be read.
    """
    values = pairs(option, value)
    read_keys(collector, option, OPTIONS[option], values)
    last = dict(values)
    if truth(last, "unix"):
        collector.add(last.get("addr", ""), Role.SOCKET, Access.LISTEN, f"-{option} addr=")


def incoming(collector: Collector, option: str, value: str) -> None:
    """Read `-incoming unix:PATH`, `file:PATH[,offset=N]`, a JSON channel list, or what names no file.

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
    elif value.startswith(_UNIX):
        collector.add(value.removeprefix(_UNIX), Role.SOCKET, Access.LISTEN, f"-{option} {_UNIX}")
    elif value.startswith("file:"):
        path = value.removeprefix("file:").partition(",offset=")[0]
        collector.add(path, Role.STATE, Access.READ, f"-{option} file:")


def initrd(collector: Collector, option: str, value: str) -> None:
    """Read `-initrd FILE`, or a multiboot kernel's `-initrd "FILE ARGUMENTS,FILE ARGUMENTS"`.

    The kernel's format decides which it is, and is not known here: a comma means a list.
    """
    modules = split(value)
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


READERS: dict[str, Callable[[Collector, str, str], None]] = {
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
"""The readers of the options of kind OWN."""
