"""Category pairs: no two processes hold the same one, and what a dead one held is free."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from confined_qemu.launch import pairs
from confined_qemu.model import paths
from confined_qemu.model.errors import HostError, JournalError
from confined_qemu.model.mcs import MAX_CATEGORY, Pair, Window

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = Window(0, (3, 5, 9, 1023))


def first(_: int) -> int:
    return 0


@pytest.fixture(params=[1, paths.PAIR_FILES], ids=["one file", "all files"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    first = str(tmp_path / "pairs")
    for number in range(1, request.param):
        Path(paths.pair_file(first, number)).touch()
    return first


def test_the_search_starts_where_it_is_told_and_goes_round(registry: str) -> None:
    held = pairs.Registry(registry)
    assert pairs.reserve(held, SMALL, (), lambda size: size - 1) == SMALL.pair(5)
    other = pairs.Registry(registry)
    assert pairs.reserve(other, SMALL, (), lambda size: size - 1) == SMALL.pair(0)
    held.close()
    other.close()


def test_every_pair_is_given_once_and_then_it_is_an_error(registry: str) -> None:
    held = [pairs.Registry(registry) for _ in range(SMALL.size + 1)]
    found = {pairs.reserve(one, SMALL, (), first) for one in held[:-1]}
    assert len(found) == SMALL.size == 6
    with pytest.raises(HostError, match="all 6 category pairs") as raised:
        pairs.reserve(held[-1], SMALL, (), first)
    assert "confined-qemu ps" in (raised.value.hint or "")
    held[2].close()
    assert pairs.reserve(held[-1], SMALL, (), first) == SMALL.pair(2)
    for one in (*held[:2], *held[3:]):
        one.close()


def test_a_copy_of_the_descriptor_holds_the_pair(registry: str) -> None:
    launcher = pairs.Registry(registry)
    assert pairs.reserve(launcher, SMALL, (), first) == SMALL.pair(0)
    watcher = [os.dup(descriptor) for descriptor in launcher.descriptors]
    launcher.close()
    other = pairs.Registry(registry)
    assert pairs.reserve(other, SMALL, (), first) == SMALL.pair(1)
    for descriptor in watcher:
        os.close(descriptor)
    other.close()


def test_what_lies_in_a_live_level_is_skipped(registry: str) -> None:
    held = pairs.Registry(registry)
    taken = [frozenset((3, 5)), frozenset(range(6, 2000)), frozenset((3, 9, 700)), frozenset((5,)), frozenset[int]()]
    assert pairs.reserve(held, SMALL, taken, first) == Pair(3, 1023)
    everything = [frozenset(range(MAX_CATEGORY + 1))]
    with pytest.raises(HostError, match="in use"):
        pairs.reserve(held, SMALL, everything, first)
    held.close()


def test_it_looks_again_once_it_has_the_lock(registry: str) -> None:
    """A launcher that slept knows nothing of a VM that got the pair meanwhile and has lost its watcher."""
    held = pairs.Registry(registry)
    live: list[frozenset[int]] = []

    def look() -> list[frozenset[int]]:
        if not live:
            live.append(frozenset((3, 5)))
        return live

    assert pairs.reserve(held, SMALL, (), first, look) == Pair(3, 9)
    assert pairs.use_of(pairs.Registry(registry), frozenset((3, 5))) is pairs.PairUse.FREE, "it is let go"
    held.close()


EVERY_BYTE = (MAX_CATEGORY + 1) ** 2
EVERY = Window(0, tuple(range(MAX_CATEGORY + 1)))


@pytest.mark.touches_host
def test_who_locks_all_of_it_is_named_after_a_bounded_search(registry: str) -> None:
    tried = 0

    def draw(size: int) -> int:
        nonlocal tried
        tried += 1
        return (tried * 7919) % size

    def lock_all(report: int) -> None:
        held = pairs.Registry(registry)
        for byte in range(0, EVERY_BYTE, EVERY_BYTE // paths.PAIR_FILES):
            request = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(held.file(byte), fcntl.F_OFD_SETLK, request)
        os.write(report, b"r")

    child, reading = in_child(lock_all)
    assert os.read(reading, 1) == b"r"
    mine = pairs.Registry(registry)
    try:
        with pytest.raises(HostError, match=rf"pid {child} \(.+\) holds all of them") as raised:
            pairs.reserve(mine, EVERY, (), draw)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert f"ps -f -p {child}" in (raised.value.hint or "")
    assert tried < 10_000 < EVERY.size
    assert pairs.reserve(mine, EVERY, (), draw) is not None
    mine.close()
    os.close(reading)


@pytest.mark.touches_host
@pytest.mark.parametrize("level", [frozenset(range(1, 6)), frozenset(range(MAX_CATEGORY + 1))])
def test_a_static_vm_that_holds_a_windows_pairs_is_no_stranger(registry: str, level: frozenset[int]) -> None:
    def hold(report: int) -> None:
        assert pairs.reserve_level(pairs.Registry(registry), level)
        os.write(report, b"r")

    child, reading = in_child(hold)
    assert os.read(reading, 1) == b"r"
    try:
        with pytest.raises(HostError, match="all 10 category pairs of this window are in use") as raised:
            pairs.reserve(pairs.Registry(registry), Window(0, (1, 2, 3, 4, 5)), (), first)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert "confined-qemu ps" in (raised.value.hint or "")
    os.close(reading)


def test_each_pair_has_its_byte() -> None:
    categories = (*range(40), *range(MAX_CATEGORY - 40, MAX_CATEGORY + 1))
    every = [Pair(low, high) for low, high in combinations(categories, 2)]
    assert len({pairs.byte_of(pair) for pair in every}) == len(every)


def test_a_registry_that_cannot_be_locked_is_told(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_FLAGS", os.O_RDONLY)
    held = pairs.Registry(registry)
    with pytest.raises(HostError, match="cannot be locked"):
        pairs.reserve(held, SMALL, (), first)
    held.close()


@pytest.mark.touches_host
def test_a_level_holds_all_files_that_it_needs_and_a_pair_one(registry: str) -> None:
    """What is open of it goes to the watcher: a pair must not cost it a descriptor for each file."""
    for level in (frozenset((700,)), frozenset(range(MAX_CATEGORY + 1))):
        held = pairs.Registry(registry)
        assert pairs.reserve_level(held, level)
        assert len(held.descriptors) <= paths.PAIR_FILES
        other = pairs.Registry(registry)
        assert pairs.use_of(other, frozenset((3, 700))) is pairs.PairUse.STATIC
        held.close()
        assert pairs.use_of(other, frozenset((3, 700))) is pairs.PairUse.FREE
        other.close()
    dynamic = pairs.Registry(registry)
    pairs.reserve(dynamic, EVERY, (), lambda size: size - 1)
    assert len(dynamic.descriptors) <= 2
    dynamic.close()


@pytest.mark.touches_host
def test_a_file_that_another_user_made_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "pairs")
    last = paths.pair_file(path, paths.PAIR_FILES - 1)
    held = pairs.Registry(path)
    Path(last).touch()
    theirs = os.stat(last).st_ino
    real = os.fstat

    def stat(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        return os.stat_result((*found[:4], 4711, *found[5:10])) if found.st_ino == theirs else found

    monkeypatch.setattr(os, "fstat", stat)
    pairs.reserve(held, EVERY, (), lambda size: size - 1)
    assert [real(descriptor).st_ino for descriptor in held.descriptors] == [os.stat(path).st_ino]
    held.close()


def test_a_link_is_no_registry(tmp_path: Path, registry: str) -> None:
    os.symlink(tmp_path / "elsewhere", registry)
    with pytest.raises(JournalError, match="registry cannot be opened"):
        pairs.Registry(registry)
    assert not (tmp_path / "elsewhere").exists()


def test_the_descriptor_does_not_reach_qemu(registry: str) -> None:
    held = pairs.Registry(registry)
    pairs.reserve(held, SMALL, (), first)
    assert held.descriptors
    assert not any(os.get_inheritable(descriptor) for descriptor in held.descriptors)
    held.close()


# ---- between processes


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work(fd)` in a child that then waits to be killed; return its pid and what it writes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            work(writing)
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    return child, reading


@pytest.mark.touches_host
def test_processes_never_hold_the_same_pair_and_death_frees_it(registry: str) -> None:
    def reserve(report: int) -> None:
        pair = pairs.reserve(pairs.Registry(registry), SMALL, (), first)
        os.write(report, struct.pack("hh", pair.first, pair.second))

    children = [in_child(reserve) for _ in range(SMALL.size)]
    found = [Pair(*struct.unpack("hh", os.read(reading, 4))) for _, reading in children]
    assert len(set(found)) == SMALL.size
    mine = pairs.Registry(registry)
    with pytest.raises(HostError, match="in use"):
        pairs.reserve(mine, SMALL, (), first)
    os.kill(children[3][0], signal.SIGKILL)
    os.waitpid(children[3][0], 0)
    assert pairs.reserve(mine, SMALL, (), first) == found[3]
    for number, (pid, reading) in enumerate(children):
        os.close(reading)
        if number != 3:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    mine.close()


@pytest.mark.touches_host
def test_a_program_that_inherits_the_descriptor_holds_the_pair(registry: str) -> None:
    """The watcher's case: the launcher locks, another process keeps the descriptor, the launcher closes it."""
    held = pairs.Registry(registry)
    pair = pairs.reserve(held, SMALL, (), first)
    child, reading = in_child(os.close)
    assert os.read(reading, 1) == b""
    held.close()
    probe = pairs.Registry(registry)
    byte = pairs.byte_of(pair)
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind = struct.unpack("hhqqi4x", fcntl.fcntl(probe.file(byte), fcntl.F_OFD_GETLK, request))[0]
    assert kind == fcntl.F_WRLCK
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kind = struct.unpack("hhqqi4x", fcntl.fcntl(probe.file(byte), fcntl.F_OFD_GETLK, request))[0]
    assert kind == fcntl.F_UNLCK
    probe.close()
    os.close(reading)


# ---- static levels


LEVELS = st.frozensets(st.integers(0, 30) | st.integers(MAX_CATEGORY - 5, MAX_CATEGORY), max_size=8)


@given(LEVELS, LEVELS.filter(lambda found: len(found) == 2))
@example(frozenset((5,)), frozenset((5, 6)))
@example(frozenset((5,)), frozenset((4, 5)))
def test_the_ranges_of_a_level_are_the_pairs_that_meet_it(level: frozenset[int], pair: frozenset[int]) -> None:
    byte = pairs.byte_of(Pair(*sorted(pair)))
    inside = any(start <= byte < start + length for start, length in pairs.ranges(level))
    assert inside is pairs.meet(level, pair)


@given(st.frozensets(st.integers(0, MAX_CATEGORY)), st.integers(0, MAX_CATEGORY - 1))
def test_a_level_in_pieces_takes_few_locks_and_no_pair_too_few(level: frozenset[int], low: int) -> None:
    assert len(pairs.ranges(level)) <= pairs._MOST_RANGES
    if {low, low + 1} <= level:
        byte = pairs.byte_of(Pair(low, low + 1))
        assert any(start <= byte < start + length for start, length in pairs.ranges(level))


def test_a_level_in_very_many_pieces_takes_in_every_pair_that_lies_in_it() -> None:
    level = frozenset(range(0, MAX_CATEGORY + 1, 2))
    found = pairs.ranges(level)
    assert len(found) <= pairs._MOST_RANGES
    held = {byte for start, length in found for byte in range(start, start + length)}
    assert {pairs.byte_of(Pair(*pair)) for pair in combinations(sorted(level), 2)} <= held
    assert held.isdisjoint(pairs.byte_of(Pair(low, high)) for low, high in ((1, 2), (1, 3), (801, MAX_CATEGORY)))


def test_static_vms_share_a_level_and_no_dynamic_one_gets_into_it(registry: str) -> None:
    one, two, dynamic, other = (pairs.Registry(registry) for _ in range(4))
    level = frozenset((3, 5, 9))
    assert pairs.use_of(one, level) is pairs.PairUse.FREE
    assert pairs.reserve_level(one, level)
    assert pairs.reserve_level(two, level)
    assert pairs.use_of(two, level) is pairs.PairUse.STATIC
    assert pairs.reserve(dynamic, SMALL, (), first) == Pair(3, 1023)
    assert pairs.use_of(two, frozenset((3, 1023))) is pairs.PairUse.DYNAMIC
    assert not pairs.reserve_level(two, frozenset((1023,)))
    one.close()
    two.close()
    assert pairs.reserve(other, SMALL, (), first) == Pair(3, 5)
    for number in (dynamic, other):
        number.close()


def test_a_public_level_keeps_nothing_from_anybody(registry: str) -> None:
    held = pairs.Registry(registry)
    assert pairs.ranges(frozenset()) == []
    assert pairs.reserve_level(held, frozenset())
    held.close()
