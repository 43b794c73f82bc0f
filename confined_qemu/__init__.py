"""Start QEMU confined by SELinux's sVirt, without libvirtd."""

__version__ = "0.1.0"
