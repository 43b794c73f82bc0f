"""The campaign on whole launches, small: `integration/campaign launches` in the guest runs all of it, for hours."""

from __future__ import annotations

from integration.campaigns import launches


def test_a_launch_that_is_killed_or_fails_at_a_call_loses_nothing() -> None:
    (figures,) = launches.few()
    count = len(launches.FEW)
    assert figures == f"launch: kills and faults, {count} of {count} came about: 0 lost"
