"""Our own writer of JSON against the standard library's reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.model.jsontext import dumps
from confined_qemu.model.resource import Access

TEXTS = st.text() | st.text(st.characters(categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = dumps(value)
    assert text.isascii()
    assert "\n" not in text
    assert text == json.dumps(value)


def test_what_is_not_plain_is_told() -> None:
    assert dumps({"access": Access.READ, "all": (1, True)}) == '{"access": "ro", "all": [1, true]}'
    with pytest.raises(TypeError, match="float is not written as JSON"):
        dumps([1.5])
