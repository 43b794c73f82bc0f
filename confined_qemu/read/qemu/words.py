"""The words of a QEMU command line by which a feature is known: `usb-host`, `vhost=on`. Pure.

A word is an item of an option's list, never a part of a path.
"""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.commas import split
from confined_qemu.model.errors import CommandLineError
from confined_qemu.read.qemu.keyvals import json_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_KINDS = frozenset({"driver", "backend", "type", "qom-type", "backend.type"})
"""Keys whose value says what a thing is; most options let it stand first without its key."""


def words(arguments: Iterable[str]) -> frozenset[str]:
    """Return the items of all lists (`vhost=on`), the options themselves (`-runas`), and what things are (`pty`)."""
    return frozenset(word for argument in arguments for word in _words(argument))


def _words(argument: str) -> Iterator[str]:
    items: Iterable[str] = split(argument.removeprefix("mon:"))
    if argument.startswith("{"):
        try:
            items = [f"{key}={value}" for key, value in json_pairs("", argument)]
        except CommandLineError:
            return  # QEMU says what is wrong with it
    for item in items:
        yield item
        key, equals, value = item.partition("=")
        if equals and key in _KINDS:
            yield value
