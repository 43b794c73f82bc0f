"""Many at once: pairs drawn by many processes, and one crash put back by many; and many one after the other."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

from confined_qemu.host import processes
from confined_qemu.labels import journal, label, restore, statefolders
from confined_qemu.launch import pairs
from confined_qemu.model import paths
from confined_qemu.model.mcs import MAX_CATEGORY, Window
from confined_qemu.model.record import Record
from integration.campaigns import victim
from integration.campaigns.world import BEFORE, Loss, World

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVERY = Window(0, tuple(range(MAX_CATEGORY + 1)))
_PAIR = struct.Struct("=hh")


def draw(count: int, crowd: int) -> Iterator[str]:
    """Draw `count` pairs by `crowd` processes at once; yield figures.

    Raises:
        Loss: a pair was drawn twice, or is held after all have ended.
    """
    with tempfile.TemporaryDirectory() as place:
        registry = os.path.join(place, paths.PAIRS)
        for number in range(paths.PAIR_FILES):
            with open(paths.pair_file(registry, number), "xb"):
                pass
        reading, writing = os.pipe()
        start = time.monotonic()
        children = [_drawing(registry, count // crowd, writing) for _ in range(crowd)]
        os.close(writing)
        found = [_PAIR.unpack(_exactly(reading)) for _ in range(count // crowd * crowd)]
        seconds = time.monotonic() - start
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(reading)
        if len(set(found)) != len(found):
            raise Loss(f"{len(found) - len(set(found))} pairs were drawn twice")
        probe = pairs.Registry(registry)
        if any(pairs.use_of(probe, frozenset(pair)) is not pairs.PairUse.FREE for pair in found):
            raise Loss("a pair is held though everybody has ended")
        probe.close()
    yield f"{len(found)} pairs by {crowd} processes in {seconds:.1f} s: none twice, none left"


def _exactly(descriptor: int) -> bytes:
    data = os.read(descriptor, _PAIR.size)
    if len(data) != _PAIR.size:
        raise Loss("a process that drew pairs has failed")
    return data


def _drawing(registry: str, count: int, report: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        for _ in range(count):
            # each VM has a description of its own
            pair = pairs.reserve(
                pairs.Registry(registry), _EVERY, (), lambda size: int.from_bytes(os.urandom(8), "little") % size
            )
            os.write(report, _PAIR.pack(pair.first, pair.second))
        signal.pause()
    finally:
        os._exit(1)


def race(count: int, crowd: int) -> Iterator[str]:
    """Let `crowd` processes put back one crash at once, `count` times; yield figures.

    Raises:
        Loss: a label was lost.
    """
    with tempfile.TemporaryDirectory() as place:
        world = World(os.path.join(place, "images"), os.path.join(place, "state"))
        world.prepare()
        for _ in range(count):
            world.run("give")
            many = [subprocess.Popen(world.command("recover"), env=world.environment()) for _ in range(crowd)]
            ends = [process.wait() for process in many]
            if any(ends):
                raise Loss("one of many that recover at once has failed")
            world.check("many that recover at once")
    yield f"{count} crashes, each put back by {crowd} at once: 0 lost"


def launch(count: int) -> Iterator[str]:
    """Launch stand-ins for `count` images at once, two for each second image, while `recover` runs; yield figures.

    Raises:
        Loss: a pair or an image was given twice, a VM that runs was put back, or a label was lost.
    """
    with tempfile.TemporaryDirectory() as place:
        world = World(os.path.join(place, "images"), os.path.join(place, "state"), count)
        world.prepare()
        start = time.monotonic()
        wanted = [*range(count), *range(0, count, 2)]
        running = [world.launch(number) for number in wanted]
        recovering = [world.run("recover").returncode for _ in range(3)]
        given = [_said(process) for process in running]
        seconds = time.monotonic() - start
        labels = world.labels()
        for process in running:
            process.kill()
            process.wait()
        got = {number: pair for number, pair in zip(wanted, given, strict=True) if pair}
        had = [pair for pair in given if pair]
        if any(recovering) or len(got) != count or len(had) != count or len(set(had)) != count:
            raise Loss(f"of {count} images {len(had)} were given, {len(set(had))} pairs; recover: {recovering}")
        if any(not labels[number].endswith(f":s0:{pair}") for number, pair in got.items()):
            raise Loss("a VM that runs has lost its label")
        many = [subprocess.Popen(world.command("recover"), env=world.environment()) for _ in range(8)]
        ends = [process.wait() for process in many]
        if any(ends):
            raise Loss("one of many that recover at once has failed")
        world.check("many that ended at once")
    yield f"{len(wanted)} launches at once for {count} images, recover beside them, in {seconds:.1f} s: 0 lost"


def _said(process: subprocess.Popen[bytes]) -> str:
    """Return the pair that a stand-in has; empty where it was refused, as the second for its image is."""
    if process.stdout is None:
        raise Loss("a stand-in without an output")
    with process.stdout:
        return process.stdout.readline().decode().strip()


def soak(count: int) -> Iterator[str]:
    """Journal, label and put back `count` times in one process; yield figures.

    Raises:
        Loss: a label was lost, or descriptors, files or memory grow.
    """
    with tempfile.TemporaryDirectory() as place:
        world = World(os.path.join(place, "images"), os.path.join(place, "state"))
        world.prepare()
        os.environ["XDG_STATE_HOME"] = world.state
        folder = statefolders.user_folder(os.geteuid())
        first = None
        for number in range(count):
            steps = tuple(victim.planned(path) for path in world.paths())
            record = Record("soak", processes.boot_id(), 1, number + 1, "tcg", victim.VM, steps)
            path, held = journal.write(folder, record)
            for step in steps:
                label.apply(step, victim.no_socket)
            done = restore.restore(path)
            os.close(held)
            if done is None or done.failed or world.labels() != [BEFORE] * world.count:
                raise Loss(f"cycle {number}: {done}")
            if number == min(50, count // 2):
                first = _size(folder)
        last = _size(folder)
        if first is None or last[0] > first[0] or last[1] > first[1] or last[2] > first[2] + 2048:
            raise Loss(f"descriptors, files and KiB grew from {first} to {last}")
    yield f"{count} cycles: {last[0]} descriptors, {last[1]} files, {last[2]} KiB; no growth since the 50th"


def _size(folder: str) -> tuple[int, int, int]:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        memory = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    return len(os.listdir("/proc/self/fd")), len(os.listdir(folder)), memory
