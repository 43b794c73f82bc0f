"""Control groups of the second version (cgroups(7)): one of a VM's own, which is ended whole however it forks.

It lies within the caller's, whose limits hold on, and systemd sees the VM where it was. It gets no controllers.
"""

from __future__ import annotations

import os
import select
import time

from confined_qemu.host import lsm, processes
from confined_qemu.model.errors import HostError, why
from confined_qemu.model.lean import suppress
from confined_qemu.model.paths import GROUPS, VM_GROUP

_OWN = "/proc/self/cgroup"
_ONLY = "0::"
"""Before the group in the one line of a host without groups of the first version (cgroups(7))."""
_PATIENCE = 10.0
"""Seconds for the kernel to end what was killed."""


def parent() -> str | None:
    """Return the folder of this process's group, if it may make one in it and enter that; else None.

    `cgroup.kill` came with Linux 5.14. A group of threads, or the root, which has no `cgroup.type`, takes none.
    """
    name = _own()
    if name is None:
        return None
    folder = f"{GROUPS}{name}"
    try:
        if _read(f"{folder}/cgroup.type") != "domain" or not os.path.exists(f"{folder}/cgroup.kill"):
            return None
        # what is mounted there may show the groups of another namespace, where the same name is another group
        mine = str(os.getpid()) in _read(f"{folder}/cgroup.procs").split()
    except OSError:
        return None
    may = os.access(folder, os.W_OK | os.X_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK)
    return folder if mine and may else None


def enter(group: str) -> bool:
    """Make a group and enter it; tell whether this process is in it then. It is an aid: without it a VM starts, too."""
    try:
        with suppress(FileNotFoundError):
            os.rmdir(group)  # of a process that had this pid
        os.mkdir(group, 0o755)
        _write(f"{group}/cgroup.procs", str(os.getpid()))
    except OSError:
        with suppress(OSError):
            os.rmdir(group)
        return False
    return _is_in(group)


def end(group: str, context: str) -> None:
    """Kill all that is in a VM's group, and return once it is empty, or after a while.

    Nothing is killed where somebody has put a process into it that does not run in the VM's context.
    """
    try:
        members = _read(f"{group}/cgroup.procs").split()
        if any(_is_anothers(int(pid), context) for pid in members):
            return
        _write(f"{group}/cgroup.kill", "1")
    except OSError:
        return  # there is none: whoever runs in the VM's context is looked for
    await_empty(group, _PATIENCE)


def _is_anothers(pid: int, context: str) -> bool:
    """Tell whether a live process runs in another context, or in one that the launcher's domain may not see."""
    return str(lsm.process_context(pid)) != context and not processes.has_ended(pid)


def await_empty(group: str, seconds: float | None) -> bool:
    """Return once no live process is in a group, or it is gone; False where one is after so long (None: no limit)."""
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        events = os.open(f"{group}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events, 4096, 0):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            poll.poll(None if left is None else left * 1000)
    except OSError:
        return True  # removed
    finally:
        os.close(events)
    return True


def remove(group: str) -> None:
    """Remove a VM's group, which this process leaves if it is in it: its launch has failed.

    Raises:
        HostError: a process is in it.
    """
    folder, name = os.path.split(os.path.normpath(group))
    if not (folder.startswith(f"{GROUPS}/") and name.startswith(VM_GROUP)):
        return  # a journal's word is no reason to remove another's
    try:
        if _is_in(group):
            _write(f"{folder}/cgroup.procs", str(os.getpid()))
        os.rmdir(group)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise HostError(
            f"the VM's control group cannot be removed: {why(error)}",
            where=group,
            hint="end what is in it (cgroup.procs lists it), then run: confined-qemu recover",
        ) from error


def _is_in(group: str) -> bool:
    name = _own()
    return name is not None and f"{GROUPS}{name}" == group


def _own() -> str | None:
    """Return the name of this process's group; None where the host has groups of the first version, or none."""
    try:
        lines = _read(_OWN).splitlines()
    except OSError:
        return None
    return lines[0].removeprefix(_ONLY) if len(lines) == 1 and lines[0].startswith(_ONLY) else None


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while part := os.read(descriptor, 1 << 16):
            found += part
    finally:
        os.close(descriptor)
    return os.fsdecode(found).rstrip("\n")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)
