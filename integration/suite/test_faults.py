"""The installed launch script under strace: a few faults of the thousands of `integration/campaign launchscript`."""

from __future__ import annotations

from integration.guestlib import faults

EVERY = 600
"""Of some hundred calls that change something, and some thousand that can fail; each takes seconds here."""


def test_a_few_faults_at_its_system_calls_lose_nothing() -> None:
    lines = list(faults.run(EVERY, faults.FAULTS))
    assert len(lines) == len(faults.FAULTS)
    assert all(line.endswith("0 lost") and " at 0 of " not in line for line in lines)
