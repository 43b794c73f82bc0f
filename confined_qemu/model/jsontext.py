"""Plain values as JSON, without a start that loads `json`: that brings its reader and `re` along."""

from __future__ import annotations

from _json import encode_basestring_ascii

from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_WORDS = {None: "null", True: "true", False: "false"}


def dumps(value: Any) -> str:
    """Return the text of a value made of texts, integers, lists, tuples and dicts with texts as keys; all is ASCII.

    Raises:
        TypeError: something in it is none of these.
    """
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(dumps, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{encode_basestring_ascii(key)}: {dumps(inner)}' for key, inner in value.items())}}}"
    raise TypeError(f"{type(value).__name__} is not written as JSON")
