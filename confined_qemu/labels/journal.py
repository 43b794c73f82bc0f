"""The journal: what was done to which inode, on disk and synced before it is done.

One file for each VM in the user's folder. Its watcher holds the file's lock; a file that nobody holds, of a VM
with no process left, is work that a crash left behind. What a running VM is given later (`allow`) is in a second file
beside it, so that the first, whose lock is held, is written once.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from confined_qemu.host import locks, lsm, processes
from confined_qemu.labels import statefolders
from confined_qemu.model.errors import HINT, JournalError, ValueProblem, message, printable, shell_word, why
from confined_qemu.model.jsontext import dumps
from confined_qemu.model.lean import TYPE_CHECKING, contextmanager, dataclass, replace
from confined_qemu.model.record import decode, decode_grants, encode, encode_grants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from confined_qemu.labels.statefolders import StateFolder
    from confined_qemu.model.context import Context
    from confined_qemu.model.record import Grant, Record

    _Value = TypeVar("_Value")

SUFFIX = ".vm.json"
_LIVE_SUFFIX = ".vm.live"
_GRANTS_SUFFIX = ".vm.allowed"
_TREE_SUFFIX = ".vm.tree"
_NEW = ".new"
"""What a file is called until it is whole."""
_LOCK = "lock"
_NOT_LABELLED = "nothing was labelled"
MOST_BYTES = 4 << 20
"""Of a journal; one of a hundred files has 60 KiB."""
MOST_JOURNALS = 4096
"""Of a user; there are half a million pairs, and hosts for some thousands of VMs."""
_SILENCE = 3.0
"""Seconds of a wait without limit after which it is told."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
"""Seconds between two looks at a lock that somebody else holds."""


@dataclass
class _Patience:
    """How long this process waits for locks: until when on the monotonic clock, None for without limit.

    `tell` is told of a wait without limit that lasts.
    """

    deadline: float | None = None
    tell: Callable[[str], None] | None = None


_PATIENCE = _Patience()


@dataclass(frozen=True, slots=True)
class Entry:
    """A record and the file that holds it."""

    path: str
    record: Record


@dataclass(frozen=True, slots=True)
class Hold:
    """A VM's live file, opened twice: `held` is locked and goes to QEMU and its children, `watched` to who waits."""

    held: int
    watched: int


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold the folder's lock: labels are read, planned, journalled and changed by one launcher at a time.

    What a crash left half written goes: whoever writes a file under another name first holds this lock.

    Raises:
        JournalError: the folder is not the user's, or the lock cannot be had.
    """
    with statefolders.opened(folder) as found:
        descriptor = _lock(found)
        try:
            _clean(found)
            yield
        finally:
            os.close(descriptor)


def _lock(folder: StateFolder) -> int:
    try:
        descriptor = os.open(
            folder.at(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600
        )
    except OSError as error:
        raise JournalError(f"cannot be opened: {why(error)}", where=folder.shown(_LOCK)) from error
    try:
        _flock(descriptor, folder.shown(_LOCK))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _flock(descriptor: int, shown: str) -> None:
    """Lock a file, waiting as long as `patience` says."""
    if _PATIENCE.deadline is None:
        tell = _PATIENCE.tell
        if tell is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            locks.take_whole(descriptor, _SILENCE, lambda: tell(_waiting_for(descriptor, shown)))
        return
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left = _PATIENCE.deadline - time.monotonic()
            if left <= 0:
                holder = locks.holder(descriptor)
                raise JournalError(
                    f"its lock is held by {'a process' if holder is None else f'pid {holder}'} of uid {os.geteuid()}",
                    where=shown,
                    hint="run again later: confined-qemu recover",
                ) from None
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return


def _waiting_for(descriptor: int, shown: str) -> str:
    """Return what is said of a wait: for whom, and how one who was stopped goes on."""
    pid = locks.holder(descriptor)
    who = "a process" if pid is None else f"pid {pid}"
    stopped = f"{HINT}it is stopped; to let it go on: kill -CONT {pid}" if processes.is_stopped(pid) else ""
    return message(f"{shell_word(shown)}: waiting for {who}, which holds its lock{stopped}")


def tell_waits(tell: Callable[[str], None]) -> None:
    """Have a person told of each wait for a lock that lasts for more than a few seconds."""
    _PATIENCE.tell = tell


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Wait for locks at most so many seconds in all inside of the block: whoever holds them may never let go."""
    before = _PATIENCE.deadline
    _PATIENCE.deadline = time.monotonic() + seconds
    try:
        yield
    finally:
        _PATIENCE.deadline = before


def clean(folder: str) -> None:
    """Remove what a crash left half written, unless somebody holds the folder's lock: who took it has done that.

    Raises:
        JournalError: the folder is not the user's, or it cannot be cleaned.
    """
    with statefolders.opened(folder) as found:
        try:
            if not any(name.endswith(_NEW) for name in found.names()):
                return
        except OSError as error:
            raise JournalError(f"cannot be read: {why(error)}", where=folder) from error
        try:
            with patience(0.0):
                descriptor = _lock(found)
        except JournalError:
            return
        try:
            _clean(found)
        finally:
            os.close(descriptor)


def _clean(folder: StateFolder) -> None:
    """Remove the files that a crash left before they had their names."""
    try:
        for name in folder.names():
            if name.endswith(_NEW):
                folder.unlink(name)
    except OSError as error:
        raise JournalError(f"cannot be cleaned: {why(error)}", where=folder.path) from error


def write(folder: str, record: Record) -> tuple[str, int]:
    """Put `record` on disk, synced, and return its path and a descriptor that holds its lock.

    The name says which process of which boot it is: pids and ticks come again.

    Raises:
        JournalError: it cannot be written whole; nothing may be labelled then.
    """
    name = f"{record.pid}.{record.start_ticks}.{record.boot_id}{SUFFIX}"
    try:
        with statefolders.opened(folder) as found:
            try:
                return found.shown(name), _write(found, name, encode(record), decode)
            except JournalError:
                found.unlink(name)  # in its place already, where its folder could not be synced
                raise
    except JournalError as error:
        raise JournalError(error.what, where=error.where, hint=error.hint or _NOT_LABELLED) from error


def write_grants(path: str, grants: tuple[Grant, ...]) -> None:
    """Put what the VM whose journal is at `path` was given later on disk, synced; the caller holds the folder's lock.

    Raises:
        JournalError: it cannot be written whole; what was there before still is.
    """
    with statefolders.around(_grants_path(path)) as (folder, name):
        if grants:
            os.close(_write(folder, name, encode_grants(grants), decode_grants))
            return
        folder.unlink(name)
        folder.sync()


def _write(folder: StateFolder, name: str, value: dict[str, Any], of_json: Callable[[Any], object]) -> int:
    """Put a JSON object on disk, synced, and return a descriptor that holds the file's lock."""
    shown, temporary = folder.shown(name), folder.at(f"{name}{_NEW}")
    data = (dumps(value) + "\n").encode("ascii")
    try:
        of_json(value)  # what could not be read again would be lost
    except (ValueError, ValueProblem) as error:
        raise JournalError(f"cannot be written: {error}", where=shown) from error
    if len(data) > MOST_BYTES:
        raise JournalError(f"would have more than {MOST_BYTES >> 20} MiB", where=shown)
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
            os.rename(temporary, folder.at(name))
            folder.sync()
        except OSError:
            os.close(descriptor)
            folder.unlink(f"{name}{_NEW}")
            raise
    except OSError as error:
        raise JournalError(f"cannot be written: {why(error)}", where=shown) from error
    return descriptor


def read(path: str) -> Record | None:
    """Return the record in `path` with the VM's grants, None when it is gone.

    Raises:
        JournalError: it cannot be read or understood.
    """
    with statefolders.around(path) as (folder, name):
        return _record(folder, name)


def _record(folder: StateFolder, name: str) -> Record | None:
    record = _read(folder, name, decode)
    if record is None:
        return None
    return replace(record, grants=_read(folder, _grants_path(name), decode_grants) or ())


def _read(folder: StateFolder, name: str, of_json: Callable[[Any], _Value]) -> _Value | None:
    import json

    shown = folder.shown(name)
    try:
        # a link must not lead elsewhere, a pipe not hold up, and a file's size is its owner's choice
        descriptor = os.open(folder.at(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("not a regular file")  # noqa: TRY301 - told as every other thing that is none
            data = file.read(MOST_BYTES + 1) if found.st_size <= MOST_BYTES else None
            if data is None or len(data) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES >> 20} MiB")  # noqa: TRY301 - as above
            return of_json(json.loads(data.decode("ascii")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"cannot be read: {why(error)}", where=shown) from error
    except (RecursionError, ValueError, ValueProblem) as error:
        raise JournalError(
            f"is not a journal: {printable(str(error))}",
            where=shown,
            hint=f"check the labels of your images, then run: rm {shell_word(shown)}",
        ) from error


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder's journals say; `bad` holds an error for each that says nothing."""

    entries: tuple[Entry, ...]
    bad: tuple[BadEntry, ...]


@dataclass(frozen=True, slots=True)
class BadEntry:
    """A journal that cannot be understood; it is one failure, and keeps nobody from the others."""

    path: str
    error: JournalError


def listing(folder: str, *, reading: bool = False) -> Listing:
    """Return the VMs that the folder's journals name, live and dead; `reading` as in `statefolders.opened`.

    Raises:
        JournalError: the folder cannot be read.
    """
    found: list[Entry] = []
    bad: list[BadEntry] = []
    with statefolders.opened(folder, reading=reading) as opened:
        try:
            names = [name for name in opened.names() if name.endswith(SUFFIX)]
        except OSError as error:
            raise JournalError(f"cannot be read: {why(error)}", where=folder) from error
        for name in names[:MOST_JOURNALS]:
            try:
                record = _record(opened, name)
            except JournalError as error:
                bad.append(BadEntry(opened.shown(name), error))
                continue
            if record is not None:
                found.append(Entry(opened.shown(name), record))
    if len(names) > MOST_JOURNALS:
        more = JournalError(f"holds more than {MOST_JOURNALS:,} journals: the rest is not read", where=folder)
        bad.append(BadEntry(folder, more))
    return Listing(tuple(found), tuple(bad))


def entries(folder: str) -> list[Entry]:
    """Return the VMs that the folder's journals name, without what cannot be understood.

    Raises:
        JournalError: the folder cannot be read.
    """
    return list(listing(folder).entries)


def take(path: str, *, wait: bool) -> int | None:
    """Lock a journal and return the descriptor; None when it is gone, or (without `wait`) another holds it.

    Raises:
        JournalError: it cannot be opened, or is held for longer than `patience` allows.
    """
    with statefolders.around(path) as (folder, name):
        try:
            descriptor = os.open(folder.at(name), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(f"cannot be opened: {why(error)}", where=path) from error
    try:
        if wait:
            _flock(descriptor, path)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def live_path(path: str) -> str:
    """Return the live file of the VM whose journal is at `path`."""
    return path.removesuffix(SUFFIX) + _LIVE_SUFFIX


def _grants_path(path: str) -> str:
    return path.removesuffix(SUFFIX) + _GRANTS_SUFFIX


def notes_path(path: str, tree: int) -> str:
    """Return the file of the labels that a tree of the VM had (`notes`), whose journal is at `path`."""
    return f"{path.removesuffix(SUFFIX)}{_TREE_SUFFIX}{tree}"


def hold(path: str, context: Context | None) -> Hold:
    """Make the VM's live file, labelled `context` so that the VM may inherit it (None: by the policy), and lock it.

    The lock belongs to the open file: QEMU inherits it, and so does what `-daemonize` leaves behind.

    Raises:
        JournalError: it cannot be made or locked.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with statefolders.around(live_path(path)) as (folder, name):
        live = folder.shown(name)
        try:
            with lsm.creating(context):
                held = os.open(folder.at(name), flags | os.O_CREAT | os.O_EXCL, 0o600)
            watched = os.open(folder.at(name), flags)
            if not locks.take(held, locks.EXCLUSIVE):
                raise JournalError("a new journal is locked by another process", where=live)
        except OSError as error:
            raise JournalError(f"cannot be made or locked: {why(error)}", where=live) from error
    return Hold(held, watched)


def is_held(path: str) -> bool:
    """Tell whether a process of the VM holds its live file.

    Raises:
        JournalError: it is there and cannot be asked.
    """
    live = live_path(path)
    try:
        with statefolders.around(live) as (folder, name):
            descriptor = os.open(folder.at(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise JournalError(f"cannot be opened: {why(error)}", where=live) from error
    try:
        return locks.obstacle(descriptor, locks.SHARED) is not None
    except OSError as error:
        raise JournalError(f"its lock cannot be read: {why(error)}", where=live) from error
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Forget a VM: all that its record names has been put back."""
    with statefolders.around(path) as (folder, name):
        folder.unlink(live_path(name))
        folder.unlink(_grants_path(name))
        prefix = name.removesuffix(SUFFIX) + _TREE_SUFFIX
        for notes in (found for found in folder.names() if found.startswith(prefix)):
            folder.unlink(notes)
        folder.unlink(name)
        folder.sync()
