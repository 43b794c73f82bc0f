"""A shell script as a CI writes it, unchanged, with QEMU and with the drop-in in its place: the same transcript."""

from __future__ import annotations

import os
import shutil
import subprocess

from integration.suite import harness, observer, tinyguest
from integration.suite.observer import Way

SCRIPT = os.path.join(os.path.dirname(__file__), "programs", "ci.sh")
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


def _transcript(way: Way, folder: str) -> str:
    """Run the script in a fresh folder of its own; its files end as files of that place."""
    os.mkdir(folder)
    harness.run("restorecon", "-RF", folder)
    kept = shutil.copy(SCRIPT, folder)
    with observer.watching(way, folder) as seen:
        done = subprocess.run(
            ["bash", kept, tinyguest.ROM], cwd=folder, env=way.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=TOGETHER, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    seen.check(vms=VMS)
    assert not [path for path in seen.after if path.endswith(".pid")]
    shutil.rmtree(folder)
    return done.stdout


def test_by_root_in_a_folder_under_tmp() -> None:
    for way in Way:
        assert _transcript(way, f"/tmp/ci-{way.value}") == TRANSCRIPT  # noqa: S108 - where a CI works
