"""The campaigns, small: each is run whole by `integration/campaign`, with numbers that take minutes."""

from __future__ import annotations

import os
import subprocess

import pytest

from integration.buildhost.hosted import CHECKOUT

SMALL = {
    "syscalls": ["--every", "80"],
    "powercuts": ["--kind", "ext4", "--count", "8"],
    "links": ["--count", "500"],
    "crowds": ["--pairs", "400", "--processes", "20", "--crashes", "2"],
    "soak": ["--count", "60"],
}


@pytest.mark.parametrize("campaign", SMALL)
def test_a_small_campaign_loses_nothing(campaign: str) -> None:
    command = [os.path.join(CHECKOUT, "integration/campaign"), campaign, *SMALL[campaign]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
