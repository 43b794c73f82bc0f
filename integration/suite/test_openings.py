"""Every row of the table of options on real QEMU: bare under strace, and confined, where it opens the same."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, openings
from integration.suite.openings_sets import CONFINED
from integration.suite.openings_table import RUNS, Run
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILES = frozenset({"file", "dir", "lnk_file", "sock_file", "fifo_file", "unix_stream_socket"})
"""The kernel's classes of what a command line names."""


@pytest.fixture(scope="module", autouse=True)
def code_generation() -> Iterator[None]:
    """TCG for bare QEMU and for VMs; and the launcher's package, which has an environment of its own here."""
    sys.path.extend(glob.glob("/opt/confined-qemu/lib/python3*/site-packages"))
    subprocess.run(["setsebool", *(f"{name}=on" for name in HERE.execmem)], check=True)
    yield
    subprocess.run(["setsebool", *(f"{name}=off" for name in HERE.execmem)], check=True)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name[:60])
def test_what_qemu_opens_was_planned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)  # put back afterwards, as `compare` sets it
    with tempfile.TemporaryDirectory(prefix="o") as folder:  # a socket's name is short
        problems, text = openings.compare(run, folder)
        assert problems == [], text


@pytest.mark.parametrize("run", CONFINED, ids=lambda run: run.name[:60])
def test_a_confined_vm_opens_all_of_it(run: Run, folder: str, audit: harness.AuditTrail) -> None:
    drop_in = os.path.join(folder, "qemu-system-x86_64")
    os.symlink(harness.LAUNCH, drop_in)
    place = openings.Place(folder)
    try:
        place.make(run.words)
        lived, text = openings.started(place, (drop_in, *openings.arguments(run, place.hostile)))
    finally:
        place.close()
    harness.settle()
    assert lived, text
    # every VM is denied the host's memory, devices and io_uring; nothing that it was given is denied to it
    given = [denial for denial in audit.denials() if denial.kind in _FILES and "virt" in denial.target]
    assert [denial.text for denial in given if ":svirt" in denial.source] == []
