"""Looks at helpers' programs and into the folders that they serve; changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from confined_qemu.errors import why
from confined_qemu.facts import FileFacts, FileKind, FolderFacts
from confined_qemu.helper import PROGRAMS
from confined_qemu.host import survey
from confined_qemu.plan import helperplan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confined_qemu.facts import SelinuxFacts
    from confined_qemu.helper import HelperKind
    from confined_qemu.invocation import Invocation

_MOST_STATE = 32
"""Files in the folder of a TPM's state: swtpm makes four."""
_MOST = 2000
"""Entries of a share that are looked at, and the folders of one path."""


def programs(invocation: Invocation, selinux: SelinuxFacts) -> dict[HelperKind, FileFacts]:
    """Return the first installed program of each helper of the VM, or its first place where none is."""
    found = {}
    for kind in {helper.kind for helper in invocation.helpers}:
        places = PROGRAMS[kind].paths
        path = next((place for place in places if os.access(place, os.X_OK)), places[0])
        found[kind] = survey.file(path, selinux)
    return found


def folders(invocation: Invocation, selinux: SelinuxFacts) -> dict[str, FolderFacts]:
    """Return each folder with what lies in it, by the path as it was given."""
    return {path: _folder(path, selinux, state) for path, state in helperplan.folders(invocation).items()}


def _folder(path: str, selinux: SelinuxFacts, state: bool) -> FolderFacts:
    folder = survey.file(path, selinux)
    if folder.kind is not FileKind.DIRECTORY:
        return FolderFacts(folder)
    try:
        entries = _state(folder.real, selinux) if state else _samples(folder.real, selinux)
    except PermissionError:
        # the launcher's domain looks into few folders; then the folder's own label is all that is known
        return FolderFacts(folder, problem="the launcher may not look into it" if state else None)
    except OSError as error:
        return FolderFacts(folder, problem=f"cannot be looked into: {why(error)}")
    return FolderFacts(folder, entries)


def _state(path: str, selinux: SelinuxFacts) -> tuple[FileFacts, ...]:
    names = sorted(os.listdir(path))[:_MOST_STATE]
    return tuple(survey.entry(os.path.join(path, name), selinux) for name in names)


def _samples(path: str, selinux: SelinuxFacts) -> tuple[FileFacts, ...]:
    """Return the first entry of each kind and label; links are looked at, not followed."""
    found: dict[tuple[str, str], FileFacts] = {}
    for entry in _entries(path):
        facts = survey.entry(entry, selinux)
        found.setdefault((facts.kind, str(facts.label)), facts)
    return tuple(found.values())


def _entries(top: str) -> Iterator[str]:
    """Yield the first paths below `top`, nearest first, on its own file system."""
    device = os.stat(top).st_dev
    waiting, left = [top], _MOST
    while waiting and left > 0:
        folder = waiting.pop(0)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    left -= 1
                    if left < 0:
                        return
                    yield entry.path
                    if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                        waiting.append(entry.path)
        except OSError:
            if folder == top:
                raise
