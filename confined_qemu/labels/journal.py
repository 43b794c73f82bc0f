"""The journal: what was done to which inode, on disk and synced before it is done.

One file for each VM in the user's folder. Its watcher holds the file's lock; a file that nobody holds, of a VM
with no process left, is work that a crash left behind. What a running VM is given later (`allow`) is in a second file
beside it, so that the first, whose lock is held, is written once.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from confined_qemu.host import locks, lsm
from confined_qemu.model import paths
from confined_qemu.model.errors import JournalError, ValueProblem, printable, why
from confined_qemu.model.frozen import dataclass, replace
from confined_qemu.model.record import decode, decode_grants, encode, encode_grants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confined_qemu.model.context import Context
    from confined_qemu.model.record import Grant, Record

SUFFIX = ".vm.json"
_LIVE_SUFFIX = ".vm.live"
_GRANTS_SUFFIX = ".vm.allowed"
_TREE_SUFFIX = ".vm.tree"
_PRIVATE_FOLDER = 0o700
_Value = TypeVar("_Value")


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


def state_folder() -> str:
    """Return the host's state folder, or the user's own where `policy install` has not made it."""
    if os.path.isdir(paths.STATE):
        return paths.STATE
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local/state")
    return os.path.join(base, "confined-qemu")


def user_folder(uid: int) -> str:
    """Return the folder of the user's journals, made when it is missing.

    Raises:
        JournalError: it cannot be made, or it is not the user's alone.
    """
    path = os.path.join(state_folder(), str(uid))
    try:
        os.makedirs(path, mode=_PRIVATE_FOLDER, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise JournalError(f"the journal's folder cannot be made: {why(error)}", where=path) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
        raise JournalError(
            f"the journal's folder is not yours alone (uid {found.st_uid}, mode {found.st_mode & 0o7777:04o})",
            where=path,
            hint=f"remove it: rm -r {path}",
        )
    return path


def all_folders() -> list[str]:
    """Return every user's folder, for root's `recover`."""
    state = state_folder()
    if not os.path.isdir(state):
        return []
    return [os.path.join(state, name) for name in sorted(os.listdir(state)) if name.isdecimal()]


def readable_folders() -> list[str]:
    """Return the folders that this user may read: root every user's, others their own."""
    return all_folders() if os.geteuid() == 0 else [user_folder(os.geteuid())]


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold the folder's lock: labels are read, planned, journalled and changed by one launcher at a time."""
    path = os.path.join(folder, "lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise JournalError(f"cannot be opened: {why(error)}", where=path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(folder: str, record: Record) -> tuple[str, int]:
    """Put `record` on disk, synced, and return its path and a descriptor that holds its lock.

    Raises:
        JournalError: it cannot be written whole; nothing may be labelled then.
    """
    path = os.path.join(folder, f"{record.pid}.{record.start_ticks}{SUFFIX}")
    try:
        return path, _write(path, encode(record))
    except JournalError:
        _unlink(path)  # in its place already, where its folder could not be synced
        raise


def write_grants(path: str, grants: tuple[Grant, ...]) -> None:
    """Put what the VM whose journal is at `path` was given later on disk, synced; the caller holds the folder's lock.

    Raises:
        JournalError: it cannot be written whole; what was there before still is.
    """
    file = _grants_path(path)
    if grants:
        os.close(_write(file, encode_grants(grants)))
    else:
        _unlink(file)
        _sync_folder(os.path.dirname(file))


def _write(path: str, value: dict[str, Any]) -> int:
    """Put a JSON object on disk, synced, and return a descriptor that holds the file's lock."""
    folder, temporary = os.path.dirname(path), f"{path}.new"
    text = json.dumps(value, indent=1) + "\n"
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            data = text.encode("ascii")
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
            os.rename(temporary, path)
            _sync_folder(folder)
        except OSError:
            os.close(descriptor)
            _unlink(temporary)
            raise
    except OSError as error:
        raise JournalError(f"cannot be written: {why(error)}", where=path, hint="nothing was labelled") from error
    return descriptor


def read(path: str) -> Record | None:
    """Return the record in `path` with the VM's grants, None when it is gone.

    Raises:
        JournalError: it cannot be read or understood.
    """
    record = _read(path, decode)
    if record is None:
        return None
    return replace(record, grants=_read(_grants_path(path), decode_grants) or ())


def _read(path: str, of_json: Callable[[Any], _Value]) -> _Value | None:
    try:
        # root reads the folders of others: a link there must not lead it elsewhere, nor a pipe hold it up
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="ascii") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("no regular file")  # noqa: TRY301 - told as every other thing that is none
            return of_json(json.load(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"cannot be read: {why(error)}", where=path) from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, ValueProblem) as error:
        raise JournalError(
            f"is no journal: {printable(str(error))}",
            where=path,
            hint="check the labels of your images and remove it",
        ) from error


def entries(folder: str) -> list[Entry]:
    """Return the VMs that the folder's journals name, live and dead.

    Raises:
        JournalError: the folder or a record cannot be read.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))
    except OSError as error:
        raise JournalError(f"cannot be read: {why(error)}", where=folder) from error
    found = []
    for name in names:
        path = os.path.join(folder, name)
        record = read(path)
        if record is not None:
            found.append(Entry(path, record))
    return found


def take(path: str, *, wait: bool) -> int | None:
    """Lock a journal and return the descriptor; None when it is gone, or (without `wait`) another holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"cannot be opened: {why(error)}", where=path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def live_path(path: str) -> str:
    """Return the live file of the VM whose journal is at `path`."""
    return path.removesuffix(SUFFIX) + _LIVE_SUFFIX


def _grants_path(path: str) -> str:
    return path.removesuffix(SUFFIX) + _GRANTS_SUFFIX


def notes_path(path: str, tree: int) -> str:
    """Return the file of the labels that a tree of the VM had (`labelling.notes`), whose journal is at `path`."""
    return f"{path.removesuffix(SUFFIX)}{_TREE_SUFFIX}{tree}"


def hold(path: str, context: Context) -> Hold:
    """Make the VM's live file, labelled `context` so that the VM may inherit it, and lock it.

    The lock belongs to the open file: QEMU inherits it, and so does what `-daemonize` leaves behind.

    Raises:
        JournalError: it cannot be made or locked.
    """
    live = live_path(path)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with lsm.creating(context):
            held = os.open(live, flags | os.O_CREAT | os.O_EXCL, 0o600)
        watched = os.open(live, flags)
        if not locks.take(held, locks.EXCLUSIVE):
            raise JournalError("a new file is locked by another", where=live)
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
        descriptor = os.open(live, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
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
    _unlink(live_path(path))
    _unlink(_grants_path(path))
    folder, name = os.path.split(path)
    prefix = name.removesuffix(SUFFIX) + _TREE_SUFFIX
    for notes in (found for found in os.listdir(folder) if found.startswith(prefix)):
        _unlink(os.path.join(folder, notes))
    _unlink(path)
    _sync_folder(os.path.dirname(path))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
