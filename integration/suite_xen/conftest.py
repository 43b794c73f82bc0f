"""Fixtures of the suite that runs in Xen's dom0; the wrong environment fails, it is not skipped."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from integration.suite_xen import dom0

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_sessionstart() -> None:
    """Refuse to run anywhere but in a dom0 whose SELinux enforces: nothing here would count."""
    with open("/sys/fs/selinux/enforce", encoding="ascii") as file:
        enforcing = file.read().strip() == "1"
    with open("/proc/xen/capabilities", encoding="ascii") as file:
        control = "control_d" in file.read()
    if not (enforcing and control):
        pytest.exit("the suite needs Xen's dom0 with an SELinux that enforces", returncode=3)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh folder for images, labelled as the policy labels one."""
    path = os.path.join(dom0.IMAGES, request.node.name[:40])
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    dom0.run("restorecon", "-RF", dom0.IMAGES)
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test no domain runs, no watcher waits and no journal is left."""
    yield
    for started in dom0.STARTED:
        started.kill()
    dom0.STARTED.clear()
    left = (dom0.domains(), dom0.journals())
    if left != ({}, []):  # this test fails of it, and no other
        dom0.confined("recover")
        for name in dom0.domains():
            dom0.run("xl", "destroy", name)
    assert left == ({}, [])
    dom0.until("watchers end", lambda: not dom0.watchers())
