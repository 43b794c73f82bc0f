"""The pair registry: a category pair is taken while a process holds its byte of one file locked.

A dynamic VM locks the byte of its pair for itself; a static VM those of all pairs that could meet its level, shared.

Open-file-description locks (fcntl(2), F_OFD_SETLK) pass to the watcher with the descriptor and end with it, so
there is nothing to go stale. Pairs of processes that never heard of this file (libvirt's VMs, containers) are
seen by their contexts and left out.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING

from confined_qemu.host import locks
from confined_qemu.model.errors import HostError, JournalError, why
from confined_qemu.model.mcs import MAX_CATEGORY, Pair, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ROW = MAX_CATEGORY + 1
_MOST_RANGES = 4096
"""Locks for one level; the kernel goes through all of a file's one after another."""


class PairUse(Enum):
    """Who holds pairs of a level."""

    FREE = "free"
    STATIC = "static"
    """VMs whose labels were chosen by hand; they may share them."""
    DYNAMIC = "dynamic"
    """A VM that was given the pair as its own."""


def open_registry(path: str) -> int:
    """Open the registry, made when it is missing; the descriptor is what holds the locks.

    Raises:
        JournalError: it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise JournalError(f"the pair registry cannot be opened: {why(error)}", where=path) from error


def reserve(registry: int, window: Window, taken: Sequence[frozenset[int]], choose: Callable[[int], int]) -> Pair:
    """Lock and return a pair of `window` that nobody holds.

    `taken` are the category sets of live processes and of the images at hand: a pair inside one of them would
    be readable by its holder, and one that contains a single category reads its holder's. `choose(n)` returns a
    number below n, where the search starts. Every pair is tried once.

    Raises:
        HostError: every pair of the window is taken, or the registry cannot be locked.
    """
    start = choose(window.size)
    for offset in range(window.size):
        pair = window.pair((start + offset) % window.size)
        categories = frozenset((pair.first, pair.second))
        if not any(meet(categories, other) for other in taken) and _lock(registry, locks.EXCLUSIVE, byte_of(pair), 1):
            return pair
    raise HostError(
        f"all {window.size} category pairs of this window are in use",
        hint="stop a VM (confined-qemu ps), or widen the caller's range",
    )


def reserve_level(registry: int, categories: frozenset[int]) -> bool:
    """Keep every pair that could meet these categories from dynamic VMs; other static VMs may do the same.

    Returns False, and may hold a part, when a dynamic VM has one of them.

    Raises:
        HostError: the registry cannot be locked.
    """
    return all(_lock(registry, locks.SHARED, start, length) for start, length in ranges(categories))


def use_of(registry: int, categories: frozenset[int]) -> PairUse:
    """Return who else holds a pair that could meet these categories.

    Raises:
        HostError: the registry cannot be asked.
    """
    found = PairUse.FREE
    try:
        for start, length in ranges(categories):
            if locks.obstacle(registry, locks.SHARED, start, length) is not None:
                return PairUse.DYNAMIC
            if locks.obstacle(registry, locks.EXCLUSIVE, start, length) is not None:
                found = PairUse.STATIC
    except OSError as error:
        raise HostError(f"the pair registry cannot be read: {why(error)}") from error
    return found


def meet(first: frozenset[int], second: frozenset[int]) -> bool:
    """Tell whether a holder of one set may use what the other labels. An empty set meets nothing: it is public."""
    return bool(first) and bool(second) and (first <= second or second <= first)


def byte_of(pair: Pair) -> int:
    """Return the offset of the byte that stands for `pair`."""
    return pair.first * _ROW + pair.second


def ranges(categories: frozenset[int]) -> list[tuple[int, int]]:
    """Return the bytes, as (start, length), of all pairs that meet a level: inside it, or around a single category.

    Of a level in very many pieces each row is one range: more pairs than meet it, never fewer.
    """
    if len(categories) == 1:
        (only,) = categories
        rows = [(low, only, only) for low in range(only)]
        if only < MAX_CATEGORY:
            rows.append((only, only + 1, MAX_CATEGORY))
    else:
        rows = [(low, first, last) for low in sorted(categories) for first, last in _runs(categories, low)]
    if len(rows) > _MOST_RANGES:
        highest = max(categories)
        rows = [(low, low + 1, highest) for low in sorted(categories) if low < highest]
    return [(low * _ROW + first, last - first + 1) for low, first, last in rows]


def _runs(categories: frozenset[int], above: int) -> Iterator[tuple[int, int]]:
    """Yield the unbroken runs of the categories above one, as (first, last)."""
    first = last = None
    for category in sorted(category for category in categories if category > above):
        if first is None or last is None:
            first = last = category
        elif category == last + 1:
            last = category
        else:
            yield first, last
            first = last = category
    if first is not None and last is not None:
        yield first, last


def _lock(registry: int, kind: int, start: int, length: int) -> bool:
    try:
        return locks.take(registry, kind, start, length)
    except OSError as error:
        raise HostError(f"the pair registry cannot be locked: {why(error)}") from error
