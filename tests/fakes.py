"""SELinux without a kernel that has it: a policy made from a table, and labels in memory by inode.

A fake fails as the kernel does (an LsmError), and can be told to fail, or to end the process, at its n-th call.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from confined_qemu.host import filesystems, handles, lsm, processes
from confined_qemu.model.context import Context, PolicyContexts
from confined_qemu.model.errors import LsmError
from confined_qemu.model.facts import Boolean, SelinuxMode
from confined_qemu.model.lean import dataclass, field, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pytest

    from confined_qemu.model.facts import Identity

DEBIAN = PolicyContexts.parse(
    "system_u:system_r:svirt_t:s0\n", "system_u:object_r:svirt_image_t:s0\nsystem_u:object_r:virt_content_t:s0\n"
)
FEDORA = PolicyContexts.parse(
    "system_u:system_r:svirt_t:s0\nsystem_u:system_r:svirt_tcg_t:s0\n",
    "system_u:object_r:svirt_image_t:s0\nsystem_u:object_r:virt_content_t:s0\n",
)
VIRT_IMAGE = Context.parse("system_u:object_r:virt_image_t:s0")


@dataclass
class Policy:
    """A `decisions.Policy`: what it denies is a table of (source type, target type, class) to permissions.

    `*` in the place of the target stands for every one. `levels`: a target with categories that the source does
    not have is denied read and write, as MCS does it. `mls`: what is not dominated is not read, and writing is for
    the own level, or for the launcher any of its range.
    """

    table: dict[tuple[str, str, str], frozenset[str]] = field(default_factory=dict)
    levels: bool = True
    mls: bool = False
    new: Context = VIRT_IMAGE
    strange: frozenset[str] = frozenset()
    permissive: frozenset[str] = frozenset()
    booleans: dict[str, bool] = field(default_factory=dict)
    made: dict[str, Context] = field(default_factory=dict)
    """What a new file gets in a folder of a type that has a rule of its own."""

    def denied(self, source: Context, target: Context, kind: str, permissions: Iterable[str]) -> tuple[str, ...]:
        """Return what the table and the levels deny."""
        self._known(source, target)
        denied = self.table.get((source.type, target.type, str(kind)), frozenset())
        denied |= self.table.get((source.type, "*", str(kind)), frozenset())
        if self.mls:
            denied |= _denied_by_level(source, target)
        levelled = not self.mls and self.levels and source.type.startswith("svirt")
        if levelled and source.range is not None and target.range is not None:
            denied |= frozenset() if source.range.high.dominates(target.range.high) else {"read", "write"}
        return tuple(permission for permission in permissions if permission in denied)

    def created(self, source: Context, folder: Context, kind: str) -> Context:
        """Return the label that new files have in every folder without a rule of its own; a VM's are at its level."""
        del kind
        made = self.made.get(folder.type, self.new)
        return made if folder.type not in self.made else replace(made, range=source.range)

    def boolean(self, name: str) -> Boolean:
        """Return what the table of booleans says."""
        state = self.booleans.get(name)
        return Boolean.ABSENT if state is None else Boolean.ON if state else Boolean.OFF

    def is_valid(self, context: Context) -> bool:
        """Tell whether the context's type is none of `strange`."""
        return context.type not in self.strange

    def is_permissive(self, context: Context) -> bool:
        """Tell whether the context's type is one of `permissive`."""
        self._known(context)
        return context.type in self.permissive

    def _known(self, *contexts: Context) -> None:
        """Refuse to answer about a context that is not valid, as the kernel does."""
        if strange := [context for context in contexts if not self.is_valid(context)]:
            raise LsmError(f"{strange[0]}: Invalid argument")

    def user_type(self, role: str) -> str | None:
        """Return what the reference policy's default_type says of unconfined people."""
        return {"unconfined_r": "unconfined_t"}.get(role)


def _denied_by_level(source: Context, target: Context) -> frozenset[str]:
    if source.range is None or target.range is None:
        return frozenset()
    low, other = source.range.low, target.range.low
    in_range = source.type == "confined_qemu_t" and source.range.high.dominates(other)
    reads = low.dominates(other) or in_range
    writes = low == other or target.type == "confined_qemu_stdio_t" or (in_range and other.dominates(low))
    starts = source.range.high.dominates(target.range.high)
    return frozenset(
        name
        for name, allowed in (("read", reads), ("write", writes), ("relabelfrom", writes), ("transition", starts))
        if not allowed
    )


class Crash(BaseException):
    """The process is killed here: no error, and nothing catches it."""


def given_away(folders: list[Path], patch: pytest.MonkeyPatch) -> list[str]:
    """Make these folders another user's state folders, and this process root; return their new paths."""
    uid = os.getuid() or 4711
    found = []
    for number, folder in enumerate(folders):
        path = folder.parent / (f"{uid}.{number:016x}" if number else str(uid))
        folder.rename(path)
        os.chown(path, uid, os.getgid())
        found.append(str(path))
    patch.setattr(os, "geteuid", lambda: 0)
    return found


Key = tuple[int, int]
"""Device and inode."""


@dataclass
class Labels:
    """Labels by inode, in the place of lsm's functions about files.

    `created` counts nothing: a file made through `os.open` or `os.mkdir` gets the label of the `creating` block, or
    `default`. `at(n, what)` has the n-th call from now on raise `what`.
    """

    default: Context = VIRT_IMAGE
    by_inode: dict[Key, Context] = field(default_factory=dict)
    creating_now: Context | None = None
    calls: int = 0
    faults: dict[int, BaseException] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def at(self, call: int, what: BaseException | None = None) -> None:
        """Let call number `call` (the next one is 1) raise; an LsmError where nothing else is said."""
        self.faults[self.calls + call] = what or LsmError("an injected fault")

    def give(self, path: str | int, context: Context) -> None:
        """Label a file, or what a descriptor leads to, as somebody else would."""
        self.by_inode[_key(path)] = context

    def of(self, path: str | int) -> Context:
        """Return the label of a file or a descriptor, uncounted."""
        return self.by_inode.get(_key(path), self.default)

    def _call(self, name: str) -> None:
        self.calls += 1
        self.log.append(name)
        if self.calls in self.faults:
            raise self.faults.pop(self.calls)

    # ---- lsm's functions

    def context_of(self, path: str | int) -> Context | None:
        """Stand for `lsm.context_of`."""
        self._call("context_of")
        return self.by_inode.get(_key(path), self.default)

    def set_context(self, path: str, context: Context, *, shown: str) -> None:
        """Stand for `lsm.set_context`."""
        self._call(f"set_context {os.path.basename(shown)} {context}")
        assert path.startswith("/proc/self/fd/"), "labels are set through a descriptor"
        self.by_inode[_key(path)] = context

    @contextmanager
    def creating(self, context: Context | None) -> Iterator[None]:
        """Stand for `lsm.creating`."""
        self._call("creating")
        before, self.creating_now = self.creating_now, context
        try:
            yield
        finally:
            self.creating_now = before

    # ---- making files

    def made(self, path: str | int) -> None:
        """Note that a file has just been made, whatever its inode was before."""
        self.by_inode[_key(path)] = self.creating_now or self.default


def _key(path: str | int) -> Key:
    found = os.stat(path) if isinstance(path, str) and path.startswith("/proc/self/fd/") else None
    if found is None:
        found = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    return found.st_dev, found.st_ino


def install_labels(patch: pytest.MonkeyPatch) -> Labels:
    """Put fake labels in the place of the kernel's."""
    labels = Labels()
    real_open, real_mkdir = os.open, os.mkdir

    def open_(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        descriptor = real_open(path, flags, mode, dir_fd=dir_fd)
        if new:
            labels.made(descriptor)
        return descriptor

    def mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real_mkdir(path, mode, dir_fd=dir_fd)
        labels.made(path)

    patch.setattr(os, "open", open_)
    patch.setattr(os, "mkdir", mkdir)
    patch.setattr(lsm, "context_of", labels.context_of)
    patch.setattr(lsm, "set_context", labels.set_context)
    patch.setattr(lsm, "creating", labels.creating)
    patch.setattr(lsm, "mode", lambda: SelinuxMode.ENFORCING)
    # what a disk has is for the tests that cut its power
    patch.setattr(filesystems, "syncfs", lambda _: None)
    patch.setattr(handles, "opened", _no_inode)
    return labels


def _no_inode(_folder: int, identity: Identity) -> int:
    """Say as the kernel says to root that there is no such inode any more."""
    raise FileNotFoundError(errno.ENOENT, f"inode {identity.inode}")


@dataclass
class Processes:
    """Which processes live, in the place of /proc: pid to start ticks, and what runs in which context."""

    boot: str = "this-boot"
    ticks: dict[int, int] = field(default_factory=dict)
    contexts: dict[int, Context] = field(default_factory=dict)
    opened: set[tuple[int, str]] = field(default_factory=set)

    def running_as(self, context: Context) -> tuple[int, ...]:
        """Stand for `processes.running_as`."""
        return tuple(pid for pid, found in self.contexts.items() if found == context)


def install_processes(patch: pytest.MonkeyPatch) -> Processes:
    """Put a fake process table in the place of /proc."""
    table = Processes()
    fakes: dict[str, Callable[..., object]] = {
        "boot_id": lambda: table.boot,
        "start_ticks": table.ticks.get,
        "has_ended": lambda pid: pid not in table.ticks,
        "running_as": table.running_as,
        "has_open": lambda pid, path: (pid, path) in table.opened,
    }
    for name, fake in fakes.items():
        patch.setattr(processes, name, fake)
    patch.setattr(lsm, "process_context", table.contexts.get)
    return table
