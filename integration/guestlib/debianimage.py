"""A small Debian as a test bed for autopkgtest-virt-qemu: a disk without partitions, a kernel that knows 9p, an initrd.

The kernel is started by QEMU (`-kernel`): a BIOS would read it at 200 KB/s where QEMU runs in an emulated machine. In
systemd's place there is a script that does what the client asks of a test bed: a login on the serial line, and a root
shell on the second virtio console.
"""

import os
import shutil

from integration.guestlib import base, cache, initramfs, programs
from integration.guestlib.report import progress

FILES = ("disk.img", "kernel", "initrd")
_PACKAGES = ("busybox-static", "kmod", "linux-image-amd64", "mount", "python3-minimal")
_LEFT_OUT = (*base.LEFT_OUT, "/lib/modules/*/kernel/drivers/*", "/usr/lib/modules/*/kernel/drivers/*")
_KEPT = tuple(
    f"{lib}/modules/*/kernel/drivers/{kind}/*" for lib in ("/lib", "/usr/lib") for kind in ("block", "char", "virtio")
)
_MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "crc32c_generic", "ext4", "9p", "9pnet_virtio"]
_SIZE = "600M"
_INITRD_INIT = """\
#!/bin/sh
export PATH=/bin
/bin/busybox --install -s /bin
@modules@
mount -t devtmpfs dev /dev
mount -t ext4 -o rw,noatime /dev/vda /root
umount /dev
exec switch_root /root /sbin/init
"""
_INIT = """\
#!/bin/sh
# Brings up what autopkgtest-virt-qemu(1) wants of an image, and nothing else.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
# The client gives each of its steps here five seconds: what they run must not come from the disk then, and no line be
# echoed, a letter at a time.
stty -F /dev/hvc1 -echo
python3 -c 'import errno, fcntl, os, sys, time'
for program in true chmod mktemp cat; do "$program" --version >/dev/null; done
setsid sh </dev/hvc1 >/dev/hvc1 2>&1 &
while :; do agetty -L 115200 ttyS0 vt100; done
"""


def folder() -> str:
    """Return the folder of FILES; made from the distribution's mirror when it is not in the cache."""
    key = cache.digest(base.SUITE, *_PACKAGES, *_LEFT_OUT, *_KEPT, cache.digest_files(__file__, initramfs.__file__))
    return cache.entry("debian-image", key, _build)


def _build(path: str) -> None:
    progress("building a small Debian image (half a minute, from the network)")
    root = os.path.join(path, "root")
    os.mkdir(path)
    command = ["mmdebstrap", "--mode=root", "--variant=essential", f"--include={','.join(_PACKAGES)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    command += [f"--dpkgopt=path-include={pattern}" for pattern in _KEPT]
    environment = {**os.environ, "TMPDIR": cache.subfolder("tmp"), "INITRD": "No", "DEBIAN_FRONTEND": "noninteractive"}
    programs.run([*command, base.SUITE, root], env=environment)
    disk, kernel, initrd = (os.path.join(path, name) for name in FILES)
    shutil.move(os.path.join(root, "boot", f"vmlinuz-{initramfs.kernel_version(root)}"), kernel)
    with open(initrd, "wb") as archive:
        archive.write(initramfs.build(root, _MODULES, _INITRD_INIT))
    # all that is needed of the kernel is in the initrd
    for left in ("boot", "lib/modules"):
        cache.remove(os.path.join(root, left))
    init = os.path.join(root, "sbin/init")
    with open(init, "w", encoding="ascii") as file:
        file.write(_INIT)
    os.chmod(init, 0o755)
    with open(os.path.join(root, "etc/hostname"), "w", encoding="ascii") as file:
        file.write("testbed\n")
    programs.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk, _SIZE])
    cache.remove(root)
