"""Every row of the table of options on real QEMU under strace: what it opens is what the plan says, and no more."""

from __future__ import annotations

import tempfile

import pytest

from integration.suite import openings
from integration.suite.openings_table import RUNS, Run


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_what_qemu_opens_was_planned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)  # put back afterwards, as `compare` sets it
    with tempfile.TemporaryDirectory(prefix="o") as folder:  # a socket's name is short
        problems, text = openings.compare(run, folder)
        assert problems == [], text
