"""The descriptors that the caller handed over. Light: a question to QEMU loads it."""

from __future__ import annotations

import fcntl
import os


def inherited() -> tuple[int, ...]:
    """Return the descriptors that are not closed at exec; everything that Python opens for itself is."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            flags = fcntl.fcntl(int(name), fcntl.F_GETFD)
        except OSError:
            continue  # the listing's own
        if not flags & fcntl.FD_CLOEXEC:
            found.append(int(name))
    return tuple(sorted(found))
