"""The real image, booted and powered off many times one after the other: what is there afterwards must not grow.

`integration/campaign boots` has this run in an enforcing guest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = "/root/cq/images"
IMAGE, SPEC = "linux-0.2.img", "linux-0.2.yaml"
MARKER = b"linux-0.2: ready"
STATE = "/var/lib/confined-qemu"
_FIRST = 1
"""Boots after which all that stays is there: the user's folder, its lock, its history."""
_SLACK = 256
"""KiB of a watcher's private memory that may differ from one boot to the other."""


class Size(NamedTuple):
    """What stays after a boot, and the watcher's private memory (KiB) during it."""

    files: int
    processes: int
    memory: int


class GrowthError(Exception):
    """Something grows, or a label did not come back."""


def place(folder: str) -> None:
    """Put the image and its spec into a folder, labelled as the policy labels them."""
    for name in (IMAGE, SPEC):
        shutil.copy(os.path.join(SOURCE, name), folder)
    subprocess.run(["restorecon", "-RF", folder], check=True)


def boot(folder: str) -> Size:
    """Boot the image, take a command's answer, power off, and return what is there then.

    Raises:
        GrowthError: its label is not what it was.
    """
    disk = os.path.join(folder, IMAGE)
    vm = harness.Process([harness.COMMAND, "run", os.path.join(folder, SPEC)])
    vm.read_until(MARKER)
    (watcher,) = harness.watchers()
    with open(f"/proc/{watcher}/smaps_rollup", encoding="ascii") as file:
        memory = sum(int(line.split()[1]) for line in file if line.startswith("Private_"))
    vm.send(b"echo sum-$((40+2))\n")
    vm.read_until(b"sum-42")
    vm.send(b"poweroff\n")
    if vm.wait() != 0 or harness.short_label(disk) != harness.UNUSED:
        raise GrowthError(f"{disk} is {harness.short_label(disk)}")
    harness.settle()
    files = sum(len(names) for _, _, names in os.walk(STATE))
    return Size(files, len(harness.watchers()) + len(harness.journals()), memory)


def run(count: int) -> Iterator[str]:
    """Boot `count` times; yield figures.

    Raises:
        GrowthError: something grows, or a label did not come back.
    """
    with harness.images_folder("boots") as folder:
        place(folder)
        sizes = [boot(folder) for _ in range(count)]
    first, last = sizes[_FIRST - 1], sizes[-1]
    most = max(size.memory for size in sizes)
    if last.files > first.files or last.processes or most > first.memory + _SLACK:
        raise GrowthError(f"from {first} to {last}, at most {most} KiB")
    yield f"{count} boots: {last.files} files, {last.processes} processes, watcher {most} KiB at most; no growth"


def main() -> int:
    """Boot, and print figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30, metavar="N", help="how many boots (30)")
    chosen = parser.parse_args()
    try:
        for line in run(chosen.count):
            sys.stdout.write(f"{line}\n")
    except GrowthError as error:
        sys.stderr.write(f"LOST: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
