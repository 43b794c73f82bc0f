"""What Xen's dom0 needs in its root beside a policy, and the guests that its tests start.

One is a Linux, whose boot takes an emulated CPU many seconds. Where a test only wants a domain, it has one of two
kernels of a few instructions.
"""

import lzma
import os
import tempfile

from integration.guestlib import cache, initramfs, programs
from integration.guestlib.report import GuestError

PLACE = "/usr/local/share/domu"
"""In dom0: the folder of the guests' kernels, and of Linux's INITRD."""
KERNEL, INITRD = "vmlinux", "initrd"
TINY = {"wait": "sti", "poweroff": "cli"}
"""The kernels that halt their only CPU, by the same words as Linux's tasks: one that takes no interrupts any more is
powered off by Xen."""
_TINY_SOURCE = """\
        .code32
        .globl  _start
        .text
_start: @first@
1:      hlt
        jmp     1b
        # where a PVH guest starts: XEN_ELFNOTE_PHYS32_ENTRY
        .section .note.Xen, "a", @note
        .long   4, 4, 18
        .asciz  "Xen"
        .long   _start
"""
_LINKED = ("-m32", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-Ttext-segment=0x100000")
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
reboot) reboot -f;;
crash) echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger;;
esac
"""


def key() -> str:
    """Return the key of what `prepare` and `install` write."""
    return cache.digest(
        INIT, _TINY_SOURCE, *_LINKED, *TINY, *_MODULES, cache.digest_files(__file__, initramfs.__file__)
    )


def prepare(root: str) -> None:
    """Let a Debian root mount what Xen's tools need."""
    with open(os.path.join(root, "etc/fstab"), "a", encoding="ascii") as file:
        file.write(_XENFS)


def install(root: str) -> None:
    """Put the guests' kernels and Linux's initramfs, made of dom0's own, into dom0's root.

    Linux is unpacked: Xen's tools would take six seconds of an emulated CPU for that at every start.
    """
    folder = root + PLACE
    os.makedirs(folder, exist_ok=True)
    for name, first in TINY.items():
        with tempfile.NamedTemporaryFile("w", suffix=".S", encoding="ascii") as source:
            source.write(_TINY_SOURCE.replace("@first@", first))
            source.flush()
            programs.run(["gcc", *_LINKED, "-o", os.path.join(folder, name), source.name])
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
