"""Processes as the kernel shows them: start ticks, boot id, and who holds which level."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from confined_qemu.host import lsm
from confined_qemu.model.facts import LiveProcess

if TYPE_CHECKING:
    from confined_qemu.model.context import Context

_START_TICKS = 22
"""The field of /proc/PID/stat (proc(5)): start time after boot in clock ticks; unlike a date it never moves."""


def boot_id() -> str:
    """Return the identity of this boot of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """Return when `pid` was started, in clock ticks since boot; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after_name = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    # the name may hold spaces and brackets; what follows it starts with field 3
    return int(after_name[_START_TICKS - 3])


def is_zombie(pid: int) -> bool:
    """Tell whether `pid` has ended and only waits for its parent to take its status."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"Z", b"X")
    except OSError:
        return True


def pids() -> list[int]:
    """Return the ids of all processes that may be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def holding_categories() -> tuple[LiveProcess, ...]:
    """Return every live process whose low level has categories: VMs, containers, sandboxes, whoever made them."""
    found = []
    for pid in pids():
        context = lsm.process_context(pid)
        if context is not None and context.range is not None and context.range.low.categories and not is_zombie(pid):
            found.append(LiveProcess(pid, context))
    return tuple(found)


def running_as(context: Context) -> tuple[int, ...]:
    """Return the live processes that run in exactly this context: a dynamic VM's, as its pair is its own."""
    return tuple(pid for pid in pids() if lsm.process_context(pid) == context and not is_zombie(pid))


def open_inodes(pid: int) -> frozenset[tuple[int, int]]:
    """Return the inodes, as (device, inode), of files that `pid` has open and that have a path; none where it ended.

    Raises:
        OSError: the kernel does not show it.
    """
    folder = f"/proc/{pid}/fd"
    found = set()
    try:
        for number in os.listdir(folder):
            with suppress(FileNotFoundError):  # closed meanwhile
                # a pipe's or a socket's is no path, and SELinux need not be asked about it
                if os.readlink(f"{folder}/{number}").startswith("/"):
                    inode = os.stat(f"{folder}/{number}")
                    found.add((inode.st_dev, inode.st_ino))
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()
    return frozenset(found)


def has_open(pid: int, path: str) -> bool:
    """Tell whether `pid` is seen to have `path` open; False also where the kernel does not show it."""
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{number}") == path for number in os.listdir(folder))
    except OSError:
        return False
