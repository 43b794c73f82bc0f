"""SELinux levels, ranges and category pairs: text to value and back, dominance, and the n-th pair.

The text form is the kernel's (security/selinux/ss/mls.c, `mls_sid_to_context`): categories in ascending
order, a run of three or more written `c1.c3`, of two `c1,c2`.
"""

from __future__ import annotations

from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.lean import dataclass

MAX_CATEGORY = 1023
"""The highest category of the reference policy and of Fedora's (`c0.c1023`)."""

_DIGITS = 4
"""The most that a sensitivity's or a category's number has."""


def _number(letter: str, text: str, kind: str, whole: str) -> int:
    digits = text.removeprefix(letter)
    # str.isdecimal alone takes other scripts' digits
    if digits == text or len(digits) > _DIGITS or not (digits.isascii() and digits.isdecimal()):
        raise ValueProblem(f"{whole!r} is not an SELinux level: {text!r} is no {kind}")
    return int(digits)


def _category(text: str, whole: str) -> int:
    number = _number("c", text, "category", whole)
    if number > MAX_CATEGORY:
        raise ValueProblem(f"{whole!r}: category c{number} is out of range c0..c{MAX_CATEGORY}")
    return number


def parse_categories(text: str) -> frozenset[int]:
    """Return the set that `c1,c5.c9` names.

    Raises:
        ValueProblem: not category syntax, a number above c1023, or a span that runs backwards.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dot, last = part.partition(".")
        low = _category(first, text)
        high = _category(last, text) if dot else low
        if high < low:
            raise ValueProblem(f"{text!r}: the span {part} runs backwards")
        found.update(range(low, high + 1))
    return frozenset(found)


def format_categories(categories: frozenset[int]) -> str:
    """Return the kernel's text for a set of categories; the empty set gives the empty string."""
    ordered = sorted(categories)
    parts: list[str] = []
    at = 0
    while at < len(ordered):
        end = at
        while end + 1 < len(ordered) and ordered[end + 1] == ordered[end] + 1:
            end += 1
        parts.append(f"c{ordered[at]}")
        if end > at:
            parts[-1] += ("." if end - at > 1 else ",") + f"c{ordered[end]}"
        at = end + 1
    return ",".join(parts)


@dataclass(frozen=True, slots=True)
class Level:
    """A sensitivity and a set of categories, such as `s0:c1,c2`."""

    sensitivity: int
    categories: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Level:
        """Read `s0` or `s0:c1,c5.c9`.

        Raises:
            ValueProblem: the text is not a level.
        """
        sensitivity, colon, categories = text.partition(":")
        number = _number("s", sensitivity, "sensitivity", text)
        return cls(number, parse_categories(categories) if colon else frozenset())

    def __str__(self) -> str:
        text = format_categories(self.categories)
        return f"s{self.sensitivity}:{text}" if text else f"s{self.sensitivity}"

    def dominates(self, other: Level) -> bool:
        """Tell whether this level may read what `other` labels (policy syntax `l1 dom l2`)."""
        return self.sensitivity >= other.sensitivity and self.categories >= other.categories


@dataclass(frozen=True, slots=True)
class Range:
    """A low and a high level; a file and a VM have both the same."""

    low: Level
    high: Level

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read `s0`, `s0:c1,c2` or `s0-s0:c0.c1023`.

        Raises:
            ValueProblem: not a range, or the high level does not dominate the low one.
        """
        low_text, dash, high_text = text.partition("-")
        low = Level.parse(low_text)
        high = Level.parse(high_text) if dash else low
        if not high.dominates(low):
            raise ValueProblem(f"{text!r} is not an SELinux range: its high level does not dominate its low one")
        return cls(low, high)

    @classmethod
    def single(cls, level: Level) -> Range:
        """Return the range whose two ends are `level`."""
        return cls(level, level)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two different categories, the lower first: what keeps one VM from every other."""

    first: int
    second: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.second <= MAX_CATEGORY:
            raise ValueProblem(
                f"c{self.first},c{self.second} is not a category pair: two different ones of c0..c{MAX_CATEGORY}"
            )

    @classmethod
    def parse(cls, text: str) -> Pair:
        """Read `c1,c2`, in either order.

        Raises:
            ValueProblem: not two different categories.
        """
        categories = sorted(parse_categories(text))
        if len(categories) != 2:  # noqa: PLR2004 - a pair has two
            raise ValueProblem(f"{text!r} is not a category pair such as c1,c2")
        return cls(categories[0], categories[1])

    @classmethod
    def of(cls, level: Level) -> Pair | None:
        """Return the pair that `level` consists of, or None where it holds another number of categories."""
        match sorted(level.categories):
            case [first, second]:
                return cls(first, second)
            case _:
                return None

    def level(self, sensitivity: int = 0) -> Level:
        """Return `sN:cA,cB`."""
        return Level(sensitivity, frozenset((self.first, self.second)))

    def __str__(self) -> str:
        return f"c{self.first},c{self.second}"


@dataclass(frozen=True, slots=True)
class Window:
    """The categories that pairs may be drawn from, and the sensitivity that they get."""

    sensitivity: int
    categories: tuple[int, ...]

    @classmethod
    def of(cls, caller: Range | None, configured: frozenset[int] | None = None) -> Window:
        """Cut a window from the caller's range, as libvirt does from its own: low sensitivity, high categories.

        A range without categories (a service at `s0`) stands for all of them, as in libvirt.

        Raises:
            ValueProblem: fewer than two categories are left, so that no pair exists.
        """
        mine = caller.high.categories if caller is not None else frozenset()
        allowed = mine or frozenset(range(MAX_CATEGORY + 1))
        if configured is not None:
            allowed &= configured
        if len(allowed) < 2:  # noqa: PLR2004 - a pair needs two
            raise ValueProblem(
                f"no category pair can be drawn from {format_categories(allowed) or 'no categories'}",
                hint="start from a shell with a wider range, or widen the configured categories",
            )
        return cls(caller.low.sensitivity if caller is not None else 0, tuple(sorted(allowed)))

    @property
    def size(self) -> int:
        """The number of pairs in the window."""
        return len(self.categories) * (len(self.categories) - 1) // 2

    def pair(self, index: int) -> Pair:
        """Return the pair number `index` (0 <= index < size), every pair exactly once.

        Raises:
            IndexError: there is no such pair.
        """
        if not 0 <= index < self.size:
            raise IndexError(index)
        first = 0
        row = len(self.categories) - 1
        while index >= row:
            index -= row
            first += 1
            row -= 1
        return Pair(self.categories[first], self.categories[first + 1 + index])
