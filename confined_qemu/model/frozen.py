"""`dataclass`, `field` and `replace` as the standard library has them, but nothing is compiled to define a class.

The standard library writes the source of six methods for each class and compiles it at every start, and it imports
`inspect`: that was two thirds of what the launcher took to import itself. Here the methods are closures over the names
of the fields, so an instance takes longer to make; a launch makes some hundreds. The type checker sees the standard
library's own. What no class here needs is left out: fields that are inherited, `InitVar`, `kw_only`, fields that are
not compared.
"""

from __future__ import annotations

from _operator import attrgetter  # `operator` itself is a module in Python, of which this is all that is needed

__all__ = ["FrozenInstanceError", "dataclass", "defaults", "field", "names", "replace"]

TYPE_CHECKING = False  # as typing's own
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import FrozenInstanceError, dataclass, field, replace
    from typing import Any

    Methods = dict[str, Callable[..., Any]]
else:

    class FrozenInstanceError(AttributeError):
        """A field of a frozen instance was to be set or deleted."""

    def dataclass(
        cls: type | None = None,
        /,
        *,
        frozen: bool = False,
        slots: bool = False,
        eq: bool = True,
        order: bool = False,
    ) -> type | Callable[[type], type]:
        """Return `cls` with the methods of a dataclass; with `slots`, another class in its place."""

        def decorated(found: type) -> type:
            return _dataclass(found, frozen=frozen, slots=slots, eq=eq, order=order)

        return decorated if cls is None else decorated(cls)

    def field(*, default_factory: Callable[[], Any]) -> _Factory:
        """Return the default of a field that is made anew for each instance."""
        return _Factory(default_factory)

    def replace(value: Any, /, **changes: Any) -> Any:
        """Return a copy of an instance with other values in some fields."""
        for name in names(value):
            if name not in changes:
                changes[name] = getattr(value, name)
        return type(value)(**changes)


class _Factory:
    """What makes a field's default."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def names(of: object) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass or its instance, in order."""
    found: tuple[str, ...] = of.__match_args__  # type: ignore[attr-defined]  # every dataclass has it
    return found


def defaults(of: type) -> dict[str, Callable[[], Any]]:
    """Return the fields of a dataclass that may be left out, each with what makes its value."""
    found: dict[str, Any] = of.__field_defaults__  # type: ignore[attr-defined]  # every dataclass of this module has it
    return {name: _maker(value) for name, value in found.items()}


def _maker(default: Any) -> Callable[[], Any]:
    return lambda: _made(default)


def _made(default: Any) -> Any:
    return default.make() if isinstance(default, _Factory) else default


def _dataclass(cls: type, *, frozen: bool, slots: bool, eq: bool, order: bool) -> type:
    fields = tuple(cls.__dict__.get("__annotations__", ()))  # noqa: RUF063 - what it names brings the module `inspect`
    given = {name: cls.__dict__[name] for name in fields if name in cls.__dict__}
    methods: Methods = {"__init__": _init(cls, fields, given), "__repr__": _repr(fields)}
    key = _key(fields)
    if eq:
        methods["__eq__"] = _compare(key, "__eq__")
    if order:
        methods |= {name: _compare(key, name) for name in ("__lt__", "__le__", "__gt__", "__ge__")}
    if frozen:
        methods |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
    own = {name: method for name, method in methods.items() if name not in cls.__dict__}
    made = {**own, "__match_args__": fields, "__field_defaults__": given}
    # Python has set it to None in a class that defines __eq__ alone
    if eq and cls.__dict__.get("__hash__") is None:
        made["__hash__"] = _hash(key) if frozen else None
    if slots:
        return _with_slots(cls, fields, made)
    for name, value in made.items():
        setattr(cls, name, value)
    for name, value in given.items():
        if isinstance(value, _Factory):
            delattr(cls, name)
    return cls


def _with_slots(cls: type, fields: tuple[str, ...], made: dict[str, Any]) -> type:
    left_out = {*fields, "__dict__", "__weakref__"}
    space = {name: value for name, value in cls.__dict__.items() if name not in left_out}
    return type(cls)(
        cls.__name__, cls.__bases__, {**space, **made, "__slots__": fields, "__qualname__": cls.__qualname__}
    )


def _init(cls: type, fields: tuple[str, ...], given: dict[str, Any]) -> Callable[..., None]:
    check = cls.__dict__.get("__post_init__")
    assign = object.__setattr__

    def __init__(self: object, /, *values: Any, **named: Any) -> None:  # noqa: N807 - it is one
        for name, value in zip(fields, values, strict=False):
            assign(self, name, value)
        for name in fields[len(values) :]:
            if name in named:
                assign(self, name, named.pop(name))
            elif name in given:
                assign(self, name, _made(given[name]))
            else:
                raise TypeError(f"{cls.__qualname__}() is missing {name!r}")
        if named or len(values) > len(fields):
            wrong = repr(next(iter(named))) if named else f"a value number {len(values)}"
            raise TypeError(f"{cls.__qualname__}() has no place for {wrong}")
        if check is not None:
            check(self)

    return __init__


def _repr(fields: tuple[str, ...]) -> Callable[[object], str]:
    def __repr__(self: object) -> str:  # noqa: N807 - it is one
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"

    return __repr__


def _key(fields: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what gives the values of an instance's fields."""
    if len(fields) > 1:
        return attrgetter(*fields)
    return lambda of: tuple(getattr(of, name) for name in fields)


def _compare(key: Callable[[Any], tuple[Any, ...]], name: str) -> Callable[[object, object], bool]:
    compare: Callable[[Any, Any], bool] = getattr(tuple, name)

    def method(self: object, other: object) -> bool:
        return compare(key(self), key(other)) if type(other) is type(self) else NotImplemented

    return method


def _hash(key: Callable[[Any], tuple[Any, ...]]) -> Callable[[object], int]:
    return lambda self: hash(key(self))


def _refuse_to_set(_self: object, name: str, _value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
