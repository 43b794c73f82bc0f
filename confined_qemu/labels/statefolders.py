"""The folders of the journals: one for each user, in one that all may write to, so none is trusted by its name.

A folder is opened without following a link, looked at through its descriptor, and worked in below that: it must belong
to the user whose number it carries, and nobody else may write to it. A process works in the folder of its own user and
in no other; whoever follows another user's becomes that user first (`strangers`).
"""

from __future__ import annotations

import errno
import os
import stat

from confined_qemu.model import paths
from confined_qemu.model.errors import JournalError, shell_word, why
from confined_qemu.model.lean import TYPE_CHECKING, contextmanager, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_NAMES = 1 << 16
"""Names in a folder that are looked at."""
_SUFFIX = 16
"""Hexadecimal digits that follow the user's number where somebody else took the plain name first."""
_DIGITS = 10
"""Of a user's number at most."""
_PRIVATE = 0o700
_OTHERS_WRITE = 0o022
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A folder that was looked at; it may be renamed meanwhile, and what is done below the descriptor stays in it."""

    path: str
    descriptor: int

    def at(self, name: str) -> str:
        """Return the path by which the kernel finds `name` in this very folder."""
        return f"/proc/self/fd/{self.descriptor}/{name}"

    def shown(self, name: str) -> str:
        """Return the path of `name` as a person knows it."""
        return os.path.join(self.path, name)

    def names(self) -> list[str]:
        """Return what lies in it, sorted; of a crowd the first `MOST_NAMES` that the kernel tells.

        Raises:
            OSError: it cannot be read.
        """
        found = []
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) >= MOST_NAMES:
                    break
        return sorted(found)

    def unlink(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            os.unlink(self.at(name))
        except FileNotFoundError:
            return

    def sync(self) -> None:
        """Put the folder's names on disk."""
        os.fsync(self.descriptor)


@contextmanager
def opened(path: str, *, reading: bool = False) -> Iterator[StateFolder]:
    """Open a user's folder; `reading`: root only reads it, and gives nothing that it says any weight.

    Raises:
        JournalError: it is a link or no folder, belongs to somebody else, or others may write to it.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise JournalError(f"cannot be opened: {_reason(error)}", where=path) from error
    try:
        _require_own(path, os.fstat(descriptor), reading=reading)
        yield StateFolder(path, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def around(path: str, *, reading: bool = False) -> Iterator[tuple[StateFolder, str]]:
    """Open the folder that a file lies in; yield it with the file's name.

    Raises:
        JournalError: as `opened`.
    """
    folder, name = os.path.split(path)
    with opened(folder, reading=reading) as found:
        yield found, name


def _reason(error: OSError) -> str:
    return "not a folder" if error.errno in (errno.ENOTDIR, errno.ELOOP) else why(error)


def _require_own(path: str, found: os.stat_result, *, reading: bool) -> None:
    uid, me = owner_of(path), os.geteuid()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & _OTHERS_WRITE:
        whose = "not yours alone" if uid == me else f"not the folder of uid {uid} alone"
        raise JournalError(
            f"the journal's folder is {whose} (uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})",
            where=path,
            hint=f"look into it, then run: rm -r {shell_word(path)}",
        )
    if uid != me and not (reading and me == 0):
        raise JournalError(f"the folder of uid {uid} is not for uid {me}", where=path)


# ---- whose


def state_folder() -> str:
    """Return the host's state folder, or the user's own where `policy install` has not made it."""
    if os.path.isdir(paths.STATE):
        return paths.STATE
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local/state")
    return os.path.join(base, "confined-qemu")


def owner_of(path: str) -> int:
    """Return the user whose folder it is by its name; a folder that carries no number is one's own."""
    uid = _user_in(os.path.basename(path))
    return uid if uid is not None else os.geteuid()


def _user_in(name: str) -> int | None:
    """Return the user whose folder has this name (`1000`, `1000.0123456789abcdef`), None where it is nobody's."""
    number, dot, suffix = name.partition(".")
    if not (number.isascii() and number.isdecimal()) or len(number) > _DIGITS or str(int(number)) != number:
        return None
    if dot and (len(suffix) != _SUFFIX or suffix.strip("0123456789abcdef")):
        return None
    return int(number)


def folder_of(path: str) -> str:
    """Return the user's folder that a path names, or that lies in it."""
    folder = os.path.dirname(path)
    lies_in_one = _user_in(os.path.basename(folder)) is not None and _user_in(os.path.basename(path)) is None
    return folder if lies_in_one else path


def is_own(path: str) -> bool:
    """Tell whether it is the folder of this process's user by its name."""
    return owner_of(path) == os.geteuid()


def user_folder(uid: int) -> str:
    """Return the folder of the user's journals, made when it is missing.

    Somebody else may have taken the name, as all may write to the state folder: then the user's has a suffix that
    nobody could foresee.

    Raises:
        JournalError: it cannot be made, or it is not the user's alone.
    """
    state = state_folder()
    path = os.path.join(state, str(uid))
    try:
        os.makedirs(state, mode=_PRIVATE, exist_ok=True)
        _require_sound(state, uid)
        _make(path)
        if os.lstat(path).st_uid != uid:
            found = _elsewhere(state, uid)
            if not found:
                _make(f"{path}.{os.urandom(8).hex()}")
                found = _elsewhere(state, uid)
            path = found[0] if found else path
    except OSError as error:
        raise JournalError(f"the journal's folder cannot be made: {why(error)}", where=path) from error
    with opened(path):
        return path


def _make(path: str) -> None:
    try:
        os.mkdir(path, _PRIVATE)
    except FileExistsError:
        return


def _require_sound(state: str, uid: int) -> None:
    """Refuse a folder in which others could put another in the place of the user's."""
    found = os.stat(state)
    if found.st_uid not in (0, uid) or (found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX):
        raise JournalError(
            f"others may replace folders in it (uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})",
            where=state,
            hint="run as root: confined-qemu policy install",
        )


def _elsewhere(state: str, uid: int) -> list[str]:
    """Return the user's folders with a suffix, the one that all launches use first."""
    return [
        path for path in _named(state) if owner_of(path) == uid and "." in os.path.basename(path) and _is(path, uid)
    ]


def _is(path: str, uid: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid


def all_folders() -> list[str]:
    """Return the names of every user's folders, in the order of their numbers; what they are shows when one is opened.

    Raises:
        JournalError: the state folder cannot be read.
    """
    return _named(state_folder())


def readable_folders() -> list[str]:
    """Return the folders that this user may read: root every user's, others those of their own that are there."""
    uid = os.geteuid()
    folders = all_folders()
    return folders if uid == 0 else [path for path in folders if owner_of(path) == uid and _is(path, uid)]


def _named(state: str) -> list[str]:
    try:
        names = os.listdir(state)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise JournalError(f"cannot be read: {why(error)}", where=state) from error
    return [
        os.path.join(state, name) for name in sorted((name for name in names if _user_in(name) is not None), key=_order)
    ]


def _order(name: str) -> tuple[int, str]:
    number, _, suffix = name.partition(".")
    return int(number), suffix
