"""The launch script: what `policy install` writes outside pip's files, so that its label stays."""

from __future__ import annotations

import os
import stat

from confined_qemu.host import interpreter
from confined_qemu.model.errors import HostError, printable
from confined_qemu.model.lean import Enum

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def package_folder() -> str:
    """Return the folder that holds the package `confined_qemu`."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


class Script(Enum):
    """A script of ours whose label brings it into a domain of its own: (what it is to the reader, how it starts)."""

    LAUNCH = (
        "its label brings QEMU's launcher into its own domain",
        "from confined_qemu.cli.launchscript import main\nmain()\n",
    )
    DENIALS = (
        "its label brings what reads the audit log into a domain that may do that and nothing else",
        "from confined_qemu.cli import denials_script\nsys.exit(denials_script())\n",
    )


def text(script: Script) -> str:
    """Return a script. Isolated and without site: nothing of the caller's environment chooses what it runs.

    Raises:
        HostError: the package lies where others than root may write, so it may not run in the launcher's domain, or no
            Python of the distribution can run it.
    """
    package = package_folder()
    _require_trusted(package)
    purpose, start = script.value
    python = interpreter.find()
    folders = [package] if python.binding is None else [python.binding, package]
    # PyPI's shim would look for the binding by starting Pythons, in the launcher's domain; libselinux is had by ctypes
    shut = "sys.modules['selinux'] = None\n" if python.binding is None else ""
    # -I and -S in one word: a #! line passes a single argument
    return (
        f"#!{python.path} -IS\n"
        f"# Written by `confined-qemu policy install`: {purpose}.\n"
        "import sys\n"
        f"sys.path += {folders!r}\n"
        f"{shut}{start}"
    )


def _require_trusted(package: str) -> None:
    path = os.path.join(package, "confined_qemu")
    while True:
        found = os.stat(path)
        if found.st_uid != 0 or (found.st_mode & _WRITABLE_BY_OTHERS and not found.st_mode & stat.S_ISVTX):
            raise HostError(
                "others than root may write here, so the launcher's domain cannot run code from it",
                where=printable(path),
                hint="install confined-qemu as root, for example into /opt/confined-qemu",
            )
        if path == "/":
            return
        path = os.path.dirname(path)
