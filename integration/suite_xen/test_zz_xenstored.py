"""Without xenstored xl waits for ever; the launcher says so. Nothing starts it again, so this is the last test."""

from __future__ import annotations

import os
import signal

import pytest

from integration.suite_xen import dom0
from integration.suite_xen.dom0 import Spec


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Stand for the fixture that asks xl."""


def test_without_xenstored_nothing_starts_and_it_is_told(folder: str) -> None:
    spec = Spec(folder, "alone", "poweroff")
    path = spec.write()
    process = int(dom0.run("pidof", "oxenstored").stdout)
    os.kill(process, signal.SIGKILL)
    dom0.until("xenstored is gone", lambda: dom0.run("pidof", "oxenstored", check=False).returncode)
    assert "fail  xenstored: /run/xenstored/socket: Connection refused" in dom0.confined("check").stdout
    assert "xenstored does not answer" in dom0.refused("run", path)
    assert dom0.label(spec.image) == dom0.UNUSED
    assert dom0.journals() == []
