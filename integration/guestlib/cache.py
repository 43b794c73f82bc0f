"""The cache folder: entries keyed by what went into them, made once, whole or not at all."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator

from integration.guestlib.report import GuestError, progress

KEY_LENGTH = 16


def folder() -> str:
    """Return the cache folder, made if missing."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.abspath(os.environ.get("CONFINED_QEMU_CACHE") or os.path.join(base, "confined-qemu"))
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise GuestError(f"cannot make the cache folder {path}: {error.strerror}; set CONFINED_QEMU_CACHE") from error
    return path


def subfolder(*names: str, mode: int = 0o755) -> str:
    """Return a folder inside the cache folder, made if missing."""
    path = os.path.join(folder(), *names)
    os.makedirs(path, mode=mode, exist_ok=True)
    return path


def digest(*parts: str | bytes) -> str:
    """Return the key of an entry made from `parts`; no two lists of parts share one."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(b"%d:" % len(data) + data)
    return state.hexdigest()[:KEY_LENGTH]


def digest_files(*paths: str) -> str:
    """Return a key over files and whole folders: names, executable bits and contents, not times."""
    parts: list[str | bytes] = []
    for path in paths:
        for name in _files_of(path):
            with open(name, "rb") as file:
                parts += [os.path.relpath(name, os.path.dirname(path)), str(os.access(name, os.X_OK)), file.read()]
    return digest(*parts)


def _files_of(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    found: list[str] = []
    for parent, names, files in os.walk(path):
        names[:] = [name for name in names if name != "__pycache__"]
        found += [os.path.join(parent, name) for name in files if not name.endswith(".pyc")]
    return sorted(found)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name`; waits, and says so, while another command holds it.

    The kernel drops the lock with the process, so a killed command blocks nobody.
    """
    path = os.path.join(subfolder("locks"), name)
    with open(path, "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another command that holds the lock {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entry(kind: str, key: str, build: Callable[[str], None], *, keep_old: bool = False, young: int = 0) -> str:
    """Return the path of the entry `kind`-`key`; `build` makes it at the path it is given.

    It is built under another name and renamed when whole. What a killed build left is removed by the next one.
    Older entries of the same kind go when a new one is there, unless `keep_old`, or for `young` seconds: another
    checkout may be about to use one.
    """
    path = os.path.join(folder(), f"{kind}-{key}")
    if os.path.lexists(path):
        return path
    with locked(kind):
        if os.path.lexists(path):
            return path
        for name in _entries(kind):
            if name.endswith(".new"):
                remove(os.path.join(folder(), name))
        unfinished = path + ".new"
        try:
            build(unfinished)
            os.rename(unfinished, path)
        except OSError as error:
            raise GuestError(f"cannot build {path}: {error}") from error
        finally:
            remove(unfinished)
        if not keep_old:
            for name in _entries(kind):
                other = os.path.join(folder(), name)
                if name != os.path.basename(path) and _age(other) >= young:
                    remove(other)
    return path


def _age(path: str) -> float:
    """Return the seconds since an entry was made."""
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0  # another command removed it


def _entries(kind: str) -> list[str]:
    """Return the names of all entries of a kind, finished or not."""

    def is_key(text: str) -> bool:
        return len(text) == KEY_LENGTH and all(letter in "0123456789abcdef" for letter in text)

    return [
        name
        for name in os.listdir(folder())
        if name.startswith(kind + "-") and is_key(name.removeprefix(kind + "-").removesuffix(".new"))
    ]


def remove(path: str) -> None:
    """Remove a file or a whole tree, or nothing where nothing is."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
