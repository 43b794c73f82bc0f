"""Power cuts: what file systems have on their disks at an instant is copied, mounted elsewhere, and recovered from.

The disks are files behind loop devices. A copy holds what the file system has handed to its disk; what it still keeps
in memory is lost, as in a power cut. A victim is killed at a call, or ends well, and the copy is made at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from integration.campaigns import syscalls
from integration.campaigns.world import ROOT, World

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f"), "btrfs": ("mkfs.btrfs", "-q", "-f")}
_SIZE = 320 << 20
"""Bytes, sparse: xfs takes no less than 300 MiB."""


_SYNC = "                filesystems.syncfs(descriptor)\n"
"""The line of labels/find.py that puts labels on disk before a journal goes."""


def run(kind: str, count: int, *, synced: bool = True) -> Iterator[str]:
    """Cut the power `count` times, with one file system for images and journals and with two; yield figures.

    Without `synced` a copy of the package is tried that puts no label on disk before its journal goes.

    Raises:
        Loss: a label was lost.
        CalledProcessError: the kernel or a program of the file system is missing.
    """
    with tempfile.TemporaryDirectory() as place:
        fresh = os.path.join(place, "fresh")
        _make(fresh)
        subprocess.run([*KINDS[kind], fresh], check=True, capture_output=True)
        checkout = ROOT if synced else _unsynced(place)
        for disks in (1, 2):
            cuts = _cuts(place, count // 2)
            for verb, injection in cuts:
                _one(place, kind, (fresh, checkout), (disks, verb, injection))
            yield f"{kind}, {disks} file system{'s' * (disks > 1)}: {len(cuts)} power cuts: 0 lost"


def _unsynced(place: str) -> str:
    """Return a checkout of the package without that line."""
    copy = os.path.join(place, "unsynced")
    shutil.copytree(os.path.join(ROOT, "confined_qemu"), os.path.join(copy, "confined_qemu"))
    path = os.path.join(copy, "confined_qemu/labels/find.py")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text.count(_SYNC) != 1:
        raise ValueError(f"{path} has no line of its own that syncs")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(_SYNC, _SYNC.replace(_SYNC.strip(), "pass")))
    return copy


def _make(path: str) -> None:
    with open(path, "wb") as file:
        file.truncate(_SIZE)


def _cuts(place: str, count: int) -> list[tuple[str, str | None]]:
    """Return where to cut: after each victim's end, and spread over the calls of both."""
    found: list[tuple[str, str | None]] = [("give", None), ("recover", None)]
    for verb in ("give", "recover"):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            world = World(os.path.join(folder, "images"), os.path.join(folder, "state"))
            world.prepare()
            calls = _calls(world, verb, os.path.join(folder, "log"))
        step = max(1, len(calls) // max(1, count // 2 - 1))
        found += [(verb, f"inject={name}:signal=KILL:when={number}") for name, number in calls[::step]]
    return found[:count]


def _calls(world: World, verb: str, log: str) -> list[tuple[str, int]]:
    """Return each call of a victim's work."""
    if verb == "recover":
        world.run("give")
    world.run(verb, "strace", "-o", log)
    world.check(f"{verb}, nothing injected")
    return syscalls.counted(log)


def _one(place: str, kind: str, given: tuple[str, str], cut: tuple[int, str, str | None]) -> None:
    fresh, checkout = given
    count, verb, injection = cut
    disks = [os.path.join(place, f"disk{number}") for number in range(count)]
    for disk in disks:
        _copy(fresh, disk)
    with _mounted(place, kind, disks, checkout) as world:
        world.prepare()
        if verb == "recover":
            world.run("give")
        os.sync()
        world.run(verb, *(("strace", "-o", os.devnull, "-e", injection) if injection else ()))
        cut_off = [f"{disk}.cut" for disk in disks]
        for disk, copy in zip(disks, cut_off, strict=True):
            _copy(disk, copy)
    with _mounted(place, kind, cut_off, checkout) as world:
        world.check(f"{kind}, {count} file systems, {verb}, {injection or 'after its end'}")
    for path in (*disks, *cut_off):
        os.unlink(path)


def _copy(source: str, target: str) -> None:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


@contextmanager
def _mounted(place: str, kind: str, disks: list[str], checkout: str) -> Iterator[World]:
    """Mount the disks at the same two places each time: the journal names paths."""
    points = [os.path.join(place, name) for name in ("images", "state")][: len(disks)]
    mounted = []
    try:
        for point, disk in zip(points, disks, strict=True):
            os.makedirs(point, exist_ok=True)
            options = "loop,nouuid" if kind == "xfs" else "loop"  # the disks are copies of one
            subprocess.run(["mount", "-t", kind, "-o", options, disk, point], check=True)
            mounted.append(point)
        yield World(os.path.join(points[0], "images"), os.path.join(points[-1], "state"), checkout=checkout)
    finally:
        for point in reversed(mounted):
            subprocess.run(["umount", point], check=True)
    for point in points:
        shutil.rmtree(point)
