"""QEMU's networks, to the scripts, helpers, folders, nodes and sockets that they use. Pure.

Source: `qapi/net.json`, `net/tap.c`, `net/slirp.c`, `net/stream.c`.
"""

from __future__ import annotations

from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.resource import Access, Role, Tap
from confined_qemu.read.qemu import chardevs, special
from confined_qemu.read.qemu.collector import Socket, around, load_json, objects, read_keys, truth
from confined_qemu.read.qemu.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confined_qemu.read.qemu.collector import Collector

_NETWORK_KEYS = ("bootfile", "guestfwd", "helper", "hostfwd", "path", "sock")
_TAP_SCRIPTS = {"script": "/etc/qemu-ifup", "downscript": "/etc/qemu-ifdown"}
"""What QEMU runs where it is told nothing else (`net/tap.c`)."""
_TAP_OTHERWISE = ("fd", "fds", "helper", "vhostfds", "br")
"""Keys of a tap device that is had by another way than its name."""
_LONGEST_NAME = 15
"""Bytes of an interface's name (IFNAMSIZ without its NUL)."""
_BRIDGE_HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
"""Debian's and Fedora's, where `-netdev bridge` names none (`DEFAULT_BRIDGE_HELPER`)."""
_SAMBA = "/usr/sbin/smbd"
_RUNS = "cmd:"
"""What `guestfwd=` runs for each connection (`net/slirp.c`)."""


def program_of(command: str) -> str:
    """Return the program that a command line of words starts, the line itself where its quotes do not close."""
    import shlex

    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return words[0] if words else ""


def network(collector: Collector, option: str, value: str) -> Socket | Tap | None:
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
    made: Socket | Tap | None = None
    kind = last.get("type")
    if kind in {"stream", "dgram"}:
        listens = truth(last, "server") and kind == "stream"
        access = Access.LISTEN if listens else Access.CONNECT
        made = _stream(collector, option, value, values, access)
        collector.add(last.get("local.path", ""), Role.SOCKET, Access.LISTEN, f"-{option} local.path=")
        collector.add(last.get("remote.path", ""), Role.SOCKET, Access.CONNECT, f"-{option} remote.path=")
    if kind == "tap" and not {*_TAP_OTHERWISE} & last.keys() and last.get("queues", "1") == "1":
        made = _tap(option, value, last)
    _programs(collector, option, last)
    if last.get("helper"):
        _helper(collector, last["helper"], f"-{option} helper=")
    if kind == "vde" and "sock" in last:
        # the switch's folder; its socket is in it (libvdeplug)
        collector.add(f"{last['sock']}/ctl", Role.SOCKET, Access.CONNECT, f"-{option} sock=")
    _forwards(collector, option, values)
    return made


def _forwards(collector: Collector, option: str, values: Sequence[tuple[str, str]]) -> None:
    for key, text in values:
        # guestfwd=tcp:ADDRESS:PORT-DEVICE, in the old syntax of character devices (`net/slirp.c`)
        if key.startswith("guestfwd") and "-" in text:
            target, source = text.partition("-")[2], f"-{option} guestfwd="
            if target.startswith(_RUNS):
                collector.program(program_of(target.removeprefix(_RUNS)), source)
            else:
                chardevs.files(collector, chardevs.compat(option, target), source)


def _tap(option: str, value: str, last: Mapping[str, str]) -> Tap | None:
    """Return a tap device that is named, and for which QEMU runs nothing: it takes a descriptor in its place.

    None where it is not there to be attached to, as its name shows.
    """
    name = last.get("ifname", "")
    plain = 0 < len(name.encode(errors="surrogateescape")) <= _LONGEST_NAME and "/" not in name and "%" not in name
    if not plain or any(last.get(key) != "no" for key in _TAP_SCRIPTS):
        return None
    identity, headers = chardevs.plain_name(last.get("id", ""), "tap"), truth(dict(last), "vnet_hdr", default=True)
    ours = ("ifname", *_TAP_SCRIPTS, "vnet_hdr")
    if value.startswith("{"):
        import json

        others = {key: item for key, item in load_json(option, value).items() if key not in ours}
        before = json.dumps({**others, "fd": None}, ensure_ascii=False).removesuffix("null}")
        return Tap(identity, name, headers, f'{before}"', '"}', value)
    before, after = around(value, "type", "ifname", also=ours[1:])
    return Tap(identity, name, headers, f"{before}fd=", after, value)


def _programs(collector: Collector, option: str, last: Mapping[str, str]) -> None:
    """Add the nodes of a tap device, and the scripts and helpers that QEMU runs for a network."""
    kind = last.get("type")
    if kind == "tap" and not {"fd", "fds", "helper"} & last.keys():
        for key, script in _TAP_SCRIPTS.items():
            if key not in last:
                collector.add(script, Role.PROGRAM, Access.READ, f"-{option} {key}=")
    if kind == "passt":
        collector.needs_tmpdir = True  # where its pidfile is made (`net/passt.c`)
        collector.program(last.get("path", "passt"), f"-{option} passt")
    if kind == "tap":
        special.tap(collector, option, last)
    if kind == "bridge" and "helper" not in last:
        collector.add(
            _BRIDGE_HELPERS[0], Role.PROGRAM, Access.READ, f"-{option} helper=", otherwise=_BRIDGE_HELPERS[1:]
        )
    if last.get("smb"):
        collector.needs_tmpdir = True  # where Samba's configuration is written (`net/slirp.c`)
        collector.program(_SAMBA, f"-{option} smb=")


def _helper(collector: Collector, command: str, source: str) -> None:
    """Add a bridge helper: a command line with blanks in it is a shell's (`net/tap.c`, `net_bridge_run_helper`)."""
    if " " in command or "\t" in command:
        collector.add("/bin/sh", Role.PROGRAM, Access.READ, source)
        command = program_of(command)
    collector.add(command, Role.PROGRAM, Access.READ, source)


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

        others = {key: item for key, item in load_json(option, value).items() if key != "addr"}
        before = json.dumps({**others, "addr": None}, ensure_ascii=False).removesuffix("null}")
        return Socket(name, path, source, f'{before}{{"type": "fd", "str": "', '"}}', access, given=value)
    before, after = around(value, "type", "addr.path", also=("addr.type", "addr.abstract", "addr.tight"))
    return Socket(name, path, source, f"{before}addr.type=fd,addr.str=", after, access, given=value)
