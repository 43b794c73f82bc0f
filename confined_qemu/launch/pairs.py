"""The pair registry: a category pair is taken while a process holds its byte locked.

A dynamic VM locks the byte of its pair for itself; a static VM those of all pairs that could meet its level, shared.
The bytes are spread over several files: the kernel goes through all locks of a file one by one (fs/locks.c,
`posix_lock_inode`), for each that is asked for.

Open-file-description locks (fcntl(2), F_OFD_SETLK) pass to the watcher with the descriptor and end with it, so
there is nothing to go stale. Pairs of processes that never heard of this file (libvirt's VMs, containers) are
seen by their contexts and left out.
"""

from __future__ import annotations

import os

from confined_qemu.host import locks
from confined_qemu.labels import statefolders
from confined_qemu.model import paths
from confined_qemu.model.errors import HostError, JournalError, printable, why
from confined_qemu.model.lean import TYPE_CHECKING, Enum
from confined_qemu.model.mcs import MAX_CATEGORY, Pair, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_ROW = MAX_CATEGORY + 1
_BYTES = _ROW * _ROW // paths.PAIR_FILES
"""Of one file: whole rows, so that no range of bytes lies in two files."""
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_NOT_OPEN = -1
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


def open_registry() -> Registry:
    """Open this host's registry.

    Raises:
        JournalError: it cannot be opened.
    """
    return Registry(os.path.join(statefolders.state_folder(), paths.PAIRS))


class Registry:
    """The registry's files, opened when one is asked for; their descriptors are what holds the locks.

    Where `policy install` was last run by a version that knew one file only, that one stands for all.
    """

    def __init__(self, path: str) -> None:
        """Open the registry, made when it is missing.

        Raises:
            JournalError: it cannot be opened.
        """
        self.path = path
        self._files = [_NOT_OPEN] * paths.PAIR_FILES
        try:
            self._files[0] = os.open(path, _FLAGS | os.O_CREAT, 0o666)
        except OSError as error:
            raise JournalError(f"the pair registry cannot be opened: {why(error)}", where=path) from error

    def file(self, byte: int) -> int:
        """Return the descriptor of the file that has this byte."""
        number = byte // _BYTES
        if self._files[number] == _NOT_OPEN:
            self._files[number] = self._opened(number)
        return self._files[number]

    def _opened(self, number: int) -> int:
        first = self._files[0]
        try:
            found = os.open(paths.pair_file(self.path, number), _FLAGS)
        except OSError:
            return first
        if os.fstat(found).st_uid != os.fstat(first).st_uid:
            os.close(found)  # made by somebody else, who could replace it
            return first
        return found

    @property
    def descriptors(self) -> frozenset[int]:
        """What is open of it, and so must stay open as long as the pair is to be held."""
        return frozenset(self._files) - {_NOT_OPEN}

    def close(self) -> None:
        """Close it; without copies in other processes the pair is free."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self._files = [_NOT_OPEN] * paths.PAIR_FILES


def reserve(
    registry: Registry,
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


def _none_free(registry: Registry, window: Window) -> HostError:
    found = (owner for descriptor in registry.descriptors for owner in locks.owners(descriptor))
    length, pid, name = max(found, default=(0, 0, ""))
    if length > _ROW:  # no launch locks as much in one piece: see ranges()
        return HostError(
            f"no category pair is free: pid {pid} ({printable(name)}) holds {_amount(length)} of them",
            where=registry.path,
            hint=f"see what it is (ps -f -p {pid}), and end it",
        )
    if window.size > _DRAWS:
        what = f"each of {_DRAWS:,} category pairs of this window that were tried is in use"
    else:
        what = f"all {window.size} category pairs of this window are in use"
    return HostError(what, hint="stop a VM (confined-qemu ps), or widen the caller's range")


def _amount(length: int) -> str:
    return "all" if length >= byte_of(Pair(MAX_CATEGORY - 1, MAX_CATEGORY)) else f"{length:,}"


def reserve_level(registry: Registry, categories: frozenset[int]) -> bool:
    """Keep every pair that could meet these categories from dynamic VMs; other static VMs may do the same.

    Returns False, and may hold a part, when a dynamic VM has one of them.

    Raises:
        HostError: the registry cannot be locked.
    """
    return all(_lock(registry, locks.SHARED, start, length) for start, length in ranges(categories))


def use_of(registry: Registry, categories: frozenset[int]) -> PairUse:
    """Return who else holds a pair that could meet these categories.

    Raises:
        HostError: the registry cannot be asked.
    """
    found = PairUse.FREE
    try:
        for start, length in ranges(categories):
            if locks.obstacle(registry.file(start), locks.SHARED, start, length) is not None:
                return PairUse.DYNAMIC
            if locks.obstacle(registry.file(start), locks.EXCLUSIVE, start, length) is not None:
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


def _unlock(registry: Registry, start: int) -> None:
    try:
        locks.give_up(registry.file(start), start)
    except OSError as error:
        raise HostError(f"the pair registry cannot be unlocked: {why(error)}") from error


def _lock(registry: Registry, kind: int, start: int, length: int) -> bool:
    try:
        return locks.take(registry.file(start), kind, start, length)
    except OSError as error:
        raise HostError(f"the pair registry cannot be locked: {why(error)}") from error
