"""A shell script as a CI writes it, unchanged, with QEMU and with the drop-in in its place: the same transcript."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, observer, tinyguest
from integration.suite.observer import Way

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = os.path.join(os.path.dirname(__file__), "programs", "ci.sh")
USER = "ci"
VMS = 9
"""How many QEMUs the script starts."""
TOGETHER = 900
"""Seconds for all of it, many times what it takes."""
TRANSCRIPT = """\
== a log in the own folder, keys from a here-document
0
1
== a log in a folder under /tmp, keys from a here-document that is too long for a pipe
0
guest: ready
== a pipe into a grep that leaves at once
guest: ready
0 0 0
== a pipe into a reader that kills: its end comes
guest: ready
137 0
== expect
seen
33
== daemonize
0
qemu-system-x86
0
0
== in the background
0
0
137
== a trap
trap: 0
3
qemu-system-x86_64: terminating on signal 15 from pid
== a judge: the debug port, and nothing on standard error
33 guest: ready 0
"""
_OLD_ABI = re.compile(r"confined-qemu: warning: this kernel's Landlock has ABI 2, which does not hold .*\n")
"""What is said at each start where Landlock is to hold a VM, on the guest's kernel."""


@pytest.fixture
def home() -> Iterator[str]:
    """The home of an ordinary user who may use KVM."""
    harness.run("useradd", "--create-home", "--groups", "kvm", USER, check=False)
    yield pwd.getpwnam(USER).pw_dir
    harness.run("userdel", "--remove", USER)


def _transcript(way: Way, command: list[str], folder: str, owner: str) -> str:
    """Run the script in a fresh folder of its own; its files end as files of that place."""
    os.mkdir(folder)
    shutil.chown(folder, owner)
    harness.run("restorecon", "-RF", folder)
    kept = shutil.copy(SCRIPT, folder)
    with observer.watching(way, folder) as seen:
        done = subprocess.run(
            [*command, "bash", kept, tinyguest.ROM], cwd=folder, env=way.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=TOGETHER, check=False,
        )  # fmt: skip
    said, errors = done.stdout, done.stderr
    if way is Way.LANDLOCK:
        warning = _OLD_ABI.match(errors)
        assert warning is not None, errors
        said = said.replace(warning[0], "").replace(f"ready {len(warning[0])}\n", "ready 0\n")
        errors = errors.replace(warning[0], "")
    assert (done.returncode, errors) == (0, "")
    seen.check(vms=VMS)
    assert not [path for path in seen.after if path.endswith(".pid")]
    shutil.rmtree(folder)
    return said


def test_by_root_in_a_folder_under_tmp() -> None:
    for way in Way:
        assert _transcript(way, [], f"/tmp/ci-{way.value}", "root") == TRANSCRIPT  # noqa: S108 - where a CI works


def test_by_an_ordinary_user_at_home(home: str) -> None:
    # the pipe that a user's script writes into is the user's own: only its owner may bring it to a VM's level
    command = ["runuser", "-u", USER, "--", "sh", "-c", '"$@" 2>&1 | cat', "sh"]
    for way in (Way.BARE, Way.DROP_IN):
        assert _transcript(way, command, f"{home}/ci-{way.value}", USER) == TRANSCRIPT
