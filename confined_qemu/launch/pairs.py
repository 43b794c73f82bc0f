"""The pair registry: a category pair is taken while a process holds its byte of one file locked.

A dynamic VM locks the byte of its pair for itself; a static VM those of all pairs that could meet its level, shared.

Open-file-description locks (fcntl(2), F_OFD_SETLK) pass to the watcher with the descriptor and end with it, so
there is nothing to go stale. Pairs of processes that never heard of this file (libvirt's VMs, containers) are
seen by their contexts and left out.
"""

from __future__ import annotations

import os

from confined_qemu.host import locks
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.enums import Enum
from confined_qemu.model.errors import HostError, JournalError, printable, why
from confined_qemu.model.mcs import MAX_CATEGORY, Pair, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ROW = MAX_CATEGORY + 1
_DRAWS = 4096
"""Pairs that are tried. With nine of ten pairs in use a free one is missed less often than once in 10^187 launches."""
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


def reserve(
    registry: int,
    window: Window,
    taken: Sequence[frozenset[int]],
    choose: Callable[[int], int],
    look: Callable[[], Sequence[frozenset[int]]] = tuple,
) -> Pair:
    """Lock and return a pair of `window` that nobody holds.

    `taken` are the category sets of the images at hand and of VMs that have still to be put back, `look` returns those
    of live processes: a pair inside one of them would be readable by its holder, and one that contains a single
    category reads its holder's. `choose(n)` returns a number below n: which pair is tried. `look` is asked once the
    pair is locked: a VM that got it earlier and has lost its watcher is seen by then, however long this process slept.

    Raises:
        HostError: no pair is free, or the registry cannot be locked; the line names who holds it.
    """
    known = list(taken)
    for pair in _drawn(window, choose):
        if _meets_any(pair, known) or not _lock(registry, locks.EXCLUSIVE, byte_of(pair), 1):
            continue
        known = [*taken, *look()]
        if not _meets_any(pair, known):
            return pair
        _unlock(registry, byte_of(pair))
    raise _none_free(registry, window)


def _drawn(window: Window, choose: Callable[[int], int]) -> Iterator[Pair]:
    """Yield the pairs to try: of a small window each once, of a large one as many as chance needs."""
    if window.size > _DRAWS:
        yield from (window.pair(choose(window.size)) for _ in range(_DRAWS))
        return
    start = choose(window.size)
    yield from (window.pair((start + offset) % window.size) for offset in range(window.size))


def _meets_any(pair: Pair, taken: Sequence[frozenset[int]]) -> bool:
    categories = frozenset((pair.first, pair.second))
    return any(meet(categories, other) for other in taken)


def _none_free(registry: int, window: Window) -> HostError:
    length, pid, name = max(locks.owners(registry), default=(0, 0, ""))
    if length > _ROW:  # no launch locks as much in one piece: see ranges()
        return HostError(
            f"no category pair is free: pid {pid} ({printable(name)}) holds {_amount(length)} of them",
            where=os.readlink(f"/proc/self/fd/{registry}"),
            hint=f"see what it is (ps -f -p {pid}), and end it",
        )
    if window.size > _DRAWS:
        what = f"each of {_DRAWS:,} category pairs of this window that were tried is in use"
    else:
        what = f"all {window.size} category pairs of this window are in use"
    return HostError(what, hint="stop a VM (confined-qemu ps), or widen the caller's range")


def _amount(length: int) -> str:
    return "all" if length >= byte_of(Pair(MAX_CATEGORY - 1, MAX_CATEGORY)) else f"{length:,}"


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
    """Tell whether a VM with one of these sets of categories may use files labelled with the other.

    An empty set labels what is public, and meets none.
    """
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


def _unlock(registry: int, start: int) -> None:
    try:
        locks.give_up(registry, start)
    except OSError as error:
        raise HostError(f"the pair registry cannot be unlocked: {why(error)}") from error


def _lock(registry: int, kind: int, start: int, length: int) -> bool:
    try:
        return locks.take(registry, kind, start, length)
    except OSError as error:
        raise HostError(f"the pair registry cannot be locked: {why(error)}") from error
