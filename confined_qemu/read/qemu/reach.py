"""How far QEMU reaches beyond the files that its command line names: TCP ports, files opened later, features. Pure.

What is not understood counts as any port, and as somebody who can have QEMU open files later: a VM is never kept from
what its command line may have asked for. Sources: `net/slirp.c` (`slirp_hostfwd`), `ui/vnc.c`, `chardev/char.c`
(`qemu_chr_parse_compat`), `softmmu/vl.c` (`qemu_create_default_devices`), `monitor/`, and `gdbstub.c`
(`handle_query_rcmd`: a debugger has a monitor of its own).
"""

from __future__ import annotations

from confined_qemu.model.commas import split
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field
from confined_qemu.model.ruleset import Ports
from confined_qemu.read.qemu.collector import json_pairs, objects, truth
from confined_qemu.read.qemu.special import WINDOWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_LARGEST = 65535
_GDB = 1234
_VNC, _VNC_LAST = 5900, 5999
"""QEMU's first display, and the last one that it tries by itself (`to=99`)."""
_NETWORKS = frozenset({"netdev", "nic", "net"})
_QUIET_NETWORKS = frozenset(
    {"none", "nic", "tap", "bridge", "hubport", "vde", "vhost-user", "vhost-vdpa", "l2tpv3", "netmap", "dgram"}
)
"""Networks without TCP of QEMU's own."""
_CHARDEVS = frozenset({"serial", "parallel", "monitor", "qmp", "qmp-pretty", "debugcon", "gdb", "qtest"})
_STREAMS = ("tcp:", "telnet:", "tn3270:", "websocket:")
_IMAGES = frozenset(
    {"drive", "blockdev", "hda", "hdb", "hdc", "hdd", "fda", "fdb", "cdrom", "sd", "mtdblock", "pflash"}
)
_REMOTE = ("://", "nbd:", "rbd:", "nbd", "iscsi", "ssh", "http", "ftp", "rbd", "gluster", "nfs", "sheepdog", "nvme")
"""What stands in an image's option that is reached over the network; a word too many makes the rules wider only."""
_CONTROLS = frozenset({"qmp", "qmp-pretty", "monitor", "mon", "nographic"})
_WINDOWS = WINDOWS | {"spice-app", "cocoa"}
"""Displays that may connect to an X server over TCP."""
_ANYTHING = frozenset({"readconfig", "incoming", "spice", "iscsi"})
_CONNECTING = {
    **dict.fromkeys(_IMAGES, _REMOTE),
    **dict.fromkeys(("audiodev", "audio"), ("server",)),
    "object": ("input-barrier",),
}
"""Words in an option's value for which QEMU connects somewhere."""


@dataclass
class _TcpUse:
    """What has been seen; `any_*` where a port is not known."""

    bind: set[int] = field(default_factory=set)
    connect: set[int] = field(default_factory=set)
    any_bind: bool = False
    any_connect: bool = False

    def add(self, text: str, *, server: bool) -> None:
        """Add a port as it was written, a range `5000-5010` too; what is no number counts as any."""
        first, _, last = text.partition("-")
        known = first.isdecimal() and (last or first).isdecimal() and int(last or first) <= _LARGEST
        found = set(range(int(first), int(last or first) + 1)) if known else set()
        if not found or 0 in found:
            self.anything(server=server)
        (self.bind if server else self.connect).update(found)

    def anything(self, *, server: bool) -> None:
        """Take note of a port that is not known."""
        self.any_bind |= server
        self.any_connect |= not server


@dataclass(frozen=True, slots=True)
class Reach:
    """What a command line asks for beside files: TCP ports, and the words by which features are known."""

    ports: Ports
    words: frozenset[str]

    @classmethod
    def of(cls, arguments: Sequence[str], *, strict: bool) -> Reach:
        """Read a command line; `strict` as for `ports`."""
        return cls(ports(arguments, strict=strict), words(arguments))


def ports(arguments: Sequence[str], *, strict: bool) -> Ports:
    """Return the ports of a command line.

    `strict`: only what is on it counts. Without, a monitor may bring more later, and so makes every port possible.
    """
    seen = _TcpUse()
    texts = [*arguments, ""]
    options = [text.lstrip("-") if text.startswith("-") and text != "-" else "" for text in texts]
    for option, value in zip(options, texts[1:], strict=False):
        if option:
            _option(seen, option, value)
    given = set(options)
    if not strict and given & _CONTROLS and not _all_off(options, texts):
        seen.any_bind = seen.any_connect = True
    if "nodefaults" not in given and not given & _NETWORKS:
        seen.any_connect = True  # the network that QEMU gives a VM by itself
    if not given & {"display", "nographic", "vnc", "spice", "curses", "sdl"}:
        seen.any_connect = True
        seen.bind |= set(range(_VNC, _VNC_LAST + 1))  # without a window QEMU may take VNC
    return Ports(None if seen.any_bind else frozenset(seen.bind), None if seen.any_connect else frozenset(seen.connect))


def _all_off(options: Sequence[str], texts: Sequence[str]) -> bool:
    """Tell whether every monitor that is named is `none`."""
    values = [value for option, value in zip(options, texts[1:], strict=False) if option in _CONTROLS]
    return all(value == "none" for value in values)


def _option(seen: _TcpUse, option: str, value: str) -> None:
    if option in _NETWORKS:
        _network(seen, option, value)
    elif option == "chardev":
        _socket(seen, _pairs(option, value, "backend"))
    elif option in _CHARDEVS and value.startswith(_STREAMS):
        _legacy(seen, option, value)
    elif option == "s":
        seen.bind.add(_GDB)
    elif option == "vnc":
        _vnc(seen, value)
    elif option == "display":
        kind = _pairs(option, value, "type").get("type", "")
        seen.any_connect |= kind in _WINDOWS
        seen.any_bind |= kind.startswith("vnc")
    elif option in _ANYTHING:
        seen.any_bind = seen.any_connect = True
    elif any(word in value for word in _CONNECTING.get(option, ())):
        seen.any_connect = True


def _pairs(option: str, value: str, implied: str) -> dict[str, str]:
    try:
        return dict(objects(option, value, implied))
    except CommandLineError:
        return {implied: "?"}  # QEMU says what is wrong with it


def _network(seen: _TcpUse, option: str, value: str) -> None:
    values = _pairs(option, value, "type")
    kind = values.get("type", "")
    if kind in _QUIET_NETWORKS:
        return
    if kind == "socket":
        if "listen" in values or "connect" in values:
            server = "listen" in values
            seen.add(values["listen" if server else "connect"].rpartition(":")[2], server=server)
        return
    if kind == "stream":
        if values.get("addr.type") in {"inet", None} and "addr.port" in values:
            seen.add(values["addr.port"], server=truth(values, "server"))
        return
    seen.any_connect = True
    if kind != "user":
        seen.any_bind = True
    elif value.startswith("{"):
        seen.any_bind |= "hostfwd" in value
    else:
        for part in value.split(","):
            if part.startswith("hostfwd="):
                _forward(seen, part.removeprefix("hostfwd="))


def _forward(seen: _TcpUse, rule: str) -> None:
    """Read `[tcp|udp]:[address]:port-[address]:port`."""
    kind, _, rest = rule.partition(":")
    if kind in {"tcp", ""}:
        seen.add(rest.partition("-")[0].rpartition(":")[2], server=True)


def _socket(seen: _TcpUse, values: dict[str, str]) -> None:
    if values.get("backend", values.get("type")) not in {"socket", "?"} or "path" in values or "fd" in values:
        return
    port = values.get("port", values.get("backend.data.addr.data.port", "?"))
    last = values.get("to")
    seen.add(f"{port}-{last}" if last else port, server=truth(values, "server") or "server" not in values)
    if "server" not in values:
        seen.add(port, server=False)


def _legacy(seen: _TcpUse, option: str, value: str) -> None:
    """Read `tcp:host:port,server=on` and its like; GDB's always listens."""
    first, _, rest = value.partition(":")[2].partition(",")
    server = option == "gdb" or any(item in {"server", "server=on", "server=yes"} for item in rest.split(","))
    seen.add(first.rpartition(":")[2], server=server)


def _vnc(seen: _TcpUse, value: str) -> None:
    """Read `[host]:display,to=N`, and `host:port,reverse`."""
    values = _pairs("vnc", value, "vnc")
    where = values.get("vnc", "")
    if where.startswith("unix:") or where == "none":
        return
    number = where.rpartition(":")[2]
    if truth(values, "reverse"):
        seen.add(number, server=False)
    elif not number.isdecimal() or "websocket" in values:
        seen.any_bind = True
    else:
        last = values.get("to", number)
        seen.add(f"{int(number) + _VNC}-{int(last) + _VNC if last.isdecimal() else '?'}", server=True)


# ---- who can have it open files later

_MONITORS = frozenset({"qmp", "qmp-pretty", "monitor"})
_OTHERS = frozenset({"mon", "gdb", "s", "qtest", "readconfig", "plugin"})
"""A monitor by another name, a debugger, or options that are not looked into."""
_HIDDEN = frozenset({"none", "egl-headless"})
"""Displays on which nobody sees the monitor that QEMU makes by itself."""
_MENUS = _WINDOWS | {"dbus"}
"""Displays with menus, and with files of their own that are opened as they are needed."""
_LATER = frozenset({"usb-host"})
"""What looks for devices as they come."""


def opens_later(arguments: Sequence[str]) -> bool:
    """Tell whether QEMU may be told to open more than its command line names."""
    given = [word.lstrip("-") if word.startswith("-") and word != "-" else "" for word in arguments]
    options = list(zip(given, [*arguments[1:], ""], strict=False))
    named = set(given)
    if named & _OTHERS or words(arguments) & _LATER:
        return True
    if any(value != "none" for option, value in options if option in _MONITORS):
        return True
    if any(value.startswith("mon:") for option, value in options if option in {"serial", "parallel", "debugcon"}):
        return True
    displays = {value.partition(",")[0] for option, value in options if option == "display"}
    if displays & _MENUS or named & {"sdl"}:
        return True
    # the monitor that QEMU makes by itself: on standard input, or on a console of the display
    by_itself = not named & {"nodefaults", *_MONITORS}
    hidden = displays and displays <= _HIDDEN and not named & {"nographic", "vnc", "spice", "curses"}
    return by_itself and not hidden


# ---- the words by which a feature is known: `usb-host`, `vhost=on`

_KINDS = frozenset({"driver", "backend", "type", "qom-type", "backend.type"})
"""Keys whose value says what a thing is; most options let it stand first without its key."""


def words(arguments: Iterable[str]) -> frozenset[str]:
    """Return the items of all lists (`vhost=on`), the options themselves (`-runas`), and what things are (`pty`).

    A word is an item of an option's list, never a part of a path.
    """
    return frozenset(word for argument in arguments for word in _words(argument))


def _words(argument: str) -> Iterator[str]:
    items: Iterable[str] = split(argument.removeprefix("mon:"))
    if argument.startswith("{"):
        try:
            items = [f"{key}={value}" for key, value in json_pairs("", argument)]
        except CommandLineError:
            return  # QEMU says what is wrong with it
    for item in items:
        yield item
        key, equals, value = item.partition("=")
        if equals and key in _KINDS:
            yield value
