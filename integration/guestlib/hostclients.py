"""Clients from PyPI that start QEMU themselves, for tests on the building machine, and a kernel that one of them boots.

They are no part of the project: they live in a folder of the cache, and are run with it as their PYTHONPATH.
"""

import glob
import os

from integration.guestlib import base, cache, programs
from integration.guestlib.report import progress

CLIENTS = ("virtme-ng==1.42", "labgrid==26.0")
_KERNEL = "linux-image-amd64"  # the cloud kernel has no 9p, by which virtme-ng mounts the host's root
_MODULES = ("arch", "crypto", "drivers/char", "drivers/input", "drivers/virtio", "fs", "lib", "net/9p")
"""What it may load before it has the host's root: all modules are four times that."""


def folder() -> str:
    """Return the folder of the clients; they are installed when it is not in the cache."""
    return cache.entry("clients", cache.digest(*CLIENTS), _install)


def environment() -> dict[str, str]:
    """Return this process's environment with the clients in it."""
    place, path = folder(), os.environ.get("PATH", os.defpath)
    return {**os.environ, "PYTHONPATH": place, "PATH": f"{place}/bin:{path}", "PYTHONDONTWRITEBYTECODE": "1"}


def _install(path: str) -> None:
    progress(f"installing {', '.join(CLIENTS)}")
    pip = [programs.tool_python(), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    programs.run([*pip, "--target", path, *CLIENTS])


def kernel() -> str:
    """Return the path of Debian's kernel, with its modules in the same tree; fetched when it is not in the cache."""
    tree = cache.entry("kernel-9p", cache.digest(base.SUITE, _KERNEL, *_MODULES), _unpack)
    return glob.glob(os.path.join(tree, "boot", "vmlinuz-*"))[0]


def _unpack(path: str) -> None:
    progress(f"fetching {_KERNEL}")
    os.makedirs(path)
    lines = programs.run(["apt-cache", "depends", "--important", _KERNEL]).splitlines()
    (name,) = (line.partition("Depends: ")[2] for line in lines if "Depends: linux-image-" in line)
    programs.run(["env", "-C", path, "apt-get", "-qq", "download", name])
    (package,) = glob.glob(os.path.join(path, "*.deb"))
    archive = os.path.join(path, "all.tar")
    programs.run(["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" >"$2"', "sh", package, archive])
    parts = ["./boot/vmlinuz-*", "./lib/modules/*/modules.*", *(f"./lib/modules/*/kernel/{part}" for part in _MODULES)]
    programs.run(["tar", "-C", path, "--no-same-owner", "--wildcards", "-xf", archive, *parts])
    for waste in (package, archive):
        os.remove(waste)
