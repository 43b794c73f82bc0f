"""The campaigns, small: each is run whole by `integration/campaign`, with numbers that take minutes."""

from __future__ import annotations

import os
import subprocess

import pytest

from integration.buildhost.hosted import CHECKOUT

SMALL = {
    "syscalls": ["--every", "500"],
    "powercuts": ["--count", "8"],
    "links": ["--count", "500"],
    "crowds": ["--pairs", "400", "--processes", "20", "--crashes", "2", "--launches", "12"],
    "soak": ["--count", "60"],
}


@pytest.mark.parametrize("campaign", SMALL)
def test_a_small_campaign_loses_nothing(campaign: str) -> None:
    command = [os.path.join(CHECKOUT, "integration/campaign"), campaign, *SMALL[campaign]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_the_power_cuts_find_out_who_does_not_sync(kind: str) -> None:
    command = [os.path.join(CHECKOUT, "integration/campaign"), "powercuts", "--kind", kind, "--count", "8"]
    done = subprocess.run([*command, "--unsynced"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"LOST: {kind}, ")
    assert "after its end" in done.stderr
