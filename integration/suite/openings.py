"""Real QEMU under strace: the files that a command line names are made, and what QEMU opened is told."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from integration.suite import headers
from integration.suite.openings_table import End, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

QEMU = "/usr/bin/qemu-system-x86_64"
_COMMON = ("-S", "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-accel", "tcg")
_MONITOR = ("-chardev", "stdio,id=q0", "-mon", "chardev=q0,mode=control")
_QUIT = b"".join(json.dumps({"execute": command}).encode() + b"\n" for command in ("qmp_capabilities", "quit"))
HOSTILE = os.fsdecode(b"o,p =d\n\xff")
"""The folder of the files that are named in brackets."""
_SIZE = 1 << 20
"""Bytes of a disk."""
_PATIENCE = 120
"""Seconds after which QEMU is taken for one that hangs."""
_NAME = re.compile(r"<(,?)([\w.:-]+)>")


def _linux() -> bytes:
    """Return the least that QEMU takes for a Linux kernel (`x86_load_linux`): a header of protocol 2.12."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    head[0x206:0x208] = (0x20C).to_bytes(2, "little")
    head[0x211] = 1
    head[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    return bytes(head) + bytes(4096)


_CONTENTS = {
    "linux": _linux(),
    "floppy": bytes(1440 << 10),
    **dict.fromkeys(("bios", "pflash"), bytes(1 << 16)),
    "rom": b"\x55\xaa\x04" + bytes(2045),
    "text": b"text\n",
    "config": b'[chardev "c1"]\n  backend = "file"\n  path = "new-of-config"\n',
    "debug": b'[inject-error]\nevent = "flush_to_os"\n',
    "events": b"qmp_job_cancel\n",
    "script": b"#!/bin/sh\nexit 0\n",
    "smbios": bytes((127, 4, 0, 1, 0, 0)),
    "table": b"TEST" + (36).to_bytes(4, "little") + bytes(28),
    "splash": b"BM" + bytes(24) + b"\x18" + bytes(64),
    "raw": bytes(_SIZE),
}
"""What a plain file holds, by its kind."""
_FOLDERS = {
    "dir": (b"a", ("a",)),
    "roms": (bytes(1 << 16), ("rom.bin", "bios-256k.bin", "keymaps/en-us")),
    "keys": (
        b"a:0123456789abcdef0123456789abcdef\n",
        ("keys.psk", "ca-cert.pem", "server-cert.pem", "server-key.pem"),
    ),
}
"""What every file of a folder holds, and their names, by its kind."""
_KINDS = (*_CONTENTS, *_FOLDERS, "chain", "data", "vmdk", "fifo", "single", "peer", "shut", "new")
_MADE = re.compile(rf"(?<![\w-])(?:{'|'.join(_KINDS)})-\w+(?::colon)?")

OWN = {
    "/usr/": "QEMU, its libraries, modules, firmware and keymaps, and zoneinfo",
    "/lib/": "libraries",
    "/lib64/": "libraries",
    "/etc/ld.so.": "the dynamic linker",
    "/etc/qemu/": "QEMU's own configuration",
    "/etc/localtime": "the host's time zone",
    "/etc/nsswitch.conf": "names of users and hosts",
    "/etc/passwd": "names of users and hosts",
    "/etc/group": "names of users and hosts",
    "/etc/hosts": "names of users and hosts",
    "/etc/host.conf": "names of users and hosts",
    "/etc/resolv.conf": "names of users and hosts",
    "/etc/gai.conf": "names of users and hosts",
    "/etc/services": "names of users and hosts",
    "/run/nscd/": "names of users and hosts",
    "/var/run/nscd/": "names of users and hosts",
    "/etc/libnl/": "libraries' configuration",
    "/etc/gnutls/": "libraries' configuration",
    "/etc/ssl/": "libraries' configuration",
    "/etc/sasl": "libraries' configuration",
    "/etc/pki/": "libraries' configuration",
    "/etc/selinux/": "libraries' configuration",
    "/proc/": "the kernel's files",
    "/sys/": "the kernel's files",
    "/dev/null": "every process's",
    "/dev/urandom": "every process's",
    "/dev/tty": "every process's",
    "/dev/ptmx": "every process's",
    "/dev/pts/": "the terminal that a pty is for",
    "/dev/vhost-net": "a driver that keeps its users apart",
    "/dev/sgx_vepc": "QEMU looks whether the host has SGX",
    "/dev/bus/usb": "libusb looks which devices there are",
}
"""What QEMU opens without being told to, and why."""
_EXACT = {
    "/dev": "libusb looks for its folder of devices",
    "/bin/sh": "a shell removes Samba's folder (`slirp_smb_cleanup`)",
    "/tmp": "NSS gathers noise",  # noqa: S108 - looked at, never written
    "/var/tmp": "NSS gathers noise",  # noqa: S108 - the same
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A path, absolute, and what QEMU wanted of it: `r`, `w`, `c` (create), `listen`, `connect`, `x` (execute)."""

    path: str
    want: str


@dataclass(frozen=True, slots=True)
class Done:
    """How QEMU ended: by our command, or by itself."""

    lived: bool
    text: str
    opened: tuple[Opened, ...]


def arguments(run: Run, hostile: str) -> tuple[str, ...]:
    """Return QEMU's arguments for a start of it; `hostile` is the folder of the files in brackets."""

    def path(match: re.Match[str]) -> str:
        whole = os.path.join(hostile, match[2])
        return whole.replace(",", ",,") if match[1] else whole

    words = (*_COMMON, *(_MONITOR if run.stdio else ()), *run.words)
    return tuple(_NAME.sub(path, word) for word in words)


class Place:
    """A folder with the files of one run, the working directory of its QEMU."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.hostile = os.path.join(folder, HOSTILE)
        self.temporary = os.path.join(folder, "tmp")
        self._held: list[socket.socket | int] = []
        for path in (self.hostile, self.temporary, os.path.join(folder, "sub")):
            os.makedirs(path, exist_ok=True)

    def make(self, words: Sequence[str]) -> None:
        """Make the files that these words name."""
        for word in words:
            inside = {match[2] for match in _NAME.finditer(word)}
            for name in inside:
                self._one(self.hostile, name)
            for name in _MADE.findall(json_text(_NAME.sub("", word))):
                self._one(self.folder, name)

    def _one(self, folder: str, name: str) -> None:
        path = os.path.join(folder, name)
        kind = name.partition("-")[0]
        if kind == "new" or os.path.exists(path) or os.path.exists(f"{path}.in"):
            return
        if kind in _FOLDERS:
            self._folder(path, *_FOLDERS[kind])
        elif kind == "single":
            os.mkfifo(path)
            self._held.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        elif kind in {"peer", "shut"}:
            self._socket(folder, name, listening=kind == "peer")
        elif kind == "fifo":
            for end in (".in", ".out"):
                os.mkfifo(path + end)
                pipe = os.open(path + end, os.O_RDWR | os.O_NONBLOCK)
                self._held.append(pipe)
                if name == "fifo-q" and end == ".in":
                    os.write(pipe, _QUIT)
        elif kind in {"chain", "data", "vmdk"}:
            self._image(folder, name, kind)
        else:
            _write(path, _CONTENTS.get(kind, b"text\n"))

    @staticmethod
    def _folder(path: str, data: bytes, names: Sequence[str]) -> None:
        for name in names:
            file = os.path.join(path, name)
            os.makedirs(os.path.dirname(file), exist_ok=True)
            _write(file, data)

    def _image(self, folder: str, name: str, kind: str) -> None:
        path = os.path.join(folder, name)
        if kind == "chain":
            middle = f"middle-of-{name}"
            headers.overlay(path, middle, "qcow2")
            headers.overlay(os.path.join(folder, middle), f"base-of-{name}", "raw")
            _write(os.path.join(folder, f"base-of-{name}"), bytes(_SIZE))
        elif kind == "data":
            headers.qcow2(path, b"", (headers.DATA_FILE, f"raw-of-{name}".encode()))
            _write(os.path.join(self.folder, f"raw-of-{name}"), bytes(_SIZE))
        else:
            headers.vmdk(path, f"extent-of-{name}")
            _write(os.path.join(folder, f"extent-of-{name}"), bytes(_SIZE))

    def _socket(self, folder: str, name: str, *, listening: bool) -> None:
        made = socket.socket(socket.AF_UNIX)
        before = os.open(".", os.O_PATH)
        os.chdir(folder)  # a socket's name may have 107 bytes
        made.bind(os.fsencode(name))
        os.fchdir(before)
        os.close(before)
        if listening:
            made.listen()
        self._held.append(made)

    def close(self) -> None:
        """Let go of sockets and pipes."""
        for one in self._held:
            if isinstance(one, int):
                os.close(one)
            else:
                one.close()


def json_text(word: str) -> str:
    """Return a word with JSON's escapes read, as far as the table uses them."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), word)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, 0o755)


# ---- the comparison


def compare(run: Run, folder: str) -> tuple[list[str], str]:
    """Start QEMU as `run` says in an empty folder; return what does not fit the plan, and what QEMU printed."""
    place, before = Place(folder), os.getcwd()
    os.chdir(folder)
    os.environ["TMPDIR"] = place.temporary
    try:
        place.make(run.words)
        words = arguments(run, place.hostile)
        plan = planned(words)
        done = traced(place, words)
        problems = [f"opened and not planned: {one}" for one in missing(done.opened, plan)]
        problems += [f"planned and not opened: {path}" for path in _unopened(run, plan, done.opened)]
        if done.lived == (run.end is End.DIES) and run.end is not End.EITHER:
            problems.append(f"it is no longer so that {run.end.value}")
        return problems, done.text
    finally:
        os.chdir(before)
        place.close()


def _unopened(run: Run, plan: Sequence[tuple[str, str, str]], opened: Sequence[Opened]) -> list[str]:
    """Return the paths that the plan names and QEMU never opened, but those that stand in the table with a reason."""
    seen = {one.path for one in opened}
    return [
        path
        for path, access, role in plan
        if access != "temporary"
        and role != OPTIONAL
        and os.path.basename(path) not in run.unopened
        and not any(one == path or one.startswith(f"{path}/") for one in seen)
    ]


def planned(arguments: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """Return path, access and role of all that the plan will know of, once the images' headers were followed.

    Relative names start at the working directory, which is QEMU's.
    """
    from confined_qemu.launch import collect, inputs

    found = collect.followed(inputs.from_arguments(QEMU, arguments), confined=False)
    assert found.problems == (), found.problems
    files = [(one.path, one.access.value, OPTIONAL if one.optional else one.role.value) for one in found.resources]
    files += [(one.path, one.access.value, "socket") for one in found.listeners]
    files += [(os.environ["TMPDIR"], "temporary", "")] if found.needs_tmpdir else []
    return tuple((os.path.normpath(os.path.join(os.getcwd(), path)), access, role) for path, access, role in files)


OPTIONAL = "optional"
"""In the place of the role of what QEMU opens if it is there, or does without."""
_COVERS = {
    "ro": "rx",
    "rw": "rw",
    "wo": "w",
    "create": "rwc",
    "dir": "r",
    "connect": ("connect",),
    "listen": ("listen",),
}


def missing(opened: Sequence[Opened], plan: Sequence[tuple[str, str, str]]) -> list[Opened]:
    """Return what QEMU opened outside its own installation and the plan did not say, or not as strongly."""
    return [one for one in opened if not _own(one) and not any(_covers(*known, one) for known in plan)]


def _own(one: Opened) -> bool:
    if one.path == os.getcwd():
        return one.want == "r"  # libpmem walks through sysfs, and remembers where it was
    if one.path.endswith((".in", ".out")) and not os.path.exists(one.path):
        return True  # two pipes are looked for before one
    if _PROTOCOL.match(one.path.removeprefix(os.getcwd())):
        return not os.path.exists(one.path)  # is `nbd:…` a device of the host? (`find_hdev_driver`)
    return one.path.startswith(tuple(OWN)) or one.path in _EXACT


def _covers(path: str, access: str, role: str, one: Opened) -> bool:
    below = one.path.startswith(f"{path}/")
    if access == "temporary":
        return one.path == path or below
    if access == "dir" or (access == "ro" and role == "filesystem"):
        return one.path == path or below
    if role == "memory" and below:
        return True  # a file without a name, in a folder; the plan looks whether it is one
    return one.path == path and one.want in _COVERS[access]


# ---- what was opened

_CALLS = "open,openat,creat,bind,connect,execve,inotify_add_watch"
_CALL = re.compile(rf"(\d+) +({_CALLS.replace(',', '|')})\((.*)")
_PROTOCOL = re.compile(r"/[a-z_+]+:")
_AT = re.compile(r'(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>, "((?:\\x[0-9a-f]{2})*)", ([A-Z_|]+)')
_SUN = re.compile(r'sa_family=AF_UNIX, sun_path="((?:\\x[0-9a-f]{2})+)"')
_FIRST = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def traced(place: Place, words: Sequence[str]) -> Done:
    """Run QEMU under strace and return how it ended, and what it opened, each path once."""
    log = os.path.join(place.folder, "trace")
    strace = ("strace", "-f", "--seccomp-bpf", "-xx", "-y", "-o", log, "-e", f"trace={_CALLS}")
    lived, text = started(place, (*strace, QEMU, *words))
    with open(log, encoding="ascii") as file:
        return Done(lived, text, tuple(dict.fromkeys(_openings(file.read(), place.folder))))


def started(place: Place, command: Sequence[str]) -> tuple[bool, str]:
    """Run QEMU in its place with a monitor's commands on standard input; tell whether it lived, and what it printed."""
    done = subprocess.run(
        ["sh", "-c", 'exec 9</dev/null; exec "$@"', "sh", *command],
        input=_QUIT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        cwd=place.folder,
        timeout=_PATIENCE,
        env={"PATH": os.environ["PATH"], "TMPDIR": place.temporary, "HOME": place.folder, "LANG": "C"},
    )
    # without a monitor here it answers elsewhere, and strace comes back when the last of its QEMUs has ended
    answered = done.stdout.count(b'{"return"') == 2 or not {*_MONITOR} <= {*command}
    return done.returncode == 0 and answered, done.stdout.decode(errors="replace")


def _openings(text: str, folder: str) -> Iterator[Opened]:
    foreign: set[str] = set()
    started = False
    for pid, call, rest in (match.groups() for line in text.splitlines() if (match := _CALL.match(line))):
        if pid in foreign:
            continue
        if call == "execve":
            if started:
                foreign.add(pid)
                yield _opened(folder, _FIRST, rest, "x")
            started = True
        elif call in {"bind", "connect"}:
            if _SUN.search(rest):
                yield _opened(folder, _SUN, rest, "listen" if call == "bind" else "connect")
        elif call == "inotify_add_watch":
            yield _opened(folder, _FIRST, rest, "r")
        else:
            found = _AT.match(rest)
            assert found is not None, rest
            start, name, flags = _text(found[1]), _text(found[2]), found[3].split("|")
            want = "c" if "O_CREAT" in flags else "r" if "O_RDONLY" in flags else "w"
            yield Opened(os.path.normpath(os.path.join(start, name)), want)


def _opened(folder: str, pattern: re.Pattern[str], rest: str, want: str) -> Opened:
    found = pattern.search(rest)
    assert found is not None, rest
    return Opened(os.path.normpath(os.path.join(folder, _text(found[1]))), want)


def _text(escaped: str) -> str:
    return os.fsdecode(bytes.fromhex(escaped.replace("\\x", "")))
