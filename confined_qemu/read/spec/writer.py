"""A VM to the YAML text of its spec, each key with a comment; `loader` reads it back to the same VM. Pure."""

from __future__ import annotations

import re

from confined_qemu.model.errors import ValueProblem, printable
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.read.spec.kinds import Integer, ListOf, Table, WordOr, YesNo
from confined_qemu.read.spec.table import SPEC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Final

    from confined_qemu.read.spec.kinds import ValueKind
    from confined_qemu.read.spec.vm import VM

_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./+-]*|[1-9][0-9]*[KMGT]")
"""A text that stands for itself without quotes, in every YAML, if it is none of these words."""
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_SHORT: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_KEPT: Final = re.compile(r"[\x20-\x7e\xa1-\u2027\u2030-\u205e\u2070-\ud7ff\uf900-\ufdcf\ufdf0-\ufefe\uff00-\uffef]")
"""What is written as itself between quotes, if it is also printable; everything else is escaped."""
_BYTE, _BASIC = 0xFF, 0xFFFF


def write(
    vm: VM, *, head: Sequence[str] = (), comments: Mapping[str, str] | None = None, tail: Sequence[str] = ()
) -> str:
    """Return the spec of `vm`: only what is not a key's default is written.

    `head` and `tail` are lines of comment before and after the keys; `comments` has one for a key's path, such as
    `disks[0].file`. Each is made fit for one line.

    Raises:
        ValueProblem: a text holds what YAML cannot (a NUL, a byte that is not UTF-8).
    """
    lines = [f"# {printable(line)}".rstrip() for line in head]
    if head:
        lines.append("")
    lines += _table(SPEC, vm, "", comments or {})
    if tail:
        lines.append("")
        lines += [f"# {printable(line)}".rstrip() for line in tail]
    return "\n".join(lines) + "\n"


def _table(table: Table, value: Any, path: str, comments: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a mapping, from column 1."""
    for key in table.keys:
        if key.name not in _written(table, value):
            continue
        here = f"{path}.{key.name}" if path else key.name
        comment = f"  # {printable(comments[here])}" if here in comments else ""
        lines = list(_value(key.kind, getattr(value, key.name), here, comments))
        if not lines:
            yield f"{key.name}: {{}}{comment}"
        elif _nested(key.kind, getattr(value, key.name)):
            yield f"{key.name}:{comment}"
            yield from (f"  {line}" for line in lines)
        else:
            yield f"{key.name}: {lines[0]}{comment}"


def _written(table: Table, value: Any) -> frozenset[str]:
    """Return the keys without which the mapping would be read as another value."""
    names = [key.name for key in table.keys]
    whole = {name: getattr(value, name) for name in names}
    needed = {name for name in names if whole[name] != table.default(name)}
    # A key's default may depend on another key (a static VM relabels nothing), so what would be read is asked.
    built = table.made({name: whole[name] for name in names if name in needed})
    return frozenset(needed | {name for name in names if getattr(built, name) != whole[name]})


def _nested(kind: ValueKind, value: Any) -> bool:
    return bool(value) if isinstance(kind, ListOf) else isinstance(kind, Table | WordOr)


def _value(kind: ValueKind, value: Any, path: str, comments: Mapping[str, str]) -> Iterator[str]:
    if isinstance(kind, ListOf):
        if not value:
            yield "[]"
        for number, item in enumerate(value):
            here = f"{path}[{number}]"
            lines = list(_value(kind.item, item, here, comments))
            if here in comments:
                yield f"# {printable(comments[here])}"
            yield f"- {lines[0]}"
            yield from (f"  {line}" for line in lines[1:])
    elif isinstance(kind, WordOr):
        yield from _table(kind.table, value, path, comments)
    elif isinstance(kind, Table):
        yield from _table(kind, value, path, comments)
    elif isinstance(kind, YesNo):
        yield "yes" if value else "no"
    elif isinstance(kind, Integer):
        yield str(value)
    else:
        yield quoted(str(value))


def quoted(text: str) -> str:
    """Return the scalar that every YAML reads as `text`, on one line.

    Raises:
        ValueProblem: a NUL or a lone surrogate, which YAML cannot hold.
    """
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if code == 0 or 0xD800 <= code <= 0xDFFF:  # noqa: PLR2004 - the surrogates
        raise ValueProblem(f"U+{code:04X} cannot be written in YAML")
    if character in _SHORT:
        return _SHORT[character]
    if _KEPT.fullmatch(character) and character.isprintable():
        return character
    if code <= _BYTE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _BASIC else f"\\U{code:08x}"
