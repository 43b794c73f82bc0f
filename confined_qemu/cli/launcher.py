"""What the launch script serves: the emulator's names, and the verbs that label and launch."""

from __future__ import annotations

import os
import sys

from confined_qemu.cli.output import guarded, progress, warn
from confined_qemu.host import emulator
from confined_qemu.host.inherited import inherited, initial
from confined_qemu.model.annotations import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main() -> NoReturn:
    """Serve this process's command line; does not return."""
    sys.exit(guarded(lambda: _serve(sys.argv[0], sys.argv[1:])))


def serve(arguments: Sequence[str]) -> int:
    """Serve a verb without the launch script (not installed): with the caller's own rights."""
    return guarded(lambda: _serve("confined-qemu", arguments))


def _serve(argv0: str, arguments: Sequence[str]) -> int:
    descriptors = inherited()
    if emulator.is_name(os.path.basename(argv0)):
        return _drop_in(argv0, arguments, descriptors)
    from confined_qemu.cli import launchverbs

    chosen = launchverbs.parsed(arguments)
    code: int = chosen.action(chosen, descriptors)
    return code


def _drop_in(argv0: str, arguments: Sequence[str], descriptors: tuple[int, ...]) -> int:
    from confined_qemu.host import settingsfiles
    from confined_qemu.launch import collect, inputs, session

    settings, _ = settingsfiles.load(os.environ)
    invocation = inputs.from_arguments(os.path.basename(argv0), arguments, settings=settings)
    session.launch(invocation, collect.Caller(initial(), descriptors, argv0), warn, progress)
