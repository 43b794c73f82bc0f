"""Whole guests on the building machine, held by Landlock, and clients that start QEMU themselves and are not changed.

`qemu.machine` is in `test_landlock_devices`; guestfish, autopkgtest and shell scripts, whose guests are made for KVM or
beds of their own, are in the suite.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from integration.buildhost import hosted
from integration.buildhost.hosted import CHECKOUT
from integration.guestlib import hostclients, image, scene

if TYPE_CHECKING:
    from pathlib import Path

MINUTES = 4 * hosted.PATIENCE
"""Seconds after which a Debian kernel with a whole root will never be up, under TCG and where others work too."""


_VARYING = (
    (r"\S+ +kvm: .*\n( {6,}.*\n)?", ""),  # this machine's
    (r"\b(kvm|tcg)\b", "ACCELERATOR"),
    (r"ABI \d+", "ABI N"),
    (r" \d+ +(?=ACCELERATOR)", " PID "),
    (r"\d+M\b", "MEMORY"),
    (r"/\S+/(?=linux-0\.2\.img)", ""),
    (r" +", " "),
)


def test_the_demo_boots_linux_0_2_takes_a_command_and_powers_off_as_the_help_says() -> None:
    done = subprocess.run(
        [os.path.join(CHECKOUT, "integration", "demo"), "--here"], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False, timeout=MINUTES,
    )  # fmt: skip
    assert done.returncode == 0, done
    shown = scene.transcript(os.path.join(CHECKOUT, "confined_qemu", "help", "landlock.md"))
    assert scene.same_each_time(done.stdout, *_VARYING) == scene.same_each_time(shown, *_VARYING)


def test_virtme_ng_runs_a_command_on_a_kernel_with_the_hosts_root(drop_in: str, tmp_path: Path) -> None:
    """It boots Debian's kernel, whose 9p is a module, from an initramfs of its own.

    Without udev in the root it has the command's output from the console alone, and not its exit code.
    """
    words = ["vng", "--verbose", "--run", hostclients.kernel(), "--qemu", drop_in, "--disable-kvm", "--force-9p"]
    done = subprocess.run(
        [*words, "--exec", "echo sum-$((40+2)); exit 3"],
        env={**hostclients.environment(), "HOME": str(tmp_path), "CONFINED_QEMU_CONFINEMENT": "landlock"},
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=MINUTES,
    )  # fmt: skip
    assert "sum-42" in done.stdout.splitlines(), done
    assert "script exited with code 3" in done.stdout
    assert "confined-qemu: " not in done.stdout


_LABGRID = """
import sys
from labgrid import Environment

driver = Environment(sys.argv[1]).get_target("main").get_driver("QEMUDriver")
driver.on()
with open(f"/proc/{driver._child.pid}/status") as file:
    print(next(line for line in file if line.startswith("NoNewPrivs")))
driver.expect(sys.argv[2], timeout=120)
driver.sendline("echo sum-$((40+2))")
driver.expect("sum-42", timeout=30)
print(driver.monitor_command("query-status"))
driver.off()
"""


def test_labgrid_boots_talks_and_ends(drop_in: str, tmp_path: Path) -> None:
    disk = shutil.copy(image.image(), tmp_path)
    place = tmp_path / "place.yaml"
    driver = {
        "qemu_bin": "qemu", "machine": "pc", "cpu": "qemu64", "memory": "128M",
        "extra_args": f"-accel tcg -drive file={disk},format=raw,if=ide",
    }  # fmt: skip
    settings = {"targets": {"main": {"drivers": {"QEMUDriver": driver}}}, "tools": {"qemu": drop_in}}
    place.write_text(json.dumps(settings))  # JSON is YAML
    done = subprocess.run(
        [sys.executable, "-B", "-c", _LABGRID, str(place), scene.MARKER],
        env={**hostclients.environment(), "CONFINED_QEMU_CONFINEMENT": "landlock"},
        capture_output=True, text=True, check=False, timeout=MINUTES,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert "NoNewPrivs:\t1" in done.stdout
    assert "running" in done.stdout
