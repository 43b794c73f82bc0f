"""Fixtures of the tests that run the real command on the machine that builds, whose kernel has no SELinux."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from integration.buildhost.hosted import CHECKOUT, Vm

if TYPE_CHECKING:
    from pathlib import Path

_ENTRY = """#!{python} -B
import sys
sys.path.insert(0, {checkout!r})
from confined_qemu.{module} import main
main()
"""


def pytest_sessionstart() -> None:
    """Refuse to run where SELinux is on: these tests are about its absence."""
    if os.path.exists("/sys/fs/selinux/enforce"):
        pytest.exit("these tests need a kernel without SELinux; use integration/test --guest-only", returncode=3)


def _script(path: Path, module: str) -> str:
    path.write_text(_ENTRY.format(python=sys.executable, checkout=CHECKOUT, module=module), encoding="ascii")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `confined-qemu` command of this checkout, as pip would write it."""
    return _script(tmp_path_factory.mktemp("bin") / "confined-qemu", "__main__")


@pytest.fixture(scope="session")
def drop_in(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The emulator's name as a link to the launch script of this checkout."""
    folder = tmp_path_factory.mktemp("drop-in")
    link = folder / "qemu-system-x86_64"
    link.symlink_to(_script(folder / "launch", "cli.launchscript"))
    return str(link)


@pytest.fixture(scope="session")
def qemu() -> str:
    """The bare emulator."""
    path = shutil.which("qemu-system-x86_64")
    assert path is not None, "run integration/setup.sh"
    return path


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    """A bootable image with its spec, under TCG, with `confinement: none`."""
    return Vm(str(tmp_path))
