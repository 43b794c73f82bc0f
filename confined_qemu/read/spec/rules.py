"""Rules between the values of a VM: what one that breaks them is told. Pure."""

from __future__ import annotations

import re

from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that some values break.

    `key` is where the message belongs (`seclabel.label`), `involves` names the other keys of the rule: a
    reader that could not read one of those has said so already, and drops the violation.
    """

    key: str
    what: str
    hint: str
    involves: tuple[str, ...] = ()


class Broken(ValueProblem):
    """Values that do not go together; `violations` holds every rule that they break."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        first = violations[0]
        super().__init__(first.what, where=first.key, hint=first.hint)
        self.violations = violations


def refuse(found: Iterator[Violation]) -> None:
    """Raise Broken if there are any."""
    violations = tuple(found)
    if violations:
        raise Broken(violations)


_SIZE = re.compile(r"([1-9][0-9]{0,11})([KMGT])")


def size_in_bytes(text: str) -> int:
    """Return the bytes that `128M` stands for; K, M, G and T are powers of 1024, as in QEMU.

    Raises:
        ValueProblem: no whole number, or no suffix: QEMU takes a bare number as MiB, libvirt as KiB.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueProblem(f"{text!r} is not a size", hint="write a whole number and K, M, G or T, such as 128M")
    return int(match[1]) << (10 * ("KMGT".index(match[2]) + 1))
