"""What the tests of MLS need of the guest before they start."""

from __future__ import annotations

import pytest

from integration.suite import harness


@pytest.fixture(scope="session", autouse=True)
def booted() -> None:
    """The boot unit has run, as on a host that was booted with the project installed: it makes /run/confined-qemu."""
    harness.run("systemctl", "start", "confined-qemu-recover.service")
    assert harness.short_label("/run/confined-qemu") == "confined_qemu_runtime_t:s0"
