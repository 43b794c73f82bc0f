"""The disk with what clients that start QEMU need, lent to a guest: libguestfs' appliance, a Debian as a test bed.

As a disk of its own it is there at once; copied in over ssh it would take minutes of an emulated CPU.
"""

import os
import socket

from integration.guestlib import appliance, cache, debianimage, machine, programs, remote
from integration.guestlib.qmp import Monitor
from integration.guestlib.report import progress

PLACE = "/var/tmp/clients"  # noqa: S108 - in the guest, where libguestfs keeps its appliance
SERIAL = "clients"
LABEL = "unconfined_u:object_r:user_tmp_t:s0"
"""What root's files get there when root makes them."""
_SIZE = "1200M"


def lend(guest: machine.Running) -> None:
    """Plug the disk into a running guest and mount it at PLACE; what is written to it is thrown away."""
    progress(f"lending the clients' disk to guest {guest.name}")
    path = _disk().replace(",", ",,")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(machine.file_of(guest.name, "qmp.sock"))
        with Monitor(connection, machine.file_of(guest.name, "qemu.log")) as monitor:
            monitor.human(f"drive_add 0 if=none,id={SERIAL},format=raw,snapshot=on,cache=unsafe,file={path}")
            monitor.execute("device_add", driver="virtio-blk-pci", drive=SERIAL, serial=SERIAL)
    device = f"/dev/disk/by-id/virtio-{SERIAL}"
    script = (
        'udevadm wait --timeout=60 "$0" && mkdir -p "$1" && mount -t ext4 -o noatime "$0" "$1" && rmdir "$1/lost+found"'
    )
    remote.output(guest, "sh", "-c", script, device, PLACE)


def _disk() -> str:
    parts = [appliance.folder(), debianimage.folder()]
    key = cache.digest(*parts, LABEL, _SIZE, cache.digest_files(__file__))

    def build(path: str) -> None:
        progress("writing the clients' disk")
        tree = f"{path}.tree"
        os.mkdir(tree)
        try:
            for part in parts:
                name = os.path.basename(part).rpartition("-")[0]
                programs.run(["cp", "-r", "--sparse=always", part, os.path.join(tree, name)])
            for parent, _, files in os.walk(tree):
                for found in (parent, *(os.path.join(parent, file) for file in files)):
                    os.setxattr(found, "security.selinux", LABEL.encode())
            programs.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, path, _SIZE])
        finally:
            cache.remove(tree)

    return cache.entry("client-disk", key, build)
