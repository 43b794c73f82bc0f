"""What `run` says when a QEMU that Landlock held has failed: Landlock keeps no record, so the plan is asked instead."""

from __future__ import annotations

import os

from confined_qemu.model.commas import split
from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confined_qemu.model.plan import Plan

_MOST = 8
"""Paths that are named; a command line with more has another problem."""


def lines(plan: Plan) -> list[str]:
    """Return a message for each file that QEMU may have been denied, none where the plan speaks of all of them."""
    if plan.landlock is None:
        return []
    allowed = [rule.path for rule in plan.landlock.rules]
    declared = {planned.path: planned.resource.source for planned in plan.resources}
    found = []
    for path in dict.fromkeys(_named(plan.arguments)):
        real = os.path.realpath(path)
        if path in declared or real in declared:
            continue
        if not any(real == rule or real.startswith(f"{rule}/") for rule in allowed):
            found.append(
                f"Landlock kept QEMU from opening {path}, which its command line names and the plan does not"
                f"{HINT}declare it: extra_files: in the spec, or CONFINED_QEMU_EXTRA_PATHS={shell_word(path)}"
            )
    # where SELinux holds the VM, too, the launcher's rights are not the VM's, and the denials speak for themselves
    for path, source in declared.items() if plan.process is None else ():
        if os.path.exists(path) and not os.access(path, os.R_OK):
            found.append(
                f"{path} ({source}): Landlock allows it, its owner and mode do not{HINT}see: ls -l {shell_word(path)}"
            )
    return found[:_MOST]


def _named(arguments: tuple[str, ...]) -> Iterator[str]:
    """Yield the absolute paths of files that there are among QEMU's arguments."""
    for argument in arguments:
        for item in split(argument):
            path = item[item.find("/") :] if "/" in item else ""
            if path.startswith("/") and os.path.isfile(path):
                yield path
