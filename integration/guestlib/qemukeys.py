"""What a QEMU's own sources say that an option may name: a table to hold the reader of command lines against.

`python3 -m integration.guestlib.qemukeys FOLDER` prints it, for the unpacked source of a QEMU (Debian's package `qemu`,
whose newer versions `apt-get source` has). The tables of some versions are in `tests/golden/qemu-keys`, and a test
reads them. Each line is one of

- `option NAME` or `option NAME value`: `qemu-options.hx`;
- `property NAME`: a text property of a device, machine or object, added by C code;
- `text NAME`: a key that is a text of a list that C code describes (`QemuOptsList`);
- `ENTRY JSON`: a member of type str of what `-blockdev`, `-netdev` and the like take (`qapi/*.json`), as the value
  of the option whose file is `@`, with the variants that lead to it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "@"
ENTRIES = {
    "blockdev": "BlockdevOptions",
    "chardev": "ChardevBackend",
    "netdev": "Netdev",
    "object": "ObjectOptions",
    "display": "DisplayOptions",
    "audiodev": "Audiodev",
}
"""Options, and the types of the schema that they take."""
_OPTION = re.compile(r'^DEF\("([^"]+)",\s*(0|HAS_ARG)', re.MULTILINE)
_PROPERTY = re.compile(
    r'(?:DEFINE_PROP_STRING|object(?:_class)?_property_add_str)\s*\(\s*(?:[A-Za-z_]\w*(?:\([^()]*\))?,\s*)?"([\w.-]+)"'
)
_ADDRESS = re.compile(r'object(?:_class)?_property_add\s*\(\s*\w+,\s*"([\w.-]+)",\s*"SocketAddress"')
_TEXT = re.compile(r'\.name\s*=\s*"([\w.-]+)",\s*\.type\s*=\s*QEMU_OPT_STRING')
_FOREIGN = ("tests", "roms", "subprojects", "tools", "storage-daemon")
"""Folders whose code is no emulator's."""

Schema = dict[str, dict[str, Any]]


def table(folder: str) -> list[str]:
    """Return the lines of a source folder, sorted."""
    with open(os.path.join(folder, "qemu-options.hx"), encoding="utf-8") as file:
        options = _OPTION.findall(file.read())
    lines = {f"option {name}{' value' if takes == 'HAS_ARG' else ''}" for name, takes in options}
    for text in _sources(folder):
        lines |= {f"property {name}" for name in _PROPERTY.findall(text)}
        lines |= {f"property {name}.path" for name in _ADDRESS.findall(text)}
        lines |= {f"text {name}" for name in _TEXT.findall(text)}
    known = schema(os.path.join(folder, "qapi"))
    for entry, kind in ENTRIES.items():
        lines |= {f"{entry} {json.dumps(one)}" for one in members(known, kind)}
    return sorted(lines)


def _sources(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        if place == folder:
            folders[:] = [name for name in folders if name not in _FOREIGN]
        for name in names:
            if name.endswith(".c"):
                with open(os.path.join(place, name), encoding="utf-8", errors="replace") as file:
                    yield file.read()


def schema(folder: str) -> Schema:
    """Return every definition of a folder of `*.json` by its name; each is a Python literal but for true and false."""
    found: Schema = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".json"):
            continue
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            text = re.sub(r"(?m)^\s*#.*$|\s#\s.*$", "", file.read())
        text = re.sub(r"\b(true|false)\b", lambda word: word[1].title(), text)
        for block in re.split(r"(?m)^(?=\{)", text)[1:]:
            one = ast.literal_eval(block.strip())
            for kind in ("struct", "union", "alternate", "enum"):
                if kind in one:
                    found[one[kind]] = one
    return found


def members(known: Schema, name: str, above: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield an object for each member of type str of a type, at any depth."""
    one = known.get(name, {})
    if name in above or "enum" in one:
        return
    inside = (*above, name)
    if "alternate" in one:
        for kind in one["data"].values():
            yield from members(known, _name(kind), inside)
        return
    base = one.get("base", {})
    for key, kind in [*(base if isinstance(base, dict) else {}).items(), *one.get("data", {}).items()]:
        if "discriminator" in one and key in one["data"]:
            found = members(known, _name(kind), inside)
            yield from ({one["discriminator"]: key, **value} for value in found)
        elif _name(kind) == "str":
            yield {key.lstrip("*"): MARK}
        else:
            yield from ({key.lstrip("*"): value} for value in members(known, _name(kind), inside))
    if isinstance(base, str):
        yield from members(known, base, above)


def _name(kind: Any) -> str:
    kind = kind["type"] if isinstance(kind, dict) else kind
    return str(kind[0] if isinstance(kind, list) else kind)


if __name__ == "__main__":
    print(*table(sys.argv[1]), sep="\n")
