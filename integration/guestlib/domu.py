"""What Xen's dom0 needs in its root beside a policy, and the small guest that its tests start."""

import lzma
import os

from integration.guestlib import cache, initramfs
from integration.guestlib.report import GuestError

PLACE = "/usr/local/share/domu"
"""In dom0: the folder of the guest's KERNEL and INITRD."""
KERNEL, INITRD = "vmlinux", "initrd"
_MODULES = ["xen_blkfront"]
_XENFS = "xenfs /proc/xen xenfs defaults 0 0\n"
_XZ = b"\xfd7zXZ\x00"
_ELF = b"\x7fELF"
INIT = """\
#!/bin/sh
# Does what the kernel's command line says: `do=WORD`, then the end. The words go to Xen's console.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
@modules@
for word in $(cat /proc/cmdline); do
    case $word in do=*) task=${word#do=};; esac
done
echo "domu: $task" >/dev/hvc0
case $task in
write)
    # its disk says something else afterwards
    tries=0
    until [ -b /dev/xvda ] || [ $tries = 100 ]; do tries=$((tries + 1)); sleep 0.1; done
    echo "the guest was here" | dd of=/dev/xvda conv=fsync 2>/dev/null
    poweroff -f;;
poweroff) poweroff -f;;
reboot) reboot -f;;
crash) echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger;;
wait) while :; do sleep 1000; done;;
esac
"""


def key() -> str:
    """Return the key of what `prepare` and `install` write."""
    return cache.digest(INIT, *_MODULES, cache.digest_files(__file__, initramfs.__file__))


def prepare(root: str) -> None:
    """Let a Debian root mount what Xen's tools need."""
    with open(os.path.join(root, "etc/fstab"), "a", encoding="ascii") as file:
        file.write(_XENFS)


def install(root: str) -> None:
    """Put the guest's kernel and initramfs into dom0's root, made of dom0's own.

    The kernel is unpacked: Xen's tools would take six seconds of an emulated CPU for that at every start.
    """
    folder = root + PLACE
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(root, "boot", f"vmlinuz-{initramfs.kernel_version(root)}"), "rb") as file:
        packed = file.read()
    start = packed.find(_XZ)
    kernel = lzma.LZMADecompressor().decompress(packed[start:]) if start >= 0 else b""
    if not kernel.startswith(_ELF):
        raise GuestError("dom0's kernel is not packed with xz; look how it is packed now")
    with open(os.path.join(folder, KERNEL), "wb") as file:
        file.write(kernel)
    with open(os.path.join(folder, INITRD), "wb") as file:
        file.write(initramfs.build(root, _MODULES, INIT))
