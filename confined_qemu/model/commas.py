"""QEMU's comma lists: the only place that escapes a value, and the only one that takes a list apart.

QEMU reads a list from left to right (`util/qemu-option.c`, `get_opt_value`): a comma ends an option, two
together are one comma of the value. So a path with a comma that is not doubled adds options of its own.
"""

from __future__ import annotations


def escape(value: str) -> str:
    """Return `value` fit for the place after `key=` in a comma list: each comma doubled.

    Every other character, newlines and stray bytes included, is taken literally by QEMU.
    """
    return value.replace(",", ",,")


def split(text: str) -> tuple[str, ...]:
    """Return the options of a comma list, their commas single again; the empty text has one, empty, option.

    It undoes `",".join` of options whose values went through `escape`, as long as none but the first is empty
    or begins with a comma, which `key=value` never does: `a,,,b` is `a,` and `b`.
    """
    options: list[str] = []
    current = ""
    parts = iter(text.split(","))
    current = next(parts)
    for part in parts:
        if part == "" and (following := next(parts, None)) is not None:
            current += "," + following
        else:
            options.append(current)
            current = part
    options.append(current)
    return tuple(options)
