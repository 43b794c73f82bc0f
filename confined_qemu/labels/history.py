"""The last VMs that ended: who ran as what, and when, so that `denials` can say whose a denial was.

A file beside the journals of a user, a line for each VM, written by whoever puts the labels back (the watcher), under
the folder's lock. It is not synced and its loss stops nothing; it holds the last hundreds of VMs.
"""

from __future__ import annotations

import os
import stat
import time

from confined_qemu.labels import journal, statefolders
from confined_qemu.model.context import Context
from confined_qemu.model.errors import JournalError, ValueProblem, why
from confined_qemu.model.jsontext import dumps
from confined_qemu.model.lean import TYPE_CHECKING, suppress
from confined_qemu.model.pastvm import GivenFile, PastVm
from confined_qemu.model.steps import Relabel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_NAME = "history"
_LARGEST = 1 << 17
"""Bytes; a larger file loses its older half."""


def remember(entry: journal.Entry) -> None:
    """Add a VM that has just ended; the caller holds the folder's lock. A full disk keeps no label from going back."""
    try:
        vm = _vm(entry, end=_now())
        line = dumps(_encode(vm)) + "\n"
        with statefolders.around(entry.path) as (folder, _):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(folder.at(_NAME), flags, 0o600)
            try:
                found = os.fstat(descriptor)
                if stat.S_ISREG(found.st_mode):
                    os.write(descriptor, line.encode("ascii"))
                if found.st_size > _LARGEST:
                    _shorten(folder.at(_NAME), descriptor)
            finally:
                os.close(descriptor)
    except (OSError, JournalError):
        return


def _shorten(path: str, descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    newer = os.pread(descriptor, _LARGEST // 2, size - _LARGEST // 2).partition(b"\n")[2]
    temporary = f"{path}.new"
    short = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(short, newer)
    finally:
        os.close(short)
    os.rename(temporary, path)


def known(folders: Iterable[str]) -> list[PastVm]:
    """Return the VMs of these folders that run or ended lately, in the order of their start; root only reads others'.

    Raises:
        JournalError: the user's own folder cannot be read; another user's damaged one stops nobody.
    """
    found: list[PastVm] = []
    for folder in folders:
        try:
            found.extend(_in_folder(folder))
        except JournalError:
            if statefolders.is_own(folder):
                raise
    return sorted(found, key=lambda vm: vm.start)


def _in_folder(folder: str) -> list[PastVm]:
    found: list[PastVm] = []
    for entry in journal.listing(folder, reading=True).entries:
        with suppress(FileNotFoundError):  # it ended this moment: the history has it
            found.append(_vm(entry, end=None))
    ended = list(_past(folder))
    # one that was still in its journal a moment ago may be in both
    return [*ended, *(vm for vm in found if not any((vm.pid, vm.start) == (e.pid, e.start) for e in ended))]


def _vm(entry: journal.Entry, *, end: int | None) -> PastVm:
    record = entry.record
    # a journal is written once, at the start
    start = os.lstat(entry.path).st_mtime_ns // 1_000_000
    files = tuple(
        GivenFile(step.path, step.identity.inode, str(step.after))
        for step in record.all_steps
        if isinstance(step, Relabel)
    )
    return PastVm(record.name, record.context, record.pid, start, end, files)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _past(folder: str) -> Iterator[PastVm]:
    path = os.path.join(folder, _NAME)
    try:
        with statefolders.opened(folder, reading=True) as found:
            # root reads the folders of others: a link there must not lead it elsewhere, nor a pipe hold it up
            descriptor = os.open(found.at(_NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = os.pread(descriptor, 2 * _LARGEST, 0) if regular else b""
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return
    except OSError as error:
        raise JournalError(f"cannot be read: {why(error)}", where=path) from error
    for line in data.decode("ascii", "replace").splitlines():
        vm = _decode(line)
        if vm is not None:
            yield vm


def _encode(vm: PastVm) -> dict[str, Any]:
    return {
        "name": vm.name,
        "context": str(vm.context),
        "pid": vm.pid,
        "start": vm.start,
        "end": vm.end,
        "files": [[file.path, file.inode, file.label] for file in vm.files],
    }


def _decode(line: str) -> PastVm | None:
    """Return the VM of a line; None for one that a crash cut off, or that is somebody's own writing."""
    import json

    try:
        data = json.loads(line)
        files = tuple(GivenFile(str(path), int(inode), str(label)) for path, inode, label in data["files"])
        context = Context.parse(str(data["context"]))
        return PastVm(str(data["name"]), context, int(data["pid"]), int(data["start"]), int(data["end"]), files)
    except (ValueError, KeyError, TypeError, RecursionError, ValueProblem):
        return None
