"""The pair registry: a category pair is taken while a process holds its byte of one file locked.

Open-file-description locks (fcntl(2), F_OFD_SETLK) pass to the watcher with the descriptor and end with it, so
there is nothing to go stale. Pairs of processes that never heard of this file (libvirt's VMs, containers) are
seen by their contexts and left out.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from confined_qemu.errors import HostError, JournalError, why
from confined_qemu.mcs import MAX_CATEGORY, Pair, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FLOCK = "hhqqi4x"
"""`struct flock` of a 64-bit Linux: type, whence, start, length, pid."""


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
    be readable by its holder. `choose(n)` returns a number below n, where the search starts. Every pair is
    tried once.

    Raises:
        HostError: every pair of the window is taken, or the registry cannot be locked.
    """
    start = choose(window.size)
    for offset in range(window.size):
        pair = window.pair((start + offset) % window.size)
        categories = frozenset((pair.first, pair.second))
        if not any(categories <= other for other in taken) and _lock(registry, pair):
            return pair
    raise HostError(
        f"all {window.size} category pairs of this window are in use",
        hint="stop a VM (confined-qemu ps), or widen the caller's range",
    )


def byte_of(pair: Pair) -> int:
    """Return the offset of the byte that stands for `pair`."""
    return pair.first * (MAX_CATEGORY + 1) + pair.second


def _lock(registry: int, pair: Pair) -> bool:
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte_of(pair), 1, 0)
    try:
        fcntl.fcntl(registry, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise HostError(f"the pair registry cannot be locked: {why(error)}") from error
    return True
