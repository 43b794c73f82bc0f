"""Control groups of the second version (cgroups(7)): one of a VM's own, which is ended whole however it forks.

It lies within the caller's, whose limits hold on, and systemd sees the VM where it was. It gets no controllers.
"""

from __future__ import annotations

import errno
import os
import select
import time

from confined_qemu.host import lsm, processes
from confined_qemu.model.errors import HostError, why
from confined_qemu.model.lean import TYPE_CHECKING, suppress
from confined_qemu.model.paths import GROUPS, VM_GROUP

if TYPE_CHECKING:
    from collections.abc import Callable

_OWN = "/proc/self/cgroup"
_ONLY = "0::"
"""Before the group in the one line of a host without groups of the first version (cgroups(7))."""
_ELSEWHERE = 0
"""What the kernel shows as the pid of a member that the reader's pid namespace does not have."""
_PATIENCE = 10.0
"""Seconds for the kernel to end what was killed."""


def possible() -> str | None:
    """Return a group that this process may make within its own, and enter; None where it may not.

    `cgroup.kill` came with Linux 5.14. A group of threads, or the root of all, which has no `cgroup.type`, takes none.
    """
    folder = _own()
    if folder is None:
        return None
    try:
        if _read(f"{folder}/cgroup.type") != "domain" or not os.path.exists(f"{folder}/cgroup.kill"):
            return None
        # what is mounted there may show the groups of another namespace, where the same name is another group
        mine = str(os.getpid()) in _read(f"{folder}/cgroup.procs").split()
    except OSError:
        return None
    may = os.access(folder, os.W_OK | os.X_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK)
    # a pid comes again, and another pid namespace has the same
    return f"{folder}/{VM_GROUP}{os.getpid()}.{os.urandom(4).hex()}" if mine and may else None


def enter(group: str) -> bool:
    """Make a group and enter it; tell whether this process is in it then. It is an aid: without it a VM starts, too."""
    try:
        os.mkdir(group, 0o755)
        _write(f"{group}/cgroup.procs", str(os.getpid()))
    except OSError:
        with suppress(OSError):
            os.rmdir(group)
        return False
    return _own() == group


def end(group: str, context: str) -> None:
    """Kill all that is in a VM's group, and return once it is empty, or after a while.

    Nothing is killed where somebody has put a process into it, or into one below it, that does not run in the VM's
    context.
    """
    try:
        members = _members(group)
        if any(_is_anothers(pid, context) for pid in members):
            return
        _write(f"{group}/cgroup.kill", "1")
    except OSError:
        return  # there is none: whoever runs in the VM's context is looked for
    _await_empty(group, _PATIENCE)


def _is_anothers(pid: int, context: str) -> bool:
    """Tell whether a live process runs in another context, or in one that this process may not see.

    The kernel's threads that work for a VM's KVM or vhost devices are its members too, and are not killed with it.
    """
    if pid == _ELSEWHERE:
        return True
    if str(lsm.process_context(pid)) == context or processes.is_kernels(pid):
        return False
    return not processes.has_ended(pid)


def await_end(group: str, context: str, tell: Callable[[], None]) -> None:
    """Return once no process of a VM's group runs in its context; `tell` is called first where one does."""
    told = False
    while left := _running(group, context):
        if not told:
            tell()
            told = True
        for pidfd in left:
            processes.await_end(pidfd)
            os.close(pidfd)


def _running(group: str, context: str) -> list[int]:
    """Return a pidfd of each live member that runs in a context; the caller closes them."""
    found = []
    try:
        members = _members(group)
    except OSError:
        return []  # it is gone
    for pid in members:
        if pid != _ELSEWHERE and str(lsm.process_context(pid)) == context and not processes.has_ended(pid):
            with suppress(OSError):
                found.append(os.pidfd_open(pid))
    return found


def _await_empty(group: str, seconds: float) -> None:
    """Return once no live process is in a group or one below it, or it is gone, or after so many seconds."""
    deadline = time.monotonic() + seconds
    try:
        events = os.open(f"{group}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events, 4096, 0) and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
    except OSError:
        return  # removed
    finally:
        os.close(events)


def remove(group: str) -> None:
    """Remove a VM's group with those below it; this process leaves it if it is in it: its launch has failed.

    Raises:
        HostError: a process is in it.
    """
    folder, name = os.path.split(os.path.normpath(group))
    if not (f"{folder}/".startswith(f"{GROUPS}/") and name.startswith(VM_GROUP)):
        return  # a journal's word is no reason to remove another's
    try:
        if _own() == group:
            _write(f"{folder}/cgroup.procs", str(os.getpid()))
        for one in reversed(_with_those_below(group)):
            os.rmdir(one)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise HostError(
            f"the VM's control group cannot be removed: {why(error)}",
            where=group,
            hint=f"see who is in it: systemd-cgls {group}",
        ) from error


def _with_those_below(group: str) -> list[str]:
    """Return a group and all below it, each after the one that it lies in."""
    found = [group]
    for one in found:
        with os.scandir(one) as entries:
            found += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found


def _members(group: str) -> list[int]:
    """Return the pids of who is in a group or in one below it.

    Raises:
        OSError: there is none.
    """
    return [pid for one in _with_those_below(group) for pid in _members_alone(one)]


def _members_alone(group: str) -> list[int]:
    try:
        return [int(pid) for pid in _read(f"{group}/cgroup.procs").split()]
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []  # a group of threads: its processes are its parent's
        raise


def _own() -> str | None:
    """Return the folder of this process's group; None where the host has groups of the first version, or none."""
    try:
        lines = _read(_OWN).splitlines()
    except OSError:
        return None
    if len(lines) != 1 or not lines[0].startswith(_ONLY):
        return None
    return f"{GROUPS}{lines[0].removeprefix(_ONLY)}".rstrip("/")  # `/` is the root of this namespace


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
