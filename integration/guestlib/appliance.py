"""libguestfs' appliance, made beforehand: supermin takes a minute and a half of a guest's CPU to build one.

What supermin makes in the guest, made here from the guest's own packages, of fewer of them: kernel, initrd and root,
and the file that tells libguestfs to take them as they are (guestfs(3), "Fixed appliances").
"""

import os
import shutil

from integration.guestlib import base, cache, programs
from integration.guestlib.report import progress

_SUPERMIN = "usr/lib/x86_64-linux-gnu/guestfs/supermin.d"
_PACKAGES = (
    "bash coreutils dash e2fsprogs file grep iproute2 kmod mount sed tar udev util-linux "  # its init and its commands
    "libacl1 libaugeas0 libcap2 libhivex0 libjansson4 libpcre2-8-0 librpm9 libselinux1 libsystemd0 libtirpc3 libtsk19 "
    "libxml2 libyara9"  # what its daemon is linked with
)
FIXED = "README.fixed"


def folder() -> str:
    """Return the appliance's folder; built from the base root when it is not in the cache."""
    key = cache.digest(base.key(), _PACKAGES, cache.digest_files(__file__))
    return cache.entry("appliance", key, _build)


def _build(path: str) -> None:
    archive = base.layer()
    progress("building libguestfs' appliance")
    root = os.path.join(path, "base")
    os.makedirs(root)
    programs.run(["tar", "-C", root, "-xpf", archive])
    with open(os.path.join(root, _SUPERMIN, "packages"), "w", encoding="ascii") as file:
        file.write("\n".join(_PACKAGES.split()) + "\n")
    programs.chroot(
        root,
        "supermin",
        "--build",
        "--copy-kernel",
        "-f",
        "ext2",
        "--host-cpu",
        "x86_64",
        f"/{_SUPERMIN}",
        "-o",
        "/made",
    )
    for name in ("kernel", "initrd", "root"):
        shutil.move(os.path.join(root, "made", name), os.path.join(path, name))
    with open(os.path.join(path, FIXED), "w", encoding="ascii") as file:
        file.write("Made by supermin, to be used as it is.\n")
    cache.remove(root)
