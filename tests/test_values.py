"""Our dataclasses against the standard library's: each class of the package is made by both, and they must agree."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import sys
import types
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.model import lean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DECORATOR = "dataclass"


def decorated(tree: ast.Module) -> list[str]:
    """Return the names of a module's dataclasses."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(DECORATOR in ast.unparse(one) for one in node.decorator_list)
    ]


def sources() -> Iterator[tuple[str, str]]:
    """Yield each module's name and text."""
    for folder, _, names in os.walk(os.path.join(ROOT, "confined_qemu")):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.endswith(".py") and name != "lean.py":
                with open(path, encoding="utf-8") as file:
                    yield os.path.relpath(path, ROOT)[:-3].replace(os.sep, "."), file.read()


SOURCES = dict(sources())
CLASSES = [(module, name) for module, text in SOURCES.items() for name in decorated(ast.parse(text))]


@cache
def remade(module: str) -> types.ModuleType:
    """Return a module of ours whose dataclasses are the standard library's."""
    again = types.ModuleType(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module, again)  # where the standard library looks its annotations up
        for word in ("dataclass", "field", "replace"):
            patch.setattr(lean, word, getattr(dataclasses, word))
        exec(compile(SOURCES[module], module, "exec"), again.__dict__)  # noqa: S102 - our own source
    return again


@pytest.fixture(params=CLASSES, ids=lambda found: ".".join(found).removeprefix("confined_qemu."))
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A class as it is, and as the standard library makes it of the same source."""
    module, name = request.param
    return getattr(importlib.import_module(module), name), getattr(remade(module), name)


def shown(value: object) -> str:
    """Return a value's text, without the addresses of functions in it."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def outcome(act: Callable[..., object], *given: object, **named: object) -> str:
    """Return what comes of a call as text, an error by its name."""
    try:
        return shown(act(*given, **named))
    except Exception as error:  # noqa: BLE001 - whatever it is, both must raise it
        return type(error).__name__


def test_they_are_found() -> None:
    assert len(CLASSES) > 100


def test_fields_and_defaults_agree(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    fields = dataclasses.fields(theirs)
    assert lean.names(ours) == tuple(field.name for field in fields) == theirs.__match_args__
    assert ours.__dict__.get("__slots__") == theirs.__dict__.get("__slots__")
    made = {name: make() for name, make in lean.defaults(ours).items()}
    theirs_made = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    for field in fields:
        if field.default_factory is not dataclasses.MISSING:
            theirs_made[field.name] = field.default_factory()
    assert shown(sorted(made.items())) == shown(sorted(theirs_made.items()))


def test_instances_are_made_alike(both: tuple[Any, Any]) -> None:
    names = lean.names(both[0])
    texts = [f"value {name}" for name in names]
    for count in range(len(names) + 2):
        given = [*texts, "one too many"][:count]
        rest = dict(zip(names[count:], texts[count:], strict=True))
        for named in ({}, rest, rest | {"unknown": 1}, dict(list(rest.items())[1:]), {names[0]: 1} if names else {}):
            results = [outcome(contents, made, *given, **named) for made in both]
            assert results[0] == results[1]


def contents(made: Callable[..., object], *given: object, **named: object) -> list[object]:
    instance = made(*given, **named)
    return [getattr(instance, name) for name in lean.names(instance)]


def test_they_compare_hash_print_and_refuse_alike(both: tuple[Any, Any]) -> None:
    names = lean.names(both[0])
    given, other = tuple(range(len(names))), tuple(range(1, len(names) + 1))
    acts: tuple[Callable[[Any, Any], object], ...] = (
        lambda one, another: (one == another, one != another, one == given),
        lambda one, another: (one < another, one <= another, one > another, one >= another),
        lambda one, another: hash(one) == hash(another),
        lambda one, another: (one, another),
        lambda one, _: setattr(one, names[0], 7),
        lambda one, _: delattr(one, names[0]),
        lambda one, _: one.missing,
    )
    for act in acts:
        for words in (given, other):
            results = [
                outcome(lambda made, words=words, act=act: act(made(*given), made(*words)), made) for made in both
            ]
            assert results[0] == results[1]


def compared(
    act: Callable[[Any, Any], object], made: Callable[..., Any], first: Iterable[object], second: Iterable[object]
) -> object:
    return act(made(*first), made(*second))


def test_a_default_is_made_anew_for_each_instance() -> None:
    @lean.dataclass
    class Found:
        names: list[str] = lean.field(default_factory=list)

    first, second = Found(), Found()
    first.names.append("x")
    assert second.names == []


def test_a_copy_is_checked_like_any_instance() -> None:
    @lean.dataclass(frozen=True, slots=True)
    class Pair:
        first: int
        second: int = 2

        def __post_init__(self) -> None:
            if self.first > self.second:
                raise ValueError(self.first)

    assert lean.replace(Pair(1), second=3) == Pair(1, 3)
    with pytest.raises(ValueError, match="4"):
        lean.replace(Pair(1), first=4)
    with pytest.raises(TypeError, match="third"):
        lean.replace(Pair(1), third=4)  # type: ignore[call-arg]
