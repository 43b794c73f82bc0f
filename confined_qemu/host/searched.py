"""What only this host can tell of a command line: which of several names QEMU, or a library of it, opens.

Those of firmware are `system/datadir.c`'s (`-L`). Other names may begin with `$NAME`, a variable of the environment.
"""

from __future__ import annotations

import os

from confined_qemu.model import hostpaths
from confined_qemu.model.errors import HostError, why
from confined_qemu.model.labelrules import Place
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.resource import Access, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.resource import Resource

_BY_THEMSELVES = (
    *("bios*.bin", "efi-*.rom", "kvmvapic.bin", "linuxboot*.bin", "multiboot*.bin", "pvh.bin", "pxe-*.rom"),
    *("qboot.rom", "sgabios.bin", "vapic.bin", "vgabios*.bin", "keymaps/*"),
)
"""What QEMU for x86 loads from its data folders without being told to (`pc-bios`)."""
_MOST = 4096
"""Entries of a folder that are looked at."""


def found(invocation: Invocation) -> Invocation:
    """Return the invocation with the files that QEMU will find, in the place of the names that it looks for.

    The folders of `-L` that are no part of the system give their firmware too, which QEMU takes before its own.

    Raises:
        HostError: such a folder cannot be read.
    """
    resources: list[Resource] = []
    for named in invocation.resources:
        if (resource := settled(named)) is None:
            continue
        resources.append(resource)
        if resource.role is Role.FIRMWARE and resource.access is Access.DIRECTORY:
            resources += _firmware(resource)
    return replace(invocation, resources=tuple(dict.fromkeys(resources)))


def settled(resource: Resource) -> Resource | None:
    """Return the resource by the first of its names that is there, the first of all where none is.

    None where all its names begin with variables that are not set.
    """
    if not resource.otherwise:
        return resource
    names = [resource.path, *resource.otherwise]
    if resource.role not in {Role.FIRMWARE, Role.OPTION_ROM}:  # those names are a person's own
        names = [expanded for name in names for expanded in _expanded(name)]
    if not names:
        return None
    there = next((name for name in names if os.path.exists(name)), names[0])
    if there == resource.path:
        return replace(resource, otherwise=())
    found = hostpaths.resource(there, resource.role, resource.access, resource.source, format=resource.format)
    return resource if found is None else replace(resource, path=there, otherwise=(), sharing=found.sharing)


def _expanded(name: str) -> list[str]:
    """Return the paths that a name stands for: `$NAME/…` in each folder of the variable, `$NAME` that is a path."""
    if not name.startswith("$"):
        return [name]
    variable, _, rest = name[1:].partition("/")
    value = os.environ.get(variable, "")
    folders = value.split(os.pathsep) if variable == "PATH" else [value.removeprefix("unix:")]
    return [os.path.join(folder, rest) if rest else folder for folder in folders if folder.startswith("/")]


def _firmware(folder: Resource) -> Iterator[Resource]:
    if hostpaths.place(os.path.realpath(folder.path)) is Place.SYSTEM:
        return
    import fnmatch

    for name in sorted(_names(folder.path)):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in _BY_THEMSELVES):
            path = os.path.join(folder.path, name)
            one = hostpaths.resource(path, Role.FIRMWARE, Access.READ, folder.source, optional=True)
            if one is not None and os.path.isfile(path):
                yield one


def _names(folder: str) -> Iterator[str]:
    for inner in ("", "keymaps"):
        path = os.path.join(folder, inner)
        try:
            with os.scandir(path) as entries:
                for number, entry in enumerate(entries):
                    if number >= _MOST:
                        hint = "give the firmware a folder of its own"
                        raise HostError(f"more than {_MOST} files in a folder of firmware", where=path, hint=hint)
                    yield os.path.join(inner, entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise HostError(f"cannot be searched for firmware as QEMU does: {why(error)}", where=path) from error


def with_window(invocation: Invocation) -> Invocation:
    """Return the invocation with its window as this environment has it: none where no X server is used for it."""
    driver = os.environ.get("SDL_VIDEODRIVER", "x11") if invocation.window == "sdl" else os.environ.get("GDK_BACKEND")
    wayland = driver == "wayland" or (driver is None and bool(os.environ.get("WAYLAND_DISPLAY")))
    if wayland or not os.environ.get("DISPLAY"):
        return replace(invocation, window=None)
    key = os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority")
    there = os.path.isabs(key) and os.path.exists(key)
    return replace(invocation, x_key=os.path.realpath(key) if there else None)
