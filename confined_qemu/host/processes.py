"""Processes as the kernel shows them: start ticks, boot id, and who holds which level."""

from __future__ import annotations

import os
import select

from confined_qemu.host import lsm
from confined_qemu.model.facts import LiveProcess
from confined_qemu.model.lean import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Collection

    from confined_qemu.model.context import Context

_START_TICKS = 22
"""The field of /proc/PID/stat (proc(5)): start time after boot in clock ticks; unlike a date it never moves."""

_FLAGS = 9
_KERNELS = 0x00200000
"""PF_KTHREAD (include/linux/sched.h)."""


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


def has_ended(pid: int) -> bool:
    """Tell whether every thread of `pid` has ended, also where its parent has not taken its status yet.

    A process whose first thread alone has ended is shown as a zombie and runs on.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return _is_shown_as_ended(pid)  # no descriptor to be had
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(pidfd)


def _is_shown_as_ended(pid: int) -> bool:
    """Tell by the states of all threads what `has_ended` tells by a pidfd."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    return all(_state(f"/proc/{pid}/task/{thread}/stat") in (b"Z", b"X", b"") for thread in threads)


def is_kernels(pid: int) -> bool:
    """Tell whether a process is a thread of the kernel's own (proc(5), `flags`; PF_KTHREAD).

    The launcher's domain may not look at these in /proc, as each launch looks at all processes there. It may ask for
    the process group of these alone, and they are in none (getpgid(2) says 0).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        return bool(int(fields[_FLAGS - 3]) & _KERNELS)
    except OSError:
        pass
    try:
        return os.getpgid(pid) == 0
    except OSError:
        return False


def await_end(pidfd: int) -> None:
    """Return once the process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()


def is_stopped(pid: int | None) -> bool:
    """Tell whether somebody has stopped a process (SIGSTOP); not of one that cannot be seen."""
    return pid is not None and _state(f"/proc/{pid}/stat") == b"T"


def _state(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read().rpartition(b") ")[2][:1]
    except OSError:
        return b""


def shown_at(pid: int) -> str:
    """Return where /proc shows what the threads of `pid` have in common: files and folders that they have open.

    That is the process itself; but where its first thread has ended, another thread.
    """
    if _state(f"/proc/{pid}/stat") != b"Z":
        return f"/proc/{pid}"
    try:
        threads = [f"/proc/{pid}/task/{thread}" for thread in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        threads = []
    return next((path for path in threads if _state(f"{path}/stat") not in (b"Z", b"X", b"")), f"/proc/{pid}")


def pids() -> list[int]:
    """Return the ids of all processes that may be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def holding_categories() -> tuple[LiveProcess, ...]:
    """Return every live process whose low level has categories: VMs, containers, sandboxes, whoever made them."""
    found = []
    for pid in pids():
        context = lsm.process_with_categories(pid)
        if context is not None and not has_ended(pid):
            found.append(LiveProcess(pid, context))
    return tuple(found)


def running_as(context: Context) -> tuple[int, ...]:
    """Return the live processes that run in exactly this context: a dynamic VM's, as its pair is its own."""
    return tuple(pid for pid in pids() if lsm.process_context(pid) == context and not has_ended(pid))


def run_by(wanted: Collection[tuple[Context, int]]) -> dict[tuple[Context, int], int]:
    """Return a live process for each of these contexts that runs in it as this user, in one look at all of them."""
    contexts = {context for context, _ in wanted}
    found: dict[tuple[Context, int], int] = {}
    for pid in pids():
        context = lsm.process_context(pid)
        if context is None or context not in contexts:
            continue
        uid = user_of(pid)
        if uid is not None and (context, uid) in wanted and not has_ended(pid):
            found.setdefault((context, uid), pid)
    return found


def others_run(types: Collection[str]) -> bool:
    """Tell whether another user's process runs in one of these domains."""
    me = os.geteuid()
    for pid in pids():
        context = lsm.process_context(pid)
        if context is not None and context.type in types and user_of(pid) not in (None, me) and not has_ended(pid):
            return True
    return False


def user_of(pid: int) -> int | None:
    """Return the user that a process is, real, effective and saved; None for one that is between users, or gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return None
    numbers = next((line.split()[1:] for line in lines if line.startswith(b"Uid:")), [])
    return int(numbers[0]) if numbers and len(set(numbers)) == 1 else None


def open_inodes(pid: int) -> frozenset[tuple[int, int]]:
    """Return the inodes, as (device, inode), of files that `pid` has open and that have a path; none where it ended.

    Raises:
        OSError: the kernel does not show it.
    """
    folder = f"{shown_at(pid)}/fd"
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
    folder = f"{shown_at(pid)}/fd"
    try:
        return any(os.readlink(f"{folder}/{number}") == path for number in os.listdir(folder))
    except OSError:
        return False
