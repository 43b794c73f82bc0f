"""A hostile program in QEMU's place: what it tries, and how a test has it try."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs", "hostile.py")
_PLACE = "/usr/local/bin/hostile-qemu"
_MIN_IMAGE = 1 << 16


@contextmanager
def installed() -> Iterator[str]:
    """Have the program where QEMU could be, labelled as QEMU is; yield its path."""
    shutil.copy(PROGRAM, _PLACE)
    try:
        os.chmod(_PLACE, 0o755)
        harness.run("chcon", "-t", "qemu_exec_t", _PLACE)
        yield _PLACE
    finally:
        os.unlink(_PLACE)


def attempt(
    image: harness.Image, program: str, targets: Sequence[tuple[str, Any]], *extra: str, landlock: str = "no"
) -> dict[tuple[str, Any], str]:
    """Run the program as the VM of `image`, with more arguments for QEMU, and return its answers.

    `landlock` is the spec's: that wall denies before SELinux does, and leaves no record.
    """
    prepare(image.path, targets)
    image.write_spec(*extra, emulator=program, landlock=landlock)
    done = harness.confined("run", image.spec)
    assert "hostile: system_u:system_r:svirt_t:s0:c" in done.stdout, done.stderr
    assert done.returncode == 0
    kinds = zip(targets, answers(image.path), strict=True)
    return {(kind, target): result for (kind, target), result in kinds}


def prepare(path: str, targets: Sequence[tuple[str, Any]]) -> None:
    """Write into the program's own image what it is to try."""
    with open(path, "wb") as file:
        file.write(json.dumps(targets).encode().ljust(_MIN_IMAGE, b"\0"))


def answers(path: str) -> list[str]:
    """Return what the program wrote there: an answer for each attempt."""
    with open(path, "rb") as file:
        return [result for _, _, result in json.loads(file.read().rstrip(b"\0"))]
