"""A hostile program in QEMU's place: what it tries, and how a test has it try."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs", "hostile.py")
_MIN_IMAGE = 1 << 16


def attempt(
    image: harness.Image, program: str, targets: Sequence[tuple[str, Any]], *extra: str, landlock: str = "no"
) -> dict[tuple[str, Any], str]:
    """Run the program as the VM of `image`, with more arguments for QEMU, and return its answers.

    `landlock` is the spec's: that wall denies before SELinux does, and leaves no record.
    """
    with open(image.path, "wb") as file:
        file.write(json.dumps(targets).encode().ljust(_MIN_IMAGE, b"\0"))
    image.write_spec(*extra, emulator=program, landlock=landlock)
    done = harness.confined("run", image.spec)
    assert "hostile: system_u:system_r:svirt_t:s0:c" in done.stdout, done.stderr
    assert done.returncode == 0
    with open(image.path, "rb") as file:
        answers = json.loads(file.read().rstrip(b"\0"))
    return {(kind, target): result for kind, target, result in answers}
