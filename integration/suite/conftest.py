"""Fixtures of the suite that runs inside the enforcing guest; the wrong environment fails, it is not skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, hostile, sides, tinyguest, virtd
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_sessionstart() -> None:
    """Refuse to run where the kernel does not enforce: nothing here would count."""
    tinyguest.install()
    with open("/sys/fs/selinux/enforce", encoding="ascii") as file:
        enforcing = file.read().strip()
    if enforcing != "1" or os.geteuid() != 0:
        pytest.exit("the suite needs root on a kernel where SELinux enforces", returncode=3)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh folder for images, labelled as the policy labels one; empty and without our labels afterwards."""
    with harness.images_folder(request.node.name[:60]) as path:
        yield path


@pytest.fixture
def make_image(folder: str) -> Callable[[str], harness.Image]:
    """Return a function that makes a bootable image with a spec, labelled virt_image_t."""

    def make(name: str) -> harness.Image:
        return harness.fresh_image(folder, name)

    return make


@pytest.fixture
def image(make_image: Callable[[str], harness.Image]) -> harness.Image:
    """One bootable image."""
    return make_image("a")


@pytest.fixture
def audit() -> harness.AuditTrail:
    """The denials of this test."""
    return harness.AuditTrail()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test no VM runs, no watcher waits and no journal is left; a VM that is left fails this test only."""
    yield
    for process in harness.STARTED:
        process.end()
    harness.STARTED.clear()
    left = harness.end_vms() if harness.journals() else []
    assert left == []
    assert harness.journals() == []
    harness.until("watchers end", lambda: not harness.watchers())


@pytest.fixture
def drop_in() -> Iterator[str]:
    """The launch script under QEMU's names, in a folder for PATH."""
    os.makedirs(sides.NAMES, exist_ok=True)
    for name in ("qemu-system-x86_64", "qemu-kvm"):
        os.symlink(harness.LAUNCH, os.path.join(sides.NAMES, name))
    yield sides.DROP_IN
    shutil.rmtree(sides.NAMES)


@pytest.fixture
def execmem_where_needed(request: pytest.FixtureRequest) -> None:
    """VMs under TCG may generate code: the policy's boolean where there is no domain for them."""
    if HERE.tcg == "svirt_t":
        request.getfixturevalue("execmem")


@pytest.fixture
def execmem() -> Iterator[None]:
    """TCG may generate code, for one test."""
    subprocess.run(["setsebool", "virt_use_execmem=on"], check=True)
    yield
    subprocess.run(["setsebool", "virt_use_execmem=off"], check=True)


@pytest.fixture
def hostile_qemu() -> Iterator[str]:
    """The hostile program, installed where QEMU could be and labelled as QEMU is."""
    with hostile.installed() as path:
        yield path


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[None]:
    """Run libvirt's daemon meanwhile."""
    with virtd.running():
        yield
