"""What `escape` doubles, `split` undoubles, and QEMU reads the same list."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from confined_qemu.model.commas import escape, split
from tests.strategies import hostile, stray

QEMU_IMG = shutil.which("qemu-img")
HOSTILE_BYTES = [bytes((number,)).decode("utf-8", "surrogateescape") for number in range(1, 256)]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", ("",)),
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        ("a,,b", ("a,b",)),
        ("a,,,b", ("a,", "b")),
        ("a,,,,b", ("a,,b",)),
        (",", ("", "")),
        (",,", (",",)),
        (",,,", (",", "")),
        ("a,", ("a", "")),
        ("a,,", ("a,",)),
        ("file=/a,,b,format=raw", ("file=/a,b", "format=raw")),
    ],
)
def test_split_reads_from_left_to_right(text: str, options: tuple[str, ...]) -> None:
    assert split(text) == options


@pytest.mark.parametrize("form", ["{}", "{}x", "x{}", "x{}{}x", "{0}{0}{0}"])
def test_every_byte_survives(form: str) -> None:
    for byte in HOSTILE_BYTES:
        value = form.format(byte, byte)
        text = f"file={escape(value)},format=raw,readonly=on"
        assert split(text) == (f"file={value}", "format=raw", "readonly=on")


@given(st.lists(hostile | stray | st.just(""), min_size=1))
@example([",", ",,", "", ",a,"])
def test_options_round_trip(values: list[str]) -> None:
    text = ",".join(f"key{number}={escape(value)}" for number, value in enumerate(values))
    assert split(text) == tuple(f"key{number}={value}" for number, value in enumerate(values))


@given(hostile)
def test_a_value_cannot_add_an_option(value: str) -> None:
    assert len(split(f"file={escape(value)},readonly=on")) == 2
