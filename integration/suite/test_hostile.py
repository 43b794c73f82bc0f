"""A program in QEMU's place tries all that a table names: bare, as libvirt starts it, and as the launcher does."""

from __future__ import annotations

import pytest

from integration.guestlib import strikes
from integration.guestlib.strikes import Side
from integration.suite import attacks
from integration.suite.policies import HERE


@pytest.mark.usefixtures("libvirtd")
def test_what_a_hostile_program_gets(folder: str, hostile_qemu: str) -> None:
    assert len({one.what for one in strikes.STRIKES}) == len(strikes.STRIKES) >= 60
    for side in Side:
        found = attacks.answers(side, folder, hostile_qemu)
        assert found == {one.what: one.wanted(side, HERE.strikes) for one in strikes.STRIKES}, side
