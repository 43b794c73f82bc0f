"""Finds the launcher's settings files, and reads those that only their owner can have written. Light without one.

Who writes one decides what confines a VM, so a file counts only if nobody but root (and, for a user's own, that user)
may write it; any other is refused, never passed over in silence. What counts is the file that a link leads to.
"""

from __future__ import annotations

import errno
import os
import stat

from confined_qemu.model import paths
from confined_qemu.model.errors import HostError, shell_word, why

TYPE_CHECKING = False  # as typing's own
if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.read.settings import Settings

_LARGEST = 1 << 16
"""Bytes; a handful of keys."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def candidates(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return where settings may lie, the system's first.

    The user's are in XDG_CONFIG_HOME, else in `.config` of the home; a relative folder is none (XDG Base Directory
    Specification).
    """
    folder = environment.get("XDG_CONFIG_HOME", "")
    if not folder.startswith("/"):
        home = environment.get("HOME", "")
        if not home.startswith("/"):
            return (paths.SETTINGS,)
        folder = os.path.join(home, ".config")
    return (paths.SETTINGS, os.path.join(folder, os.path.basename(paths.SETTINGS)))


def load(environment: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings of all files and of the environment, and the files that they came from.

    Raises:
        HostError: a file cannot be read, or others may write it.
        SpecError: a file is wrong; every problem with its place.
        UsageError: a variable has a value that it cannot have.
    """
    from confined_qemu.read.settings import Settings, from_environment, from_file

    found, used = Settings(), []
    for path in candidates(environment):
        text = _text(path, frozenset({0}) if path == paths.SETTINGS else frozenset({0, os.geteuid()}))
        if text is not None:
            found = from_file(text, path, found)
            used.append(path)
    return from_environment(environment, found), tuple(used)


def _text(path: str, owners: frozenset[int]) -> str | None:
    """Return a file's text, None where there is none.

    Raises:
        HostError: it cannot be read, or is not its owner's alone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if _is_nobodys(path, error):
            return None
        raise HostError(
            f"these settings cannot be read: {why(error)}", where=path, hint=f"see: ls -lZ {shell_word(path)}"
        ) from error
    try:
        _require_owned(path, os.fstat(descriptor), owners)
        return os.read(descriptor, _LARGEST).decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)


def _is_nobodys(path: str, error: OSError) -> bool:
    """Tell whether there is no file of this user's at `path`, going by why it could not be opened."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return not os.path.islink(path)
    # a service keeps root's HOME: what its own user may not look into holds no settings of that user's
    return error.errno == errno.EACCES and path != paths.SETTINGS and _owner_of_nearest(path) != os.geteuid()


def _owner_of_nearest(path: str) -> int:
    """Return who owns the nearest folder above `path` that can be looked at."""
    while path != "/":
        path = os.path.dirname(path)
        try:
            return os.stat(path).st_uid
        except OSError:
            continue
    return 0


def _require_owned(path: str, found: os.stat_result, owners: frozenset[int]) -> None:
    word = shell_word(path)
    if not stat.S_ISREG(found.st_mode):
        raise HostError("these settings are not a regular file", where=path, hint=f"run: rm {word}")
    if found.st_size > _LARGEST:
        raise HostError(f"settings of more than {_LARGEST} bytes are not read", where=path)
    if found.st_uid not in owners:
        raise HostError(
            f"these settings belong to uid {found.st_uid}, which may not configure uid {os.geteuid()}",
            where=path,
            hint=f"run: chown {max(owners & {0, os.geteuid()})} {word}, or set HOME to a home of your own",
        )
    if found.st_mode & _OTHERS_WRITE:
        raise HostError("others may write these settings", where=path, hint=f"run: chmod go-w {word}")
