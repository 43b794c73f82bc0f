"""Character devices on QEMU's command line, and the rewriting of those that listen on a unix socket. Pure.

Source: `chardev/char.c` (`qemu_chr_parse_compat`), `chardev/char-socket.c`, `softmmu/vl.c` (`monitor_parse`).
QEMU may not make a socket in the caller's folders (`svirt_t` creates nothing there), so the launcher makes it and
`fd=` stands where `path=` was. A socket that another program listens on is connected by the launcher: whether a VM's
domain may connect is the listener's policy (`connectto`), and a caller's programs allow it to none. Nothing else of
a command line is rewritten.
"""

from __future__ import annotations

from confined_qemu.model.commas import escape, split
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.resource import Access, Role
from confined_qemu.read.qemu import special
from confined_qemu.read.qemu.collector import Socket, json_pairs, pairs, truth

if TYPE_CHECKING:
    from confined_qemu.read.qemu.collector import Collector

_TTYS = frozenset({"parallel", "parport", "serial", "tty"})
_STREAM_PREFIXES = ("tcp:", "telnet:", "tn3270:", "websocket:")
_FIXED_IDS = frozenset({"debugcon", "qtest"})
"""Options whose device looks for a chardev with the option's own name, whatever `chardev:ID` says."""
_MONITORS = frozenset({"monitor", "qmp", "qmp-pretty"})


def chardev(collector: Collector, argument: str, value: str) -> None:
    """Read `-chardev LIST` and append it to the arguments, with `fd=` for the path of a socket.

    Raises:
        CommandLineError: the list cannot be read, or an abstract socket would listen.
    """
    if value.startswith("{"):
        files(collector, _from_json(value), "-chardev")
        collector.arguments += [argument, value]
        return
    values = dict(pairs("chardev", value, "backend"))
    made = files(collector, values, "-chardev", rewritten=True)
    collector.arguments.append(argument)
    if made is None:
        collector.arguments.append(value)
        return
    path = values["path"]
    items = split(value)
    places = [number for number, item in enumerate(items) if item.startswith("path=")]
    keep = [(number, escape(item)) for number, item in enumerate(items) if number not in places]
    before = "".join(f"{item}," for number, item in keep if number < places[-1])
    after = "".join(f",{item}" for number, item in keep if number > places[-1])
    name = plain_name(values.get("id", ""), "chardev")
    collector.socket(Socket(name, path, "-chardev path=", f"{before}fd=", after, made))


def _from_json(text: str) -> dict[str, str]:
    """Return the options of `-chardev JSON`, which has the form of QMP's `chardev-add` (`qapi/char.json`)."""
    flat = dict(json_pairs("chardev", text))
    values = {
        ".".join(part for part in key.split(".") if part not in {"backend", "data"}): item for key, item in flat.items()
    }
    path = next((values[key] for key in ("out", "device", "addr.path", "path") if key in values), "")
    return {
        "server": "on",  # unlike a comma list's
        **values,
        "backend": values.get("type", ""),
        "path": path,
        "input-path": values.get("in", ""),
        "abstract": values.get("addr.abstract", "off"),
    }


def legacy(collector: Collector, option: str, argument: str, value: str) -> None:
    """Read `-serial DEV`, `-qmp DEV` and the like and append them, as `-chardev` too for a unix socket.

    Raises:
        CommandLineError: a list within it cannot be read, or an abstract socket would listen.
    """
    values = compat(option, value)
    made = files(collector, values, f"-{option}", rewritten=True)
    if made is None:
        collector.arguments += [argument, value]
        return
    name = option if option in _FIXED_IDS else _new_id(collector, option)
    others = "".join(f",{key}={escape(text)}" for key, text in values.items() if key not in {"backend", "path"})
    collector.arguments.append("-chardev")
    collector.socket(Socket(name, values["path"], f"-{option} unix:", f"socket,id={name},fd=", others, made))
    collector.arguments += [argument, f"chardev:{name}"]
    if value.startswith("mon:") and option not in _MONITORS:
        collector.arguments += ["-mon", f"chardev={name},mode=readline"]


def _new_id(collector: Collector, option: str) -> str:
    """Return an id that neither the command line nor an earlier rewriting uses."""
    number = collector.counts.get(option, 0)
    while (name := f"confined-{option}{number}") in collector.taken or name in collector.names:
        number += 1
    collector.counts[option] = number + 1
    return name


def plain_name(identifier: str, otherwise: str) -> str:
    """Return an id as a name for a printed plan; QEMU refuses an id with other characters."""
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in identifier)
    return identifier if identifier and plain else otherwise


def compat(option: str, value: str) -> dict[str, str]:
    """Return the chardev options that the old syntax of `value` stands for.

    Raises:
        CommandLineError: a list within it cannot be read.
    """
    found: dict[str, str] = {}
    if value.startswith("mon:"):
        value = value.removeprefix("mon:")
        found["mux"] = "on"
    if value == "braille":
        return {"backend": value, **found}
    backend, colon, rest = value.partition(":")
    if colon and backend in {"file", "pipe", "pty"}:
        return {"backend": backend, "path": rest, **found}
    if colon and backend == "unix":
        return {"backend": "socket", **found, **dict(pairs(option, rest, "path"))}
    if value.startswith(_STREAM_PREFIXES):
        return {"backend": "socket", **found, **dict(pairs(option, value.partition(",")[2]))}
    if value.startswith(("/dev/", "COM")):
        return {"backend": "serial", "path": value, **found}
    return found


def files(collector: Collector, values: dict[str, str], source: str, *, rewritten: bool = False) -> Access | None:
    """Add the files of one character device.

    Returns what the launcher does with the socket at `path` in QEMU's place, where the option is `rewritten`.

    Raises:
        CommandLineError: an abstract socket would listen, which SELinux cannot keep from other VMs.
    """
    collector.add(values.get("logfile", ""), Role.LOG, Access.CREATE, f"{source} logfile=")
    backend, path = values.get("backend"), values.get("path", "")
    place = f"{source} path=" if source == "-chardev" else source
    if backend == "file":
        collector.add(path, Role.CHARDEV, Access.CREATE, place)
        collector.add(values.get("input-path", ""), Role.CHARDEV, Access.READ, f"{source} input-path=")
    elif backend == "pipe" and path:
        for end in (".in", ".out"):
            # without the two it is one pipe for both ways (`chardev/char-pipe.c`)
            collector.add(path + end, Role.CHARDEV, Access.READ_WRITE, place, otherwise=(path,))
    elif backend == "pty" and path:
        raise CommandLineError(
            f"{source} pty: a VM may not make the link {path!r}",
            hint="leave the path out; QEMU prints the terminal's name, and QMP's query-chardev returns it",
        )
    elif backend in _TTYS:
        collector.add(path, Role.CHARDEV, Access.READ_WRITE, place)
    elif backend == "socket" and path:
        return _socket(collector, values, place, rewritten=rewritten)
    elif backend == "braille":
        special.braille(collector, source)
    return None


def _socket(collector: Collector, values: dict[str, str], place: str, *, rewritten: bool) -> Access | None:
    path, server = values["path"], truth(values, "server")
    if truth(values, "abstract"):
        if server:
            raise CommandLineError(
                f"{place}{path!r}: any VM may connect to an abstract socket", hint="leave abstract=on out"
            )
    else:
        made = rewritten and "fd" not in values
        if made and server:
            return Access.LISTEN
        collector.add(path, Role.SOCKET, Access.LISTEN if server else Access.CONNECT, place)
        # QEMU connects anew by the path alone (chardev/char-socket.c: reconnect is incompatible with fd)
        if made and not any(values.get(key, "0") != "0" for key in ("reconnect", "reconnect-ms")):
            return Access.CONNECT
    return None
