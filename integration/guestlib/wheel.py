"""The project as a wheel, and as the tree that the wheel comes to in a guest.

Installing with pip in the running guest takes 20 seconds under emulation, unpacking a tree made here takes one.
"""

import glob
import os
import shutil

from integration.guestlib import cache, places, programs
from integration.guestlib.report import progress

PACKAGE = os.path.join(programs.checkout(), "confined_qemu")
POLICY = os.path.join(PACKAGE, "install")
PROJECT = os.path.join(programs.checkout(), "pyproject.toml")
# Where the project lives in a guest: a virtual environment of Debian 12's Python.
VENV = "/opt/confined-qemu"
COMMAND = f"{VENV}/bin/confined-qemu"
PACKAGES = "lib/python3.11/site-packages"
_HOUR = 3600
"""Seconds for which a wheel stays beside a newer one: it may be on its way into another checkout's guest."""
_SCRIPT = "confined_qemu/cli/confined-qemu.sh"
"""What pip installs as the command."""


def tree() -> str:
    """Return a folder with what the checkout as it is now puts into VENV: package, metadata, command."""
    return cache.entry("wheel", cache.digest(cache.digest_files(PACKAGE, PROJECT)), _build, young=_HOUR)


def _build(path: str) -> None:
    """Build from a copy of what goes into the wheel, so that the checkout is only read."""
    progress("building the project's wheel")
    source = os.path.join(path, "source")
    shutil.copytree(PACKAGE, os.path.join(source, "confined_qemu"), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT, source)
    # pyproject.toml names it; nothing in a guest reads it.
    with open(os.path.join(source, "README.md"), "w", encoding="ascii"):
        pass
    builder = [programs.tool_python(), "-m", "build", "--wheel", "--no-isolation", "--outdir", source]
    programs.run([*builder, source])
    packages = os.path.join(path, PACKAGES)
    programs.run(["/usr/bin/python3", "-m", "zipfile", "-e", glob.glob(os.path.join(source, "*.whl"))[0], packages])
    programs.run(["/usr/bin/python3", "-m", "compileall", "-q", "-s", path, "-p", VENV, packages])
    command = path + COMMAND.removeprefix(VENV)
    os.mkdir(os.path.dirname(command))
    shutil.copy(os.path.join(source, _SCRIPT), command)
    os.chmod(command, 0o755)
    cache.remove(source)


def installed(root: str = "") -> list[str]:
    """Return the shell patterns of everything that an installed tree has in a guest, or in its root folder."""
    return [f"{root}{COMMAND}", f"{root}{VENV}/{PACKAGES}/confined_qemu", f"{root}{VENV}/{PACKAGES}/confined_qemu-*"]


def bake_policy(root: str, store: str) -> None:
    """Let the project install its policy module into a guest's root, then take the project out again.

    Only what `policy install` writes stays, and the whole policy as a host would have it, for the tests that ask what
    would be in a host's log. The code comes later, into the running guest, so that a change of code alone builds no
    new guest.
    """
    progress("  installing the project's policy module")
    programs.run(["cp", "-a", f"{tree()}/.", root + VENV])
    programs.chroot(root, COMMAND, "policy", "install", "--no-load")
    programs.chroot(root, "semodule", "-n", "-s", store, "-B")
    (built,) = glob.glob(os.path.join(root, "etc/selinux", store, "policy", "policy.*"))
    shutil.copy(built, root + places.AUDITED)
    programs.chroot(root, "semodule", "-n", "-s", store, "-B", "-D")
    for pattern in installed(root):
        for path in glob.glob(pattern):
            cache.remove(path)
