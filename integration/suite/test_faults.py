"""The installed launch script under strace: a few faults of the thousands of `integration/campaign launchscript`."""

from __future__ import annotations

import pytest

from integration.guestlib import faults

EVERY = 1000
"""Of more than a hundred calls that change something, and some thousand that can fail; each takes seconds here."""


@pytest.mark.parametrize("verb", faults.VERBS)
def test_a_few_faults_at_its_system_calls_lose_nothing(verb: str) -> None:
    lines = list(faults.run(EVERY, faults.FAULTS, verb))
    assert len(lines) == len(faults.FAULTS)
    assert all(line.endswith("0 lost") and " at 0 of " not in line for line in lines)
