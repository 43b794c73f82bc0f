"""Every system call: the victim is killed at it, or it fails (EIO, ENOSPC); after `recover` all is as it was."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from typing import TYPE_CHECKING

from integration.campaigns.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

_CALL = re.compile(r"^([a-z_0-9]+)\(")
FAILING = frozenset(
    """openat read write fsync rename renameat unlink unlinkat mkdir setxattr getxattr syncfs flock fcntl
    getdents64 close fstat newfstatat ioctl""".split()  # noqa: SIM905 - a table
)
"""Calls that a disk can let fail."""
KILL = "signal=KILL"


def run(every: int) -> Iterator[str]:
    """Try every `every`-th call of both victims with each fault; yield figures.

    Raises:
        Loss: a label was lost.
    """
    with tempfile.TemporaryDirectory() as place:
        world = World(os.path.join(place, "images"), os.path.join(place, "state"))
        world.prepare()
        for verb in ("give", "recover"):
            found = calls(world, verb, os.path.join(place, "log"))
            for fault in (KILL, "error=EIO", "error=ENOSPC"):
                tried = 0
                for name, number in found[::every]:
                    if fault != KILL and name not in FAILING:
                        continue
                    _one(world, verb, f"inject={name}:{fault}:when={number}")
                    tried += 1
                yield f"{verb}: {fault} at {tried} of {len(found)} calls: 0 lost"


def calls(world: World, verb: str, log: str) -> list[tuple[str, int]]:
    """Return each call of a victim's work: its name, and which of this name it is."""
    _before(world, verb)
    world.run(verb, "strace", "-o", log)
    counted: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    working = False
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _CALL.match(line)
            if match is None:
                continue
            counted[match[1]] += 1
            working = working or match[1] == "getpgid"
            if working:
                found.append((match[1], counted[match[1]]))
    world.check(f"{verb}, nothing injected")
    return found


def _one(world: World, verb: str, injection: str) -> None:
    _before(world, verb)
    world.run(verb, "strace", "-o", os.devnull, "-e", injection)
    world.check(f"{verb}, {injection}")


def _before(world: World, verb: str) -> None:
    if verb == "recover":
        world.run("give")
