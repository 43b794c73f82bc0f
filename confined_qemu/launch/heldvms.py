"""The VMs that Landlock holds, as notes of theirs in the runtime folder, for `ps` and `allow`.

A note is named by its launcher's pid and start time, and counts while that process lives, or, for `-daemonize`, while
QEMU's child has the note open and locked. In another user's folder a note is a stranger's text.
"""

from __future__ import annotations

import fcntl
import os
import stat

from confined_qemu.host import processes
from confined_qemu.model import paths
from confined_qemu.model.jsontext import dumps
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, suppress
from confined_qemu.model.resource import Access, Role

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from confined_qemu.model.facts import Facts
    from confined_qemu.model.plan import Plan

_FOLDER = "held"
_OF_USERS = "/run/user/*/confined-qemu"
_LARGEST = 1 << 16
"""Bytes of a note that are read."""
_MOST = 4096
"""Notes of one user that are looked at."""
_IMAGES = frozenset({Role.DISK, Role.CDROM, Role.FLOPPY, Role.BACKING, Role.DATA_FILE, Role.NVRAM, Role.EXTRA})
_MONITORS = ("-qmp unix:", "qmp")
"""What names a socket on which QEMU speaks QMP: by the option, or by the spec's key."""


@dataclass(frozen=True, slots=True)
class HeldVm:
    """A live VM that Landlock holds. `monitor` is the path of its QMP socket, None without one."""

    name: str
    pid: int
    accel: str
    images: tuple[str, ...]
    monitor: str | None


def note(plan: Plan, facts: Facts) -> int:
    """Leave a note of this process, which is about to become QEMU; return it open and locked, -1 where there is none.

    A VM runs as well without it: who has no runtime folder is not seen by `ps`.
    """
    ticks = processes.start_ticks(os.getpid())
    folder = os.path.join(facts.runtime_folder, _FOLDER)
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        _sweep(folder)
        path = os.path.join(folder, f"{os.getpid()}.{ticks}")
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        if not plan.daemonize:
            return -1
        made = os.memfd_create("confined-qemu")
    high = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 64)
    os.close(made)
    values = {
        "name": plan.name,
        "accel": plan.accel.chosen,
        "images": [planned.path for planned in plan.resources if planned.resource.role in _IMAGES],
        "monitor": _monitor(plan),
    }
    with suppress(OSError):
        os.write(high, dumps(values).encode("ascii"))
        fcntl.flock(high, fcntl.LOCK_SH)
    return high


def _monitor(plan: Plan) -> str | None:
    listening = (planned for planned in plan.resources if planned.resource.access is Access.LISTEN)
    return next((planned.path for planned in listening if planned.resource.source.startswith(_MONITORS)), None)


def _sweep(folder: str) -> None:
    """Remove the notes of VMs that have ended."""
    for name in os.listdir(folder)[:_MOST]:
        path = os.path.join(folder, name)
        if _pid(path, name) is None:
            with suppress(OSError):
                os.unlink(path)


def live() -> tuple[HeldVm, ...]:
    """Return the live VMs of this user, for root those of everybody."""
    folders = [os.path.join(_mine(), _FOLDER)]
    if os.geteuid() == 0:
        from glob import glob

        folders += [os.path.join(folder, _FOLDER) for folder in glob(_OF_USERS)]
    return tuple(vm for folder in dict.fromkeys(folders) for vm in _in(folder))


def _mine() -> str:
    if os.geteuid() == 0:
        return paths.RUNTIME
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.join(base, "confined-qemu")


def _in(folder: str) -> Iterator[HeldVm]:
    try:
        names = os.listdir(folder)[:_MOST]
    except OSError:
        return
    for name in names:
        path = os.path.join(folder, name)
        pid = _pid(path, name)
        values = _read(path) if pid is not None else None
        if pid is not None and values is not None:
            monitor = values.get("monitor")
            images = values.get("images")
            yield HeldVm(
                str(values.get("name")),
                pid,
                str(values.get("accel")),
                tuple(str(image) for image in images) if isinstance(images, list) else (),
                monitor if isinstance(monitor, str) else None,
            )


def _pid(path: str, name: str) -> int | None:
    """Return the pid of the VM of a note, None where it has ended."""
    pid, _, ticks = name.partition(".")
    if not pid.isdecimal() or not ticks.isdecimal():
        return None
    if processes.start_ticks(int(pid)) == int(ticks):
        return int(pid)
    return _daemon(path)


def _daemon(path: str) -> int | None:
    """Return the process that has a note open and locked: a QEMU that went into the background."""
    opened = _opened(path)
    if opened is None:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        inode = (os.fstat(opened).st_dev, os.fstat(opened).st_ino)
        return next(_holding(inode), None)
    finally:
        os.close(opened)
    return None


def _holding(inode: tuple[int, int]) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with suppress(OSError):
                if inode in processes.open_inodes(int(name)) and not _is_ours(int(name)):
                    yield int(name)


def _is_ours(pid: int) -> bool:
    """Tell whether it is the companion that waits for the VM."""
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().startswith("confined-")


def _opened(path: str) -> int | None:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    return None


def _read(path: str) -> dict[str, Any] | None:
    import json

    opened = _opened(path)
    if opened is None:
        return None
    try:
        values = json.loads(os.read(opened, _LARGEST).decode("utf-8", "surrogateescape"))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(opened)
    return values if isinstance(values, dict) else None
