"""Which folder may become a place for images (`confined-qemu policy adopt`), as far as its name tells. Pure."""

from __future__ import annotations

import posixpath

from confined_qemu.model import hostpaths
from confined_qemu.model.errors import shell_word

GENERIC = frozenset({"default_t", "root_t", "etc_runtime_t", "var_t", "mnt_t", "usr_t", "unlabeled_t", "file_t"})
"""What the policies call a file that nobody meant: in `/builds`, `/srv` or `/var`, `/mnt`, `/opt`, without a label.

A folder that somebody makes in `/` is root_t at first, and what somebody makes in it is etc_runtime_t.
"""
EXAMPLE = "/srv/vms"
"""A folder that can be adopted on every host."""
_TREES = (
    *hostpaths.SYSTEM_TREES,
    *("/tmp", "/var/lock", "/var/run", "/var/tmp"),  # noqa: S108 - named, never written
)
"""What belongs to the system, with all that is in it."""
_HOMES = "/home/"
_LITERAL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/_-")
_BACKSLASHED = frozenset(".^$?*+|[({")


def problem(folder: str) -> str | None:
    """Return why `folder`, an absolute path without links, may not be adopted, None where its name speaks for it."""
    if not folder.isprintable():
        return "its name has a newline or another character that no file context can hold"
    if any(folder == tree or folder.startswith(f"{tree}/") for tree in _TREES):
        return "it is a part of the system"
    if folder in hostpaths.CROWDED:
        return "it is a folder of many things; adopt one in it"
    if folder.startswith(_HOMES) and "/" not in folder.removeprefix(_HOMES):
        return "it is a user's home; images there are used as they are"
    if any(tree.startswith(f"{folder}/") for tree in _TREES):
        return "a part of the system lies in it"
    return None


def pattern(folder: str) -> str:
    r"""Return the file context's regular expression for `folder` and all that is in it.

    libselinux reads a file of these line by line, takes blanks for separators, refuses what is not ASCII, and looks
    for characters of expressions to find out how much of the start is plain text (libselinux's label_file.h:
    `get_stem_from_spec`), not knowing `\x20`; inside brackets it leaves that alone, and PCRE reads both.
    """
    return "".join(_escaped(byte) for byte in folder.encode("utf-8", "surrogateescape")) + "(/.*)?"


def _escaped(byte: int) -> str:
    character = chr(byte)
    if character in _LITERAL:
        return character
    return f"\\{character}" if character in _BACKSLASHED else f"[\\x{byte:02x}]"


def mend(path: str, type_name: str) -> str:
    """Return how a file of a type that the launcher may not relabel becomes an image: adopt its folder, or move it."""
    folder = posixpath.dirname(path)
    if type_name in GENERIC and problem(folder) is None:
        return f"run: {_adopt(folder)}"
    return f"copy it to a folder of its own, for example {EXAMPLE}, and run: {_adopt(EXAMPLE)}"


def _adopt(folder: str) -> str:
    return f"confined-qemu policy adopt {shell_word(folder)}"
