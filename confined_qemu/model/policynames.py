"""The names of our policy module's types and booleans, and of the policy's own that let a VM use more. Imports nothing.

A question to QEMU loads this: plain values, no more.
"""

OURS = "confined_qemu"
"""How the project's types and booleans start."""

# ---- types (install/*.cil)

LAUNCHER = "confined_qemu_t"
"""The launcher's own domain."""
SCRIPT = "confined_qemu_exec_t"
"""The launch script, whose execution enters the launcher's domain."""
PROBE = "confined_qemu_probe_t"
"""The domain that reads the headers of images."""
DENIALS = "confined_qemu_denials_t"
"""The domain that reads the audit log."""
DENIALS_SCRIPT = "confined_qemu_denials_exec_t"
"""The script whose execution enters it."""
STDIO = "confined_qemu_stdio_t"
"""Pipes and sockets that the caller handed over, at the caller's level."""
SWTPM = "confined_qemu_swtpm_t"
VIRTIOFSD = "confined_qemu_virtiofsd_t"
VIRTIOFSD_READONLY = "confined_qemu_virtiofsd_ro_t"
OWN_DOMAINS = frozenset({LAUNCHER, PROBE, DENIALS})
"""The project's own domains that are no VM's: helpers of VMs run at the VM's pair, and count as the VM."""

# ---- booleans

USE_BLOCK_DEVICES = "confined_qemu_use_block_devices"
USE_HOST_DEVICES = "confined_qemu_use_host_devices"
"""Ours: may the launcher relabel block devices, character devices for a VM? (install/devices.cil)"""
USE_IO_URING = "confined_qemu_use_io_uring"
TRANSITION_USERDOMAIN = "confined_qemu_transition_userdomain"
"""Ours: may the launcher start QEMU in a person's own domain?"""
LOWER_LABELS = "confined_qemu_lower_labels"
"""Ours, on MLS: may the launcher put an image back at a lower level than it was written at? (install/mls.cil)"""
VIRT_TRANSITION_USERDOMAIN = "virt_transition_userdomain"
"""The reference policy's, of the same meaning for libvirt's daemon; some policies have it (Fedora's), some not."""
USE_EXECMEM = "virt_use_execmem"
"""The policy's: may a VM write code and run it, as TCG does?"""
ABOUT_VMS = ("virt_", f"{OURS}_")
"""How the booleans start that are about VMs."""
OPENING = {
    "nfs_t": "virt_use_nfs",
    "cifs_t": "virt_use_samba",
    "fusefs_t": "virt_use_fusefs",
    "dosfs_t": "virt_use_usb",
    "usb_device_t": "virt_use_usb",
    "usbfs_t": "virt_use_usb",
    "vfio_device_t": "virt_use_vfio",
    "event_device_t": "virt_use_evdev",
    "sysfs_t": "virt_use_sysfs",
    "tty_device_t": "virt_use_comm",
    "usbtty_device_t": "virt_use_comm",
    "printer_device_t": "virt_use_comm",
}
"""A type, and the policy's boolean that opens it to every VM, in the reference policy and in Fedora's (virt.te).

Where several would do it, the one that opens least.
"""
OPENS_MORE = {"virt_use_usb": "it gives VMs the host's USB devices too"}
"""What else such a boolean opens."""


def turned_on(*names: str) -> str:
    """Return the command that turns booleans on."""
    return f"setsebool -P {names[0]} on" if len(names) == 1 else "setsebool -P " + " ".join(f"{n}=on" for n in names)
