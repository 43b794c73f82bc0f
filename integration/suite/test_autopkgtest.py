"""autopkgtest-virt-qemu 5.28, unchanged: a Debian boots, a test runs in it over the 9p share, and it is shut down."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness
from integration.suite.observer import Way, watching

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "/var/tmp/clients/debian-image"  # noqa: S108 - in the guest, lent by integration/guestlib/clientdisk.py
DISK, KERNEL, INITRD = (os.path.join(IMAGE, name) for name in ("disk.img", "kernel", "initrd"))
CONTROL = """\
Test-Command: cat /etc/hostname; test "$(id -u)" = 0; echo a file of the test >"$AUTOPKGTEST_ARTIFACTS/made"
Features: test-name=whole
Restrictions: needs-root
Depends:
"""
TOGETHER = 900
"""Seconds for all of it, many times what it takes."""


@pytest.fixture(autouse=True)
def bed() -> None:
    """The test bed is there, and nested KVM: without it Debian takes minutes to boot."""
    assert os.path.exists(DISK), f"{IMAGE} is not there; the disk of clientdisk.py must be lent"
    harness.run("modprobe", "kvm_amd")


@pytest.mark.parametrize("way", Way)
def test_a_test_runs_in_a_test_bed(way: Way, tmp_path: Path) -> None:
    """The client makes the share in TMPDIR and an overlay there, and unlinks the overlay while QEMU runs."""
    tree, temporary, output = tmp_path / "tree", tmp_path / "tmp", tmp_path / "output"
    (tree / "debian" / "tests").mkdir(parents=True)
    (tree / "debian" / "tests" / "control").write_text(CONTROL)
    temporary.mkdir()
    before = [harness.label(path) for path in (DISK, KERNEL, INITRD)]
    with watching(way, IMAGE, str(tmp_path)) as seen:
        command = [
            "autopkgtest", "--output-dir", str(output), str(tree), "--", "qemu", "--qemu-command", way.emulator(),
            "--timeout-reboot", str(TOGETHER), "--qemu-options", f"-kernel {KERNEL} -initrd {INITRD}", DISK,
        ]  # fmt: skip
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": str(temporary), "CONFINED_QEMU_LABEL_TREES": str(temporary)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TOGETHER,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (output / "summary").read_text().split() == ["whole", "PASS"]
    assert (output / "whole-stdout").read_text() == "testbed\n"
    assert (output / "artifacts" / "made").read_text() == "a file of the test\n"
    assert [harness.label(path) for path in (DISK, KERNEL, INITRD)] == before
    seen.check(vms=1)
