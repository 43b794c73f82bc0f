"""Bare QEMU and the drop-in, side by side: how a test starts each the same way, and what it sees of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from integration.suite import harness, tinyguest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FOLDER = os.path.join(harness.IMAGES, "dropin")
"""Where both sides work, one after the other: the same folder, so the same command lines."""
NAMES = "/usr/local/lib/confined-test"
"""A folder for PATH where QEMU's name is ours."""
DROP_IN = f"{NAMES}/qemu-system-x86_64"
_IDLE = ("-accel", "kvm", "-m", "32M", "-nodefaults", "-display", "none")
_IDS = re.compile(r"(?<=[:\[(])\d+")
_LIMIT = re.compile(r"(Max [a-z ]+?) {2,}(\S+) +(\S+)")

Seen = dict[str, object]
"""What was seen of one side, by what it is of; normalised, so that two sides that behave alike are equal."""


@dataclass(frozen=True)
class Side:
    """What is started: QEMU by its own path, or the launch script under QEMU's name."""

    program: str
    confined: bool

    def prepare(self) -> None:
        """Empty the folder, and put an image of no content in it."""
        shutil.rmtree(FOLDER, ignore_errors=True)
        os.makedirs(FOLDER)
        self.make("a.img", bytes(harness.IMAGE_SIZE))
        subprocess.run(["restorecon", "-RF", FOLDER], check=True)

    def make(self, name: str, content: bytes) -> str:
        """Write a file in the folder."""
        path = at(name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def start(self, *arguments: str, **options: Any) -> harness.Process:
        """Start it; `options` are Popen's."""
        return harness.Process([self.program, *arguments], cwd=options.pop("cwd", FOLDER), **options)

    def boot(self, *arguments: str, **options: Any) -> harness.Process:
        """Start it with the tiny guest and return once that has printed its marker; the disk is a.img."""
        process = self.start(*guest(*arguments), **options)
        process.read_until(tinyguest.MARKER)
        self.check(process.pid)
        return process

    def idle(self, *arguments: str, **options: Any) -> harness.Process:
        """Start it with stopped CPUs and QMP on its standard streams, and return once it greets."""
        process = self.start(*idle(*arguments), **options)
        process.read_until(b'"QMP"')
        self.check(process.pid)
        return process

    def check(self, pid: int) -> None:
        """Make sure that the drop-in's QEMU is confined, at a pair of its own, and that bare QEMU is not."""
        context = harness.context(pid)
        if not self.confined:
            assert ":unconfined_t:" in context, context
            return
        assert context == f"system_u:system_r:svirt_t:{harness.level(context)}"
        assert harness.processes_as(context) == [pid]

    def run(self, *arguments: str, **options: Any) -> Seen:
        """Run it to its end; everything that it said and returned."""
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(
            [self.program, *arguments],
            capture_output="stdout" not in options,
            check=False,
            timeout=harness.PATIENCE,
            cwd=FOLDER,
            **options,
        )
        return {"exit": done.returncode, "stdout": self.plain(done.stdout), "stderr": self.plain(done.stderr)}

    def plain(self, text: bytes | None) -> str:
        """Return what was printed without the program's path and process ids."""
        words = (text or b"").decode(errors="surrogateescape").replace(self.program, "QEMU")
        return re.sub(r"(?<=pid )\d+", "N", re.sub(r'"(micro)?seconds": \d+', '"seconds": T', words))

    def after(self) -> Seen:
        """Return the folder's files and their labels, once nothing is left to put back."""
        if self.confined:
            harness.settle()
        names = sorted(os.path.join(at, name) for at, _, found in os.walk(FOLDER) for name in found)
        return {os.path.relpath(name, FOLDER): harness.short_label(name) for name in names}


BARE = Side(harness.QEMU, confined=False)
CONFINED = Side(DROP_IN, confined=True)


def at(name: str) -> str:
    """Return the path of a file of the folder."""
    return os.path.join(FOLDER, name)


def guest(*arguments: str) -> list[str]:
    """Return a command line that boots the tiny guest, with its serial port on standard output."""
    return harness.raw_arguments(at("a.img"), *arguments)


def raw(*arguments: str) -> list[str]:
    """Return the tiny guest's command line without disk and serial port."""
    return [*_IDLE, *tinyguest.ARGUMENTS, *arguments]


def idle(*arguments: str) -> list[str]:
    """Return a command line of a VM that does nothing but answer QMP on its standard streams."""
    return [*_IDLE, "-S", *arguments, "-qmp", "stdio"]


def ended(process: harness.Process) -> Seen:
    """Wait for its end; exit status, what it used, and all that it said on standard error."""
    assert process.popen.stderr is not None
    said = process.popen.stderr.read()
    return {"exit": process.wait(), "stderr": BARE.plain(said)}


# ---- what the kernel says of a process


def status(pid: int) -> dict[str, str]:
    """Return `/proc/PID/status` by name."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="surrogateescape") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def words(pid: int, name: str) -> list[str]:
    """Return a file of `/proc/PID` whose entries end in NUL bytes."""
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]


def text(pid: int, name: str) -> str:
    """Return a file of `/proc/PID` as text."""
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="surrogateescape") as file:
        return file.read().strip()


def stat(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` that follow the name: state, parent, group, session, terminal."""
    return text(pid, "stat").rpartition(") ")[2].split()


def limits(pid: int) -> Mapping[str, tuple[str, str]]:
    """Return the soft and hard limits by name."""
    return {found[1]: (found[2], found[3]) for found in _LIMIT.finditer(text(pid, "limits"))}


def descriptors(pid: int, *handed: int) -> Mapping[int | str, object]:
    """Return what the standard streams and the descriptors `handed` over are, by number, and all others of a name.

    Nameless are QEMU's own event descriptors; which those are depends on whether the policy lets it have io_uring. The
    numbers of pipes and sockets are left out.
    """
    found: dict[int, str] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        found[int(name)] = _IDS.sub("N", os.readlink(f"/proc/{pid}/fd/{name}"))
    found = {number: name for number, name in found.items() if not name.startswith("anon_inode:")}
    given = {number: found.pop(number, None) for number in (0, 1, 2, *handed)}
    return given | {"others": sorted(found.values())}


def threads(pid: int) -> list[str]:
    """Return the names of its threads."""
    return sorted(text(pid, f"task/{thread}/comm") for thread in os.listdir(f"/proc/{pid}/task"))


def children(pid: int) -> int:
    """Return how many children it has."""
    return sum(len(text(pid, f"task/{thread}/children").split()) for thread in os.listdir(f"/proc/{pid}/task"))


def state(pid: int) -> str:
    """Return the letter of its state."""
    return stat(pid)[0]


def both(probe: Callable[[Side], Seen]) -> tuple[Seen, Seen]:
    """Run a probe with bare QEMU, then with the drop-in; with each the labels that its files end with."""
    found = []
    for side in (BARE, CONFINED):
        side.prepare()
        seen = dict(probe(side))
        seen["labels afterwards"] = side.after()
        found.append(seen)
    return found[0], found[1]
