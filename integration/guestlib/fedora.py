"""Fedora's targeted policy in a Debian root: its modules as CIL, and the files that belong beside the binary policy.

The policy is data that a test host loads; nothing of it is part of the project. It is looked for in the folder that
CONFINED_QEMU_FEDORA_POLICY names, else in `shared/fedora-policy` beside the checkout. On a Fedora host
`semodule -E --cil` writes files of the same kind.
"""

import glob
import os
import shutil

from integration.guestlib import cache, programs
from integration.guestlib.report import GuestError, progress

MODULES, CONTEXTS = "modules.tar.xz", "contexts.tar.xz"
VARIABLE = "CONFINED_QEMU_FEDORA_POLICY"
PRIORITY = "100"
SETTINGS = {
    # as on Fedora; else /root would be a user's home, and Debian's users would each get rules of their own
    "usepasswd": "False",
    "ignoredirs": "/root",
    "optimize-policy": "true",
}


def folder() -> str:
    """Return the folder with the two archives.

    Raises:
        GuestError: one of them is not there.
    """
    beside = os.path.join(os.path.dirname(programs.checkout()), "shared", "fedora-policy")
    path = os.environ.get(VARIABLE) or beside
    for name in (MODULES, CONTEXTS):
        if not os.path.isfile(os.path.join(path, name)):
            raise GuestError(f"{path}: has no {name} (Fedora's policy); set {VARIABLE} to the folder that has it")
    return path


def key() -> str:
    """Return the key of what `install` makes."""
    return cache.digest(cache.digest_files(folder(), __file__), str(SETTINGS))


def unpack(name: str, into: str) -> None:
    """Unpack one of the archives into a folder."""
    programs.run(["tar", "-C", into, "--no-same-owner", "-xJf", os.path.join(folder(), name)])


def whole() -> str:
    """Return the whole policy as one CIL file, as `secilc` takes it."""
    return cache.entry("fedora-cil", key(), _join)


def _join(path: str) -> None:
    scratch = f"{path}.d"
    os.mkdir(scratch)
    try:
        unpack(MODULES, scratch)
        with open(path, "wb") as joined:
            for name in sorted(glob.glob(os.path.join(scratch, "fc", "*.cil"))):
                with open(name, "rb") as file:
                    shutil.copyfileobj(file, joined)
                joined.write(b"\n")
    finally:
        cache.remove(scratch)


def install(root: str, store: str) -> None:
    """Make it the policy of a Debian root, in the module store `store`; without its dontaudit rules."""
    progress("  loading Fedora's modules")
    settings = os.path.join(root, "etc/selinux", store)
    os.makedirs(os.path.join(settings, "policy"), exist_ok=True)
    os.makedirs(os.path.join(root, "var/lib/selinux", store), exist_ok=True)
    unpack(CONTEXTS, settings)
    with open(os.path.join(root, "etc/selinux/semanage.conf"), "a", encoding="ascii") as file:
        file.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())
    modules = os.path.join(root, "root", "fedora-modules")
    os.mkdir(modules)
    unpack(MODULES, modules)
    names = sorted(os.path.relpath(name, root) for name in glob.glob(os.path.join(modules, "fc", "*.cil")))
    programs.chroot(root, "semodule", "-n", "-s", store, "-D", "-X", PRIORITY, "-i", *(f"/{name}" for name in names))
    cache.remove(modules)
