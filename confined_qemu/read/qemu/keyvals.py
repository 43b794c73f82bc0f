"""QEMU's `key=value` lists and JSON objects, as flat pairs with dotted keys.

The rules are those of `util/qemu-option.c` (`get_opt_name_value`) and `util/keyval.c`; the commas themselves
belong to `commas`.
"""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.commas import escape, split
from confined_qemu.model.errors import CommandLineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_YES = frozenset({"on", "yes", "true", "y"})
_DEEP = 64
"""Nodes within nodes that are followed; QEMU's own examples have five."""


def pairs(option: str, value: str, implied: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a comma list, in order; a bare word is a boolean (`server`, `nowait`).

    `implied` is the key that the first item may leave out. QEMU takes the last of two equal keys.

    Raises:
        CommandLineError: a key has a doubled comma, which QEMU reads in another way than a value's.
    """
    return tuple(_pairs(option, value, implied)) if value else ()


def _pairs(option: str, value: str, implied: str | None) -> Iterator[tuple[str, str]]:
    for number, item in enumerate(split(value)):
        key, equals, text = item.partition("=")
        if number == 0 and implied is not None and (not equals or "," in key):
            # QEMU takes it for the first key's value unless an equals sign comes before any comma
            yield implied, item
            continue
        if "," in key:
            # QEMU ends a key at its first comma, and what follows would be an option that was not read here
            raise CommandLineError(
                f"-{option} {value!r}: a comma is doubled outside a value", hint="double commas in values only"
            )
        if equals:
            yield key, text
        elif key.startswith("no"):
            yield key[2:], "off"
        else:
            yield key, "on"


def around(value: str, implied: str | None, key: str, also: Sequence[str] = ()) -> tuple[str, str]:
    """Return a comma list's items before and after the last `key`; other items with that key or `also` are left out."""
    items = split(value)
    keys = [found for found, _ in pairs(key, value, implied)]  # one for each item
    place = max(number for number, found in enumerate(keys) if found == key)
    kept = [(number, escape(item)) for number, item in enumerate(items) if keys[number] not in {key, *also}]
    before = "".join(f"{item}," for number, item in kept if number < place)
    return before, "".join(f",{item}" for number, item in kept if number > place)


def objects(option: str, value: str, implied: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a comma list, or of a JSON object where `value` begins with `{`.

    Raises:
        CommandLineError: as `pairs`, or the JSON cannot be read.
    """
    return json_pairs(option, value) if value.startswith("{") else pairs(option, value, implied)


def json_pairs(option: str, text: str) -> tuple[tuple[str, str], ...]:
    """Return the leaves of a JSON object with dotted keys: `{"a": {"b": [true]}}` is `a.b.0` `on`, null is empty.

    Raises:
        CommandLineError: it is no JSON object.
    """
    value = load_json(option, text)
    if not isinstance(value, dict):
        raise CommandLineError(f"-{option} {text!r}: not a JSON object", hint="write {…}")
    try:
        return tuple(_leaves("", value))
    except RecursionError as error:
        raise _invalid(option, text) from error


def load_json(option: str, text: str) -> Any:
    """Return the value of a JSON text, in which QEMU takes strings in single quotes too (`qobject/json-lexer.c`).

    Raises:
        CommandLineError: it is no JSON.
    """
    import json

    try:
        return json.loads(_double_quoted(text) if "'" in text else text)
    except (ValueError, RecursionError) as error:
        raise _invalid(option, text) from error


def _invalid(option: str, text: str) -> CommandLineError:
    return CommandLineError(f"-{option} {text!r}: invalid JSON", hint='write {"key": "value"}')


def _double_quoted(text: str) -> str:
    """Return a JSON text with every string in double quotes; an apostrophe may be escaped in either kind of string."""
    import re

    def part(match: re.Match[str]) -> str:
        return {r"\'": "'", '"': r"\""}.get(match[0], match[0])

    def string(match: re.Match[str]) -> str:
        inner = re.sub(r"""\\.|\"""", part, match[0][1:-1], flags=re.DOTALL)
        return f'"{inner}"'

    return re.sub(r"""\"(?:\\.|[^"\\])*\"|'(?:\\.|[^'\\])*'""", string, text, flags=re.DOTALL)


def _leaves(prefix: str, value: Any, left: int = 2 * _DEEP) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a value that may have `left` levels more: each level makes every key below it longer."""
    if left == 0:
        raise RecursionError
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(f"{prefix}.{key}" if prefix else key, inner, left - 1)
        case list():
            for number, inner in enumerate(value):
                yield from _leaves(f"{prefix}.{number}", inner, left - 1)
        case bool():
            yield prefix, "on" if value else "off"
        case None:
            yield prefix, ""
        case _:
            yield prefix, str(value)


def truth(values: dict[str, str], *keys: str, default: bool = False) -> bool:
    """Return the boolean under the last of `keys` that is there (`on`, `yes`, `true`, `y`)."""
    found = [values[key] for key in keys if key in values]
    return found[-1] in _YES if found else default


def child(values: dict[str, str], key: str) -> dict[str, str]:
    """Return what stands under `key.`, without that prefix."""
    prefix = f"{key}."
    return {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}


def children(values: dict[str, str]) -> tuple[str, ...]:
    """Return the first parts of the dotted keys, each once, in order."""
    return tuple(dict.fromkeys(key.partition(".")[0] for key in values if "." in key))


def deep(option: str, depth: int) -> int:
    """Return `depth` plus one.

    Raises:
        CommandLineError: nodes are nested deeper than any real command line has them.
    """
    if depth >= _DEEP:
        raise CommandLineError(f"-{option}: more than {_DEEP} nested block nodes", hint="nest fewer")
    return depth + 1
