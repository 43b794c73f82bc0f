"""What hatchling calls while it builds the wheel: adds the man pages. Not part of an installation."""

from __future__ import annotations

import os
import runpy
import tempfile
import time
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManPages(BuildHookInterface[Any]):
    """Writes the help topics as man pages, and has them installed below share/man."""

    _written: tempfile.TemporaryDirectory[str]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's words
        """Write the pages before the wheel is put together."""
        package = os.path.join(self.root, "confined_qemu")
        # by its path: what is imported as confined_qemu here may be another version, installed before
        writer = runpy.run_path(os.path.join(package, "cli", "manpages.py"))
        epoch = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
        date = time.strftime("%Y-%m-%d", time.gmtime(epoch))
        self._written = tempfile.TemporaryDirectory()
        build_data["shared_data"].update(writer["write"](os.path.join(package, "help"), self._written.name, date))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - the same
        """Remove what the wheel holds a copy of."""
        self._written.cleanup()
