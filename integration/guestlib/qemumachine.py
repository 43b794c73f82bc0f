"""QEMU's own Python library for test harnesses: `qemu.machine` of Debian's QEMU source, and PyPI's `qemu.qmp`.

Debian ships it in no package. It is a client of the suite's, fetched when it is needed and no part of the project.
"""

import glob
import os

from integration.guestlib import base, cache, programs
from integration.guestlib.report import GuestError, progress

NAME = "qemu-machine"
# The newest that qemu.machine of QEMU 7.2 works with as it is: later ones changed what `legacy` expects and returns.
QMP = "qemu.qmp==0.0.2 --hash=sha256:e9c9411e81f3ddbc3608cdaedd9e6c306dd322a4264f5ae17b604479e37bf130\n"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MEMBER = "*/python/qemu/machine/*.py"
_DEPTH = "--strip-components=2"  # qemu-7.2.0/python/


def tree() -> str:
    """Return a folder, named NAME, for a program's PYTHONPATH; fetched when it is not in the cache."""
    return os.path.join(
        cache.entry(NAME, cache.digest(QMP, MEMBER, base.SUITE, cache.digest_files(__file__)), _build), NAME
    )


def _build(path: str) -> None:
    progress("fetching QEMU's source, for its Python library")
    folder = os.path.join(path, NAME)
    os.makedirs(folder)
    source = _source(os.path.join(path, "apt"))
    programs.run(["tar", "-C", folder, _DEPTH, "--no-same-owner", "--wildcards", "-xJf", source, MEMBER])
    requirements = os.path.join(path, "requirements.txt")
    with open(requirements, "w", encoding="ascii") as file:
        file.write(QMP)
    pip = [programs.tool_python(), "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
    programs.run([*pip, "--only-binary=:all:", "--require-hashes", "--dest", path, "-r", requirements])
    (wheel,) = glob.glob(os.path.join(path, "*.whl"))
    programs.run(["/usr/bin/python3", "-m", "zipfile", "-e", wheel, folder])
    cache.remove(os.path.join(path, "apt"))


def _source(folder: str) -> str:
    """Download QEMU's source from this machine's mirror, with apt's lists in a folder of their own; return its tar."""
    for name in ("lists/partial", "archives/partial"):
        os.makedirs(os.path.join(folder, name))
    sources = os.path.join(folder, "sources.list")
    with open(sources, "w", encoding="utf-8") as file:
        file.write(f"deb-src [signed-by={KEYRING}] {_mirror()} {base.SUITE} main\n")
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": os.path.join(folder, "lists"),
        "Dir::Cache": os.path.join(folder, "archives"),
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    programs.run([*apt, "update"])
    # apt-get source downloads into its working directory
    programs.run(["env", "-C", folder, *apt, "source", "--download-only", "--tar-only", "qemu"])
    found = glob.glob(os.path.join(folder, "qemu_*.orig.tar.xz"))
    if len(found) != 1:
        raise GuestError(f"apt-get source qemu: {len(found)} source tars, one was expected")
    return found[0]


def _mirror() -> str:
    """Return where this machine gets Debian's packages from."""
    form = [
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        f"Release: {base.SUITE}",
        "Component: main",
        "Origin: Debian",
    ]
    found = programs.run(["apt-get", "indextargets", *form]).split()
    if not found:
        raise GuestError(f"apt knows no mirror of Debian {base.SUITE}; run: apt-get update")
    return found[0]
