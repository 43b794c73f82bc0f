"""Hypothesis strategies of the project's values, hostile ones first."""

from __future__ import annotations

from hypothesis import strategies as st

from confined_qemu.context import Context
from confined_qemu.mcs import MAX_CATEGORY, Level, Pair, Range

categories = st.frozensets(st.integers(0, MAX_CATEGORY), max_size=12)
"""Few categories anywhere, so that runs and single ones both occur when drawn near each other."""
crowded = st.frozensets(st.integers(0, 20), max_size=15)
"""Many categories close together: every way of writing a run."""
levels = st.builds(Level, st.integers(0, 15), categories | crowded)
"""Any level of the reference policy."""


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Draw a range whose high level dominates its low one."""
    low = draw(levels)
    high = Level(low.sensitivity + draw(st.integers(0, 3)), low.categories | draw(categories | crowded))
    return Range(low, high)


names = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)
"""A user, a role or a type."""
contexts = st.builds(Context, names, names, names, st.none() | ranges())
"""A context with or without a range."""


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Draw a category pair."""
    first, second = sorted(draw(st.sets(st.integers(0, MAX_CATEGORY), min_size=2, max_size=2)))
    return Pair(first, second)


hostile = st.text(
    st.sampled_from(",=:.%~'\"\\ \n\t\r\x1b\x7f[]{}#&*!|>-/a\u00e9\u202e\ufeff")
    | st.characters(codec="utf-8"),
    min_size=1,
    max_size=30,
).filter(lambda text: "\0" not in text)
"""Text that means something to QEMU, YAML, JSON or a terminal; no NUL, which no path can hold."""
stray = st.binary(min_size=1, max_size=20).map(
    lambda data: data.replace(b"\0", b"\xff").decode("utf-8", "surrogateescape")
)
"""A path that is not UTF-8, as Python hands it over: lone surrogates."""
paths = st.builds("/".join, st.lists(hostile | stray | st.just(".."), min_size=1, max_size=4)).filter(
    lambda path: path.strip("/") != ""
)
"""Relative and absolute paths, with commas, newlines, `..`, colons and stray bytes."""
