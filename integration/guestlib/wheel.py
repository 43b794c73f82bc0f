"""The project as a wheel: built from the checkout, baked into a guest as policy, installed into a running one."""

import glob
import os
import shutil

from guestlib import cache, programs
from guestlib.report import progress

PACKAGE = os.path.join(programs.checkout(), "confined_qemu")
POLICY = os.path.join(PACKAGE, "policy")
PROJECT = os.path.join(programs.checkout(), "pyproject.toml")
# Where the project lives in a guest.
VENV = "/opt/confined-qemu"
COMMAND = f"{VENV}/bin/confined-qemu"


def build() -> str:
    """Return the path of a wheel of the checkout as it is now."""
    folder = cache.entry("wheel", cache.digest_files(PACKAGE, PROJECT), _build)
    return glob.glob(os.path.join(folder, "*.whl"))[0]


def _build(path: str) -> None:
    """Build from a copy of what goes into the wheel, so that the checkout is only read."""
    progress("building the project's wheel")
    source = os.path.join(path, "source")
    shutil.copytree(PACKAGE, os.path.join(source, "confined_qemu"), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT, source)
    # pyproject.toml names it; nothing in a guest reads it.
    with open(os.path.join(source, "README.md"), "w", encoding="ascii"):
        pass
    builder = [programs.tool_python(), "-m", "build", "--wheel", "--no-isolation", "--outdir", path]
    programs.run([*builder, source])
    cache.remove(source)


def bake_policy(root: str) -> None:
    """Let the project install its policy module into a guest's root, then take the project out again.

    Only the module, the launch script and the state folder stay: the code comes later, into the running guest, so
    that a change of code alone builds no new guest.
    """
    if not (os.path.isdir(POLICY) and os.path.exists(os.path.join(PACKAGE, "__main__.py"))):
        progress("  no policy module: the checkout has none yet")
        return
    progress("  installing the project's policy module")
    path = build()
    inside = os.path.join("/tmp", os.path.basename(path))
    shutil.copy(path, root + inside)
    programs.chroot(root, f"{VENV}/bin/pip", "install", "--quiet", "--no-deps", "--no-index", inside)
    programs.chroot(root, COMMAND, "policy", "install", "--no-load")
    programs.chroot(root, f"{VENV}/bin/pip", "uninstall", "--quiet", "--yes", "confined-qemu")
    os.unlink(root + inside)
