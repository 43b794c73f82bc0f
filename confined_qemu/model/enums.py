"""`Enum`, `StrEnum`, `IntFlag` and `auto` as the standard library has them, without a start that loads `enum`.

The standard library's brings six modules along and takes its time for each class and member: a fifth of what the
launcher took to import itself. The type checker sees the standard library's own. What no class here needs is left out:
aliases, methods that make members, and every guard against changing a class.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's own
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Enum", "IntFlag", "StrEnum", "auto"]


class _Members(type):
    """The class of enumerations: what its body assigns become the only instances, in that order."""

    _by_name: dict[str, Any]
    _by_value: dict[Any, Any]

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> _Members:
        """Make an enumeration: methods and properties stay what they are."""
        given = {key: value for key, value in space.items() if key[0] != "_" and not hasattr(value, "__get__")}
        made = super().__new__(mcs, name, bases, {key: value for key, value in space.items() if key not in given})
        made._by_name, made._by_value = {}, {}
        for key, value in given.items():
            made._add(key, len(made._by_name) + 1 if value is _NUMBER else value)
        return made

    def _add(cls, name: str, value: Any) -> None:
        kind: Any = cls
        member = kind.__new__(kind, value)
        member.name, member.value = name, value
        setattr(cls, name, member)
        cls._by_name[name] = cls._by_value[value] = member

    def __call__(cls, value: Any) -> Any:
        """Return the member that has this value."""
        found = cls._by_value.get(value)
        return cls._missing(value) if found is None else found

    def _missing(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if issubclass(cls, int):
            made: Any = int.__new__(cls, value)
            made.name, made.value = None, value
            return made
        raise ValueError(f"{value!r} is not a valid {cls.__qualname__}")

    def __getitem__(cls, name: str) -> Any:
        return cls._by_name[name]

    def __iter__(cls) -> Iterator[Any]:
        return iter(cls._by_name.values())

    def __len__(cls) -> int:
        return len(cls._by_name)

    def __contains__(cls, value: object) -> bool:
        return isinstance(value, cls)


def _shown(member: Any) -> str:
    return f"<{type(member).__qualname__}.{member.name}: {member.value!r}>"


_NUMBER = object()
"""Stands in a class's body for a number of the member's own."""
if TYPE_CHECKING:
    from enum import Enum, IntFlag, StrEnum, auto
else:

    def auto() -> object:
        """Return what gives a member its number."""
        return _NUMBER

    class Enum(metaclass=_Members):
        """Named values, each equal to itself only."""

        def __new__(cls, _value: object) -> Enum:  # noqa: PYI034 - `Self` is typing's
            """Make a member; calling the class looks one up."""
            return object.__new__(cls)

        __repr__ = _shown

        def __str__(self) -> str:
            return f"{type(self).__qualname__}.{self.name}"

    class StrEnum(str, metaclass=_Members):  # noqa: SLOT000 - a member has a name
        """Texts that have names."""

        __repr__ = _shown

    class IntFlag(int, metaclass=_Members):
        """Bits that have names; what they are joined to has none."""

        __repr__ = _shown

        def __or__(self, other: int) -> IntFlag:
            return type(self)(int(self) | int(other))  # a plain one would ask `other` first

        def __and__(self, other: int) -> IntFlag:
            return type(self)(int(self) & int(other))

        def __invert__(self) -> IntFlag:
            """Return all bits of the class but these."""
            return type(self)(sum(type(self)) & ~int(self))

        __ror__, __rand__ = __or__, __and__
