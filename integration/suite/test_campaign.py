"""The campaign on whole launches, small: `integration/campaign launches` in the guest runs all of it, for hours."""

from __future__ import annotations

from integration.campaigns import launches

EVERY = 300
"""Of about a thousand calls of a launch, these are hit here: each launch takes seconds under strace."""


def test_a_launch_that_is_killed_or_fails_at_a_call_loses_nothing() -> None:
    figures = list(launches.run(EVERY))
    assert [line.split(" at ")[0] for line in figures] == [
        "launch: signal=KILL", "launch: error=EIO", "launch: error=ENOSPC"
    ]  # fmt: skip
    assert all(line.endswith("0 lost") and " at 0 of" not in line for line in figures)
