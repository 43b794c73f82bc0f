"""What a message looks like: a line that says what failed, and beneath it an indented line for each hint."""

from __future__ import annotations


def is_message(text: str) -> bool:
    """Tell whether `text` is one message: nothing in it that a terminal would obey, and only hints below its line."""
    first, *hints = text.split("\n")
    return first[:1] not in ("", " ") and first.isprintable() and all(map(is_hint, hints))


def is_hint(line: str) -> bool:
    """Tell whether a line of a message is one that says how to mend it."""
    return line.startswith("  ") and line[2:3] not in ("", " ") and line.isprintable()
