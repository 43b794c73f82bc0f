"""What we use of `typing`, `enum`, `dataclasses` and `contextlib`, without a start that loads them.

Each brings half a dozen modules along, and takes its time for every class: together they were most of what the
launcher took to import itself. Here nothing is compiled to define a class. The type checker sees the standard library's
own. What nothing here needs is left out: each part says what.
"""

from __future__ import annotations

from _operator import attrgetter  # `operator` itself is a module in Python, of which this is all that is needed

__all__ = [
    "TYPE_CHECKING",
    "Enum",
    "ExitStack",
    "FrozenInstanceError",
    "IntFlag",
    "Protocol",
    "StrEnum",
    "auto",
    "contextmanager",
    "dataclass",
    "defaults",
    "field",
    "names",
    "replace",
    "suppress",
]

TYPE_CHECKING = False
"""As typing's own: type checkers go by the name."""
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack, contextmanager, suppress
    from dataclasses import FrozenInstanceError, dataclass, field, replace
    from enum import Enum, IntFlag, StrEnum, auto
    from typing import Any, Protocol

    Methods = dict[str, Callable[..., Any]]
else:
    Protocol = object


# ---- enumerations, without aliases, methods that make members, and guards against changing a class


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
if not TYPE_CHECKING:

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


# ---- dataclasses: closures over the names of the fields, so that an instance takes longer to make; a launch makes some
# hundreds. Without fields that are inherited, `InitVar`, `kw_only`, and fields that are not compared


if not TYPE_CHECKING:

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


# ---- context managers, without those that are decorators, `async`, `push` and `pop_all`


if not TYPE_CHECKING:

    def contextmanager(make: Callable[..., Iterator[Any]]) -> Callable[..., _Generated]:
        """Return what makes a context manager of a generator that yields once."""

        def made(*values: Any, **named: Any) -> _Generated:
            return _Generated(make(*values, **named))

        return made

    class suppress:  # noqa: N801 - contextlib's name
        """Takes exceptions of these kinds for nothing."""

        def __init__(self, *kinds: type[BaseException]) -> None:
            self.kinds = kinds

        def __enter__(self) -> None:
            """Begin."""

        def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
            return kind is not None and issubclass(kind, self.kinds)

    class ExitStack:
        """Ends what it was given in the opposite order, when its block ends or at `close`."""

        def __init__(self) -> None:
            self._ends: list[Callable[..., Any]] = []

        def enter_context(self, manager: Any) -> Any:
            """Begin with a manager, which ends with this one."""
            value = manager.__enter__()
            self._ends.append(manager.__exit__)
            return value

        def callback(self, call: Callable[..., Any], *values: Any) -> None:
            """Have this called at the end."""
            self._ends.append(lambda *_: call(*values) and False)

        def close(self) -> None:
            """End all of it now."""
            self.__exit__(None, None, None)

        def __enter__(self) -> ExitStack:  # noqa: PYI034 - Self is of typing
            return self

        def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
            known, begun = error, kind is not None
            while self._ends:
                try:
                    if self._ends.pop()(kind, error, trace):
                        kind = error = trace = None
                except BaseException as raised:  # noqa: BLE001 - raised below
                    kind, error, trace = type(raised), raised, raised.__traceback__
            if error is not None and error is not known:
                raise error
            return begun and kind is None


class _Generated:
    """The context manager of a generator: up to its `yield` at the beginning, the rest at the end."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __enter__(self) -> Any:
        return next(self.generator)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            next(self.generator, None)
            return False
        try:
            self.generator.throw(error)
        except StopIteration:
            return True
        except BaseException as raised:
            if raised is not error:
                raise
            return False
        raise RuntimeError("the generator of a context manager yields once")
