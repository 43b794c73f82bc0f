"""The real libvirt's daemon, and VMs of its.

libvirtd runs in its own domain (virtd_t) and in enforcing mode. On Debian it starts VMs there when `namespaces` is
empty in qemu.conf; with a private /dev for each VM it fails by itself (EBUSY), whatever SELinux says.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from integration.suite import harness, tinyguest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UNIT = "confined-qemu-test-libvirtd"
CONFIGURATION = 'user = "root"\ngroup = "root"\nnamespaces = []\ncgroup_controllers = []\nstdio_handler = "file"\n'


def start() -> None:
    """Start the daemon as a unit starts it, so that it enters virtd_t."""
    harness.run("systemd-run", f"--unit={UNIT}", "-q", "/usr/sbin/libvirtd")
    harness.until("libvirtd answers", lambda: harness.run("virsh", "list", check=False).returncode == 0)
    assert ":virtd_t:" in harness.context(daemon())


def daemon() -> int:
    """Return libvirtd's pid."""
    return int(harness.run("systemctl", "show", "-P", "MainPID", UNIT).stdout)


def stop() -> None:
    """End it, and forget the unit."""
    harness.run("systemctl", "stop", UNIT, check=False)
    harness.run("systemctl", "reset-failed", UNIT, check=False)


@contextmanager
def running() -> Iterator[None]:
    """Run it meanwhile, with what its system package would have made; its VMs end with it."""
    harness.run("groupadd", "-rf", "libvirt-qemu")
    harness.run("useradd", "-r", "-g", "libvirt-qemu", "-s", "/usr/sbin/nologin", "libvirt-qemu", check=False)
    for folder in ("/etc/libvirt/qemu", "/var/log/libvirt/qemu", "/var/lib/libvirt/qemu"):
        os.makedirs(folder, exist_ok=True)
    with open("/etc/libvirt/qemu.conf", "w", encoding="ascii") as file:
        file.write(CONFIGURATION)
    harness.run("restorecon", "-RF", "/etc/libvirt", "/var/log/libvirt", "/var/lib/libvirt")
    start()
    try:
        yield
    finally:
        for domain in tuple(RUNNING):
            domain.destroy()
        stop()
        os.unlink("/etc/libvirt/qemu.conf")
        for folder in ("/var/lib/libvirt/qemu", "/run/libvirt"):
            shutil.rmtree(folder, ignore_errors=True)


RUNNING: list[Domain] = []
"""VMs of libvirt's that were started and have not ended."""


class Domain:
    """A VM of libvirt's with the tiny guest, private images and read-only ones."""

    def __init__(self, folder: str, name: str, private: Sequence[str], readonly: Sequence[str] = ()) -> None:
        self.name = name
        self.log = os.path.join(folder, f"{name}.log")
        self.xml = os.path.join(folder, f"{name}.xml")
        disks = ""
        for number, path in enumerate((*private, *readonly)):
            disks += f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>"
            disks += f"<target dev='vd{'abcdef'[number]}' bus='virtio'/>"
            disks += f"{'<readonly/>' if path in readonly else ''}</disk>"
        with open(self.xml, "w", encoding="utf-8") as file:
            file.write(
                f"<domain type='kvm'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
                "<os><type arch='x86_64' machine='pc'>hvm</type>"
                f"<loader readonly='yes' type='rom'>{tinyguest.ROM}</loader></os>"
                "<features><acpi/></features><on_reboot>destroy</on_reboot>"
                f"<devices><emulator>{harness.QEMU}</emulator>{disks}"
                f"<serial type='file'><source path='{self.log}'/></serial>"
                "<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
            )

    def create(self) -> int:
        """Start it; return QEMU's pid."""
        harness.run("virsh", "create", self.xml)
        RUNNING.append(self)
        with open(f"/run/libvirt/qemu/{self.name}.pid", encoding="ascii") as file:
            return int(file.read())

    def destroy(self) -> None:
        """Let libvirt end it, labels included."""
        harness.run("virsh", "destroy", self.name)
        RUNNING.remove(self)
