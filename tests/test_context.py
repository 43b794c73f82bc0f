"""A context is its text, and a text is a context or a problem."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given

from confined_qemu.model.context import Context
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.mcs import Level, Range
from tests.strategies import contexts, hostile, levels


@given(contexts)
def test_context_survives_its_text(context: Context) -> None:
    assert Context.parse(str(context)) == context
    assert Context.parse(str(context) + "\0") == context


@given(contexts, levels)
def test_a_level_replaces_the_whole_range_and_nothing_else(context: Context, level: Level) -> None:
    moved = context.at(level)
    assert moved.range == Range(level, level)
    assert (moved.user, moved.role, moved.type) == (context.user, context.role, context.type)


def test_fields_of_a_real_one() -> None:
    context = Context.parse("system_u:system_r:svirt_t:s0:c585,c813")
    assert (context.user, context.role, context.type) == ("system_u", "system_r", "svirt_t")
    assert context.range == Range.parse("s0:c585,c813")
    assert Context.parse("u:r:t").range is None


@pytest.mark.parametrize(
    "text", ["", "u", "u:r", "u:r:", ":r:t", "u r:r:t", "u:r:t:", "u:r:t:c1", "u:r:t:s0:c9999", "ü:r:t"]
)
def test_what_is_no_context(text: str) -> None:
    with pytest.raises(ValueProblem):
        Context.parse(text)


@given(hostile)
def test_any_text_is_a_context_or_a_problem(text: str) -> None:
    with suppress(ValueProblem):
        assert Context.parse(str(Context.parse(text))) == Context.parse(text)
