"""Levels, ranges and pairs: the kernel's text and back, dominance, and every pair exactly once."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.mcs import Level, Pair, Range, Window, format_categories, parse_categories
from tests.strategies import categories, crowded, hostile, levels, pairs, ranges


@given(levels)
def test_level_survives_its_text(level: Level) -> None:
    assert Level.parse(str(level)) == level


@given(ranges())
def test_range_survives_its_text(span: Range) -> None:
    assert Range.parse(str(span)) == span


@given(pairs())
def test_pair_survives_its_text_and_its_level(pair: Pair) -> None:
    assert Pair.parse(str(pair)) == pair
    assert Pair.of(pair.level(3)) == pair
    assert pair.level(3).sensitivity == 3


@given(categories | crowded)
def test_categories_are_written_in_order_and_once(numbers: frozenset[int]) -> None:
    text = format_categories(numbers)
    if numbers:
        assert parse_categories(text) == numbers
        written = [int(part[1:]) for part in text.replace(".", ",").split(",")]
        assert written == sorted(set(written))
    else:
        assert text == ""


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({1}, "c1"),
        ({1, 2}, "c1,c2"),
        ({1, 2, 3}, "c1.c3"),
        ({0, 1, 2, 5, 7, 8, 1023}, "c0.c2,c5,c7,c8,c1023"),
        (set(range(1024)), "c0.c1023"),
    ],
)
def test_the_kernels_text(numbers: set[int], text: str) -> None:
    assert format_categories(frozenset(numbers)) == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "sensitivity"),
        ("x0", "sensitivity"),
        ("s", "sensitivity"),
        ("s0:", "category"),
        ("s0:c1,", "category"),
        ("s0:1", "category"),
        ("s0:c1.c", "category"),
        ("s0:c1024", "out of range c0..c1023"),
        ("s0:c5.c1024", "out of range"),
        ("s0:c3.c1", "backwards"),
        ("s0 ", "sensitivity"),
        ("s\u0661", "sensitivity"),
    ],
)
def test_what_is_no_level(text: str, word: str) -> None:
    with pytest.raises(ValueProblem, match=word):
        Level.parse(text)


@pytest.mark.parametrize("text", ["s1-s0", "s0:c1-s0", "s0:c1,c2-s0:c1", "s0-", "-s0", "s0-s0-s0"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueProblem):
        Range.parse(text)


@given(hostile)
def test_any_text_is_a_value_or_a_problem(text: str) -> None:
    for parse in (Level.parse, Range.parse, Pair.parse):
        with suppress(ValueProblem):
            assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize("text", ["c1", "c1,c1", "c1,c2,c3", "c1.c3"])
def test_what_is_no_pair(text: str) -> None:
    with pytest.raises(ValueProblem, match="category pair"):
        Pair.parse(text)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 1), (-1, 3), (5, 1024)])
def test_a_pair_cannot_be_made_wrong(first: int, second: int) -> None:
    with pytest.raises(ValueProblem):
        Pair(first, second)


def test_a_pair_reads_either_order() -> None:
    assert Pair.parse("c9,c2") == Pair(2, 9)
    assert Pair.of(Level.parse("s0:c1.c3")) is None
    assert Pair.of(Level.parse("s0")) is None


@given(levels, levels)
def test_dominance_is_a_partial_order(one: Level, other: Level) -> None:
    both = Level(max(one.sensitivity, other.sensitivity), one.categories | other.categories)
    assert one.dominates(one)
    assert both.dominates(one)
    assert both.dominates(other)
    if one.dominates(other) and other.dominates(one):
        assert one == other


@given(st.data(), st.frozensets(st.integers(0, 1023), min_size=2, max_size=40))
def test_pair_numbers_are_a_bijection(data: st.DataObject, numbers: frozenset[int]) -> None:
    window = Window.of(None, numbers)
    found = [window.pair(index) for index in range(window.size)]
    count = len(numbers)
    assert len(set(found)) == len(found) == count * (count - 1) // 2
    assert {number for pair in found for number in (pair.first, pair.second)} == numbers
    beyond = data.draw(st.integers(window.size, window.size + 5) | st.integers(-5, -1))
    with pytest.raises(IndexError):
        window.pair(beyond)


def test_the_whole_window_has_its_first_and_last_pair() -> None:
    window = Window.of(None)
    assert window.size == 523776
    assert window.pair(0) == Pair(0, 1)
    assert window.pair(window.size - 1) == Pair(1022, 1023)


def test_the_callers_range_cuts_the_window() -> None:
    window = Window.of(Range.parse("s1-s2:c10.c20"), frozenset(range(15, 30)))
    assert window == Window(1, tuple(range(15, 21)))
    assert Window.of(Range.parse("s0")).size == 523776


@pytest.mark.parametrize(("caller", "allowed"), [("s0-s0:c1", None), ("s0-s0:c0.c9", frozenset({9, 10}))])
def test_a_window_without_a_pair_is_refused(caller: str, allowed: frozenset[int] | None) -> None:
    with pytest.raises(ValueProblem, match="no category pair"):
        Window.of(Range.parse(caller), allowed)
