"""The seal itself: what a test may not do fails it, in Python and below."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import TouchesHostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _connect(family: int, address: object) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.connect(address)  # type: ignore[arg-type] # whatever a test gives


FORBIDDEN: dict[str, Callable[[], object]] = {
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "subprocess": lambda: subprocess.run(["/bin/true"], check=True),
    "label": lambda: os.setxattr("/dev/null", "security.selinux", b"x"),
    "attribute": lambda: open("/proc/self/attr/exec", "w", encoding="ascii"),  # noqa: SIM115 - never opened
    "selinuxfs": lambda: os.open("/sys/fs/selinux/enforce", os.O_RDWR),
    "elsewhere": lambda: open("/var/tmp/x", "w", encoding="ascii"),  # noqa: S108, SIM115 - never opened
    "folder": lambda: os.mkdir("/var/tmp/x"),  # noqa: S108 - never made
    "tree": lambda: shutil.rmtree("/var/tmp/x"),  # noqa: S108 - never there
    "rename": lambda: os.rename("/etc/passwd", "/etc/passwd.new"),
    "internet": lambda: _connect(socket.AF_INET, ("127.0.0.1", 9)),
    "bus": lambda: _connect(socket.AF_UNIX, "/run/dbus/system_bus_socket"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_it_is_not_done(name: str) -> None:
    with pytest.raises((TouchesHostError, FileNotFoundError) if name == "tree" else TouchesHostError):
        FORBIDDEN[name]()


def test_libselinux_is_out_of_reach() -> None:
    with pytest.raises(ImportError):
        import selinux  # noqa: F401


def test_the_own_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text("x")
    shutil.rmtree(tmp_path / "a")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.touches_host
def test_the_marker_lifts_it() -> None:
    assert subprocess.run(["/bin/true"], check=False).returncode == 0
