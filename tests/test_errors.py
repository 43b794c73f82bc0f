"""Errors are lines for a person: one line each, nothing in them that a terminal would obey."""

from __future__ import annotations

import errno
import shlex

import pytest
from hypothesis import given

from confined_qemu.model import errors
from confined_qemu.model.errors import HINT, ConfinedQemuError, SpecError, printable, shell_word, why
from tests.messages import is_message
from tests.strategies import hostile, stray


@pytest.mark.parametrize(
    ("where", "hint", "line"),
    [
        (None, None, "what"),
        ("a.yaml:1:2", None, "a.yaml:1:2: what"),
        (None, "mend it", "what\n  mend it"),
        ("a.yaml:1:2", "mend it", "a.yaml:1:2: what\n  mend it"),
    ],
)
def test_where_what_and_how_to_mend(where: str | None, hint: str | None, line: str) -> None:
    assert str(ConfinedQemuError("what", where=where, hint=hint)) == line


# no message of ours begins with a blank, and a stranger's text is printable, so none of it holds the mark of a hint
@given((hostile | stray).filter(lambda text: HINT not in text and text[:1] not in ("", " ")))
def test_no_error_breaks_its_line_or_the_terminal(text: str) -> None:
    line = str(ConfinedQemuError(text, where=text, hint=text))
    assert is_message(line)
    assert line.count("\n") == 1
    line.encode()


@given(hostile | stray)
def test_each_problem_of_a_spec_is_a_line(text: str) -> None:
    assert str(SpecError((text, text))).split("\n") == [printable(text)] * 2


def test_printable_text_is_left_alone() -> None:
    assert printable("/tmp/Käse, c") == "/tmp/Käse, c"  # noqa: S108 - no file, a text
    assert printable("a\nb\x1b[31m\udcff") == r"a\nb\x1b[31m\udcff"


def test_the_systems_words_without_number_or_path() -> None:
    assert why(FileNotFoundError(errno.ENOENT, "other words", "/x")) == "No such file or directory"
    assert why(OSError("no\nnumber")) == r"no\nnumber"


def test_exit_statuses_are_those_of_env() -> None:
    leaves = {
        leaf: leaf.exit_code
        for leaf in vars(errors).values()
        if isinstance(leaf, type) and issubclass(leaf, ConfinedQemuError)
    }
    assert leaves.pop(errors.EmulatorNotFound) == 127
    assert leaves.pop(errors.EmulatorNotExecutable) == 126
    assert len(leaves) > 8
    assert set(leaves.values()) == {125}


@given(hostile | stray)
def test_a_word_of_a_shell_is_the_text_again(text: str) -> None:
    word = shell_word(text)
    assert word.isprintable()
    if text.isprintable():
        assert shlex.split(word) == [text]
        assert word == shlex.quote(text)


def test_what_needs_no_quotes_gets_none() -> None:
    assert [shell_word(text) for text in ("/a/b-c_1.img", "a b", "", "it's", "é")] == [
        "/a/b-c_1.img", "'a b'", "''", "'it'\"'\"'s'", "'é'",
    ]  # fmt: skip
