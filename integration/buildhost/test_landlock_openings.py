"""Every row of the table of options on real QEMU held by Landlock: it ends as bare QEMU does, and nothing is denied."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from integration.suite import openings
from integration.suite.openings_table import RUNS, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

_DENIED = ("Permission denied", "Operation not permitted")


def _ended(run: Run, command: Sequence[str]) -> tuple[bool, list[str]]:
    """Start it in a folder of its own; tell whether it lived, and what it says that it was denied."""
    with tempfile.TemporaryDirectory(prefix="o") as folder:  # a socket's name is short
        place, before = openings.Place(folder), os.getcwd()
        os.chdir(folder)  # a relative name in the table starts there
        try:
            place.make(run.words)
            lived, text = openings.started(place, (*command, *openings.arguments(run, place.hostile)))
        finally:
            os.chdir(before)
            place.close()
    lines = text.replace(folder, "").splitlines()
    return lived, [line for line in lines if any(word in line for word in _DENIED)]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name[:60])
def test_a_held_qemu_opens_all_that_bare_qemu_does(run: Run, drop_in: str) -> None:
    bare = _ended(run, [openings.QEMU])
    held = _ended(run, [drop_in])
    assert held == bare
