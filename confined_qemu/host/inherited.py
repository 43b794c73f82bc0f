"""What the caller handed over: the environment and the open descriptors. Light: a question to QEMU loads it."""

from __future__ import annotations

import fcntl
import os


def initial() -> dict[bytes, bytes]:
    """Return the environment block of the exec that started this process, untouched by Python or the loader.

    The loader drops TMPDIR, LD_LIBRARY_PATH and others from `os.environ` when the launcher enters its domain
    (AT_SECURE), and Python may add LC_CTYPE; `/proc/self/environ` still holds what the caller set.
    """
    with open("/proc/self/environ", "rb") as file:
        block = file.read()
    variables: dict[bytes, bytes] = {}
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and name:
            variables.setdefault(name, value)
    return variables


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
