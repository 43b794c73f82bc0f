"""Looks at helpers' programs and into the folders that they serve; changes nothing."""

from __future__ import annotations

import errno
import os
import stat
from functools import cache

from confined_qemu.host import inodes, lsm, mounts, survey, walk
from confined_qemu.model.errors import HostError, why
from confined_qemu.model.facts import FileFacts, FileKind, FolderFacts, believed
from confined_qemu.model.helper import PROGRAMS
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace, suppress
from confined_qemu.plan import helpers, trees

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Holder, Identity, SelinuxFacts
    from confined_qemu.model.helper import HelperKind
    from confined_qemu.model.invocation import Invocation

    _Held = Mapping[tuple[int, int], tuple[Holder, ...]]
    """By device and inode."""

_MOST_STATE = 32
"""Files in the folder of a TPM's state: swtpm makes four."""
_MOST = 2000
"""Entries of a share that are looked at where it keeps its labels."""


def programs(invocation: Invocation, selinux: SelinuxFacts) -> dict[HelperKind, FileFacts]:
    """Return the first installed program of each helper of the VM, or its first place where none is."""
    found = {}
    for kind in {helper.kind for helper in invocation.helpers}:
        places = PROGRAMS[kind].paths
        path = next((place for place in places if os.access(place, os.X_OK)), places[0])
        found[kind] = survey.file(path, selinux)
    return found


def folders(
    invocation: Invocation, selinux: SelinuxFacts, holders: Mapping[Identity, tuple[Holder, ...]]
) -> dict[str, FolderFacts]:
    """Return each folder with what lies in it, by the path as it was given; `holders` are who uses which file."""
    wanted = helpers.folders(invocation)
    held = {(identity.device, identity.inode): users for identity, users in holders.items()}
    table = mounts.Mounts()
    return {path: _folder(survey.file(path, selinux, table), selinux, use, held) for path, use in wanted.items()}


def _folder(folder: FileFacts, selinux: SelinuxFacts, use: helpers.FolderUse, held: _Held) -> FolderFacts:
    if folder.kind is not FileKind.DIRECTORY:
        return FolderFacts(folder)
    if use is not helpers.FolderUse.STATE:
        try:
            found = _share(folder, selinux, held, labelled=use is helpers.FolderUse.LABELLED_SHARE)
            return replace(found, runs_setuid=_runs_setuid(folder.real))
        except (HostError, OSError) as error:
            words = why(error) if isinstance(error, OSError) else error.what
            return FolderFacts(folder, problem=f"cannot be read: {words}")
    try:
        return FolderFacts(folder, _state(folder.real, selinux))
    except PermissionError:
        return FolderFacts(folder, problem="the launcher may not read this folder")
    except OSError as error:
        return FolderFacts(folder, problem=f"cannot be read: {why(error)}")


def _runs_setuid(path: str) -> bool:
    """Tell whether any user of the host could start a setuid program that lies in a folder."""
    with suppress(PermissionError):  # not every domain may ask a file system; who cannot tell takes the worse for true
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            return False
    while os.stat(path).st_mode & stat.S_IXOTH:
        if path == "/":
            return True
        path = os.path.dirname(path)
    return False


def _state(path: str, selinux: SelinuxFacts) -> tuple[FileFacts, ...]:
    names = sorted(os.listdir(path))[:_MOST_STATE]
    return tuple(survey.entry(os.path.join(path, name), selinux) for name in names)


# ---- shares


@dataclass
class _Seen:
    """What was found of each sort so far: the first of it, and how many."""

    own: Context | None
    first: dict[tuple[object, ...], FileFacts] = field(default_factory=dict)
    counts: dict[tuple[object, ...], int] = field(default_factory=dict)
    closed: str | None = None

    def note(self, key: tuple[object, ...], entry: walk.TreeEntry, found: Context | None) -> None:
        """Count an entry."""
        if key not in self.first:
            # its path is for messages
            facts = FileFacts(entry.shown, entry.shown, inodes.kind_of(entry.found.st_mode), label=found)
            where = inodes.identity_of(entry.descriptor)
            owner, links = entry.found.st_uid, entry.found.st_nlink
            self.first[key] = replace(facts, identity=where, links=links, owner=owner)
        self.counts[key] = self.counts.get(key, 0) + 1

    def unread(self, shown: str, error: OSError) -> None:
        """Note what could not be looked into; what went away meanwhile is nothing."""
        if error.errno != errno.ENOENT and self.closed is None:
            self.closed = f"{shown}: {error.strerror if error.errno == errno.ENAMETOOLONG else why(error)}"


def _share(folder: FileFacts, selinux: SelinuxFacts, held: _Held, *, labelled: bool) -> FolderFacts:
    if labelled and trees.never(folder.real) is not None:
        return FolderFacts(folder)  # its name is enough: nobody waits until all of /usr is counted
    seen = _Seen(selinux.own)
    most = walk.MOST if labelled else _MOST
    left = most
    top = os.open(folder.real, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # asked first, so that looking about leaves no denial in the log
        if not labelled and not _readable(selinux.own, folder.label):
            return FolderFacts(folder, closed=folder.real)
        for entry in walk.below(top, folder.real, seen.unread, lambda e: labelled or _enter(selinux.own, e)):
            left -= 1
            if left < 0:
                break
            found = lsm.context_of(entry.proc) if folder.label is not None else None
            kind = inodes.kind_of(entry.found.st_mode)
            linked = entry.found.st_nlink > 1 and kind is not FileKind.DIRECTORY
            where = (entry.found.st_dev, entry.found.st_ino)
            owner = entry.found.st_uid if labelled else None
            seen.note(
                (kind, found, linked, owner, where if believed(held.get(where, ()), found) else None), entry, found
            )
        return FolderFacts(
            folder,
            tuple(seen.first.values()),
            counts=tuple(seen.counts.values()),
            more=left < 0,
            closed=seen.closed,
            mount=labelled and _is_mount(top, folder.real),
            homes=_homes(folder.real) if labelled else (),
            above=_above(folder.real) if labelled else (),
        )
    finally:
        os.close(top)


def _enter(own: Context | None, entry: walk.TreeEntry) -> bool:
    return _readable(own, lsm.context_of(entry.proc) if own is not None else None)


@cache
def _readable(own: Context | None, folder: Context | None) -> bool:
    """Tell whether SELinux lets the launcher look into a folder with this label."""
    return own is None or folder is None or not lsm.denied(own, folder, "dir", ("open", "read", "search"))


def _is_mount(top: int, path: str) -> bool:
    if path == "/":
        return True
    parent = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mounts.number_of(parent) != mounts.number_of(top)
    finally:
        os.close(parent)


def _homes(path: str) -> tuple[str, ...]:
    """Return the homes of the host's users (passwd(5)), and the caller's own, that are `path` or lie in it."""
    inside = f"{path.rstrip('/')}/"
    homes = [os.environ.get("HOME", "")]
    with suppress(FileNotFoundError), open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
        homes += [line.split(":")[5] for line in file if line.count(":") >= 6]  # noqa: PLR2004 - passwd(5)'s fields
    real = {os.path.realpath(home) for home in homes if home.startswith("/") and home.rstrip("/")}
    return tuple(sorted(home for home in real if f"{home}/".startswith(inside)))


def _above(path: str) -> tuple[Identity, ...]:
    found = []
    while path != "/":
        path = os.path.dirname(path)
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found.append(inodes.identity_of(descriptor))
        finally:
            os.close(descriptor)
    return tuple(found)
