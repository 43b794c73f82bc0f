"""Our enumerations and context managers against the standard library's, whose place they take at a start."""

from __future__ import annotations

import contextlib
import enum
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.model import lean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOTH = pytest.mark.parametrize("of", [enum, lean])
MANAGERS = pytest.mark.parametrize("of", [contextlib, lean])


def colours(of: Any) -> Any:
    class Colour(of.StrEnum):  # type: ignore[misc]
        RED = "red"
        """Said of wine."""
        BLUE = "blue"

        @property
        def shouted(self) -> str:
            return str(self).upper()

    return Colour


def kinds(of: Any) -> Any:
    class Kind(of.Enum):  # type: ignore[misc]
        PAIR = ("a", 1)
        OTHER = ("b", 2)

        def first(self) -> Any:
            return self.value[0]

    return Kind


def bits(of: Any) -> Any:
    class Bit(of.IntFlag):  # type: ignore[misc]
        ONE = 1
        TWO = 2
        FOUR = 4

    return Bit


@BOTH
def test_texts_with_names(of: Any) -> None:
    colour = colours(of)
    assert colour("red") is colour.RED is colour["RED"] is colour(colour.RED)
    assert [*colour] == [colour.RED, colour.BLUE] == ["red", "blue"]
    assert (colour.RED.name, colour.RED.value, colour.RED.shouted, len(colour)) == ("RED", "red", "RED", 2)
    assert (f"{colour.RED}", str(colour.RED)) == ("red", "red")
    assert repr(colour.RED).endswith("Colour.RED: 'red'>")
    assert {colour.RED: 1}["red"] == 1
    assert isinstance(colour.RED, colour)
    assert colour.RED in colour
    with pytest.raises(ValueError, match=r"'green' is not a valid .*Colour"):
        colour("green")
    with pytest.raises(KeyError):
        colour["GREEN"]


@BOTH
def test_names_for_anything(of: Any) -> None:
    kind = kinds(of)
    assert kind(("a", 1)) is kind.PAIR
    assert (kind.OTHER.first(), str(kind.PAIR).rpartition(".")[2]) == ("b", "PAIR")
    assert kind.PAIR != kind.OTHER
    assert kind.PAIR != ("a", 1)
    assert len({kind.PAIR, kind.OTHER, kind.PAIR}) == 2
    match kind.OTHER:
        case kind.PAIR:
            raise AssertionError
        case kind.OTHER:
            pass


@BOTH
def test_numbers_of_their_own(of: Any) -> None:
    class Step(of.Enum):  # type: ignore[misc]
        FIRST = of.auto()
        SECOND = of.auto()

    assert Step.FIRST is not Step.SECOND
    step: Any = Step
    assert [one.value for one in step] == [1, 2]


@BOTH
def test_bits(of: Any) -> None:
    bit = bits(of)
    both = bit.ONE | bit.TWO
    assert (both, both & bit.TWO, ~both, bit(0), bit.ONE & 2) == (3, 2, 4, 0, 0)
    assert isinstance(both, bit)
    assert (bit.TWO.name, bit(2) is bit.TWO) == ("TWO", True)
    assert [one.name for one in bit if one & both] == ["ONE", "TWO"]
    assert not bit(0)
    assert 4 | bit.ONE == 5


@MANAGERS
def test_a_manager_of_a_generator(of: Any) -> None:
    said = []

    @of.contextmanager  # type: ignore[untyped-decorator]
    def entered(what: str, *, swallow: bool = False) -> Iterator[str]:
        said.append(f"in {what}")
        try:
            yield what
        except KeyError:
            if not swallow:
                raise
        finally:
            said.append(f"out {what}")

    make: Callable[..., Any] = entered
    with make("a") as given:
        assert given == "a"
    with pytest.raises(KeyError, match="why"), make("b"):
        raise KeyError("why")
    with make("c", swallow=True):
        raise KeyError
    with pytest.raises(OSError, match="other"), make("d", swallow=True):
        raise OSError("other")
    assert said == ["in a", "out a", "in b", "out b", "in c", "out c", "in d", "out d"]


@MANAGERS
def test_an_error_may_become_another(of: Any) -> None:
    @of.contextmanager  # type: ignore[untyped-decorator]
    def worded() -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError("worded") from error

    make: Callable[..., Any] = worded
    with pytest.raises(ValueError, match="worded") as caught, make():
        raise OSError
    assert isinstance(caught.value.__cause__, OSError)


@MANAGERS
def test_what_is_suppressed(of: Any) -> None:
    with of.suppress(KeyError, OSError):
        raise FileNotFoundError
    with of.suppress(KeyError):
        pass
    with pytest.raises(OSError, match="kept"), of.suppress(KeyError):
        raise OSError("kept")
