"""/proc/PID/mountinfo (proc(5)): its text and a mount's number in, that mount out. Pure."""

from __future__ import annotations

import re

from confined_qemu.model.facts import Mount

_ESCAPED = re.compile(r"\\([0-7]{3})")
_OPTION = re.compile(r'(?:[^,"]|"[^"]*")+')
"""A context with categories holds commas, and the kernel puts it in quotes."""
_FIRST_OPTIONAL = 6
"""Fields before the optional ones: number, parent, device, root, target, options; ` - ` ends the optional ones."""
_SHOWN_ELSEWHERE = frozenset({"nfs", "nfs4", "cifs", "smb3"})
"""File systems whose source names the very folder that is mounted, whatever the kernel calls its root."""


def find(text: str, number: int) -> Mount | None:
    """Return mount `number` of `text`; None where it is not there (unmounted since, or outside of the root)."""
    start = f"{number} "
    for line in text.split("\n"):
        if line.startswith(start):
            return _mount(line)
    return None


def _mount(line: str) -> Mount | None:
    fields = line.split(" ")
    try:
        end = fields.index("-", _FIRST_OPTIONAL)
        _, _, _, root, target, options = fields[:_FIRST_OPTIONAL]
        kind, source, own = fields[end + 1 : end + 4]
    except ValueError:
        return None  # not a line of a kernel that has this file
    of_super = _options(own)
    context = next((option for option in of_super if option.startswith("context=")), None)
    return Mount(
        type=_plain(kind),
        target=_plain(target),
        source=_plain(source),
        labels="seclabel" in of_super,
        read_only="ro" in of_super or "ro" in _options(options),
        whole=root == "/" or kind in _SHOWN_ELSEWHERE,
        context=None if context is None else _plain(context.removeprefix("context=").strip('"')),
    )


def _options(text: str) -> frozenset[str]:
    return frozenset(_OPTION.findall(text))


def _plain(text: str) -> str:
    """Return a field as it was before the kernel wrote blanks, newlines and backslashes as octal numbers."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
