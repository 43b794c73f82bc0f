"""The first layer: a plain Debian 12 root as a tar file, nothing of the project in it. Xen's dom0 has its own."""

import os

from integration.guestlib import cache, programs
from integration.guestlib.report import progress

SUITE = "bookworm"

# One line for each reason that they are there.
PACKAGES = (
    "systemd-sysv udev dbus kmod procps iproute2 "  # a Debian that boots
    "linux-image-cloud-amd64 "  # has all that is needed, unpacks in a tenth of the time, and is small
    "policycoreutils policycoreutils-python-utils semodule-utils checkpolicy setools auditd selinux-basics "  # SELinux
    "selinux-policy-default selinux-policy-mls "  # the policies; a layer chooses one
    "qemu-system-x86 qemu-utils "  # what is confined
    "python3 python3-selinux python3-yaml python3-psutil python3-prctl python3-venv "  # what the project stands on
    "python3-pytest expect socat strace attr libcap2-bin "  # what its tests use
    "nfs-kernel-server samba cifs-utils fuse2fs bindfs dosfstools "  # file systems without labels of their own
    "swtpm libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients "  # what lives beside a VM
    "guestfish autopkgtest "  # clients that start QEMU themselves
    "openssh-server busybox-static less"  # how commands come in
)

DOM0_PACKAGES = (
    "systemd-sysv udev dbus kmod procps iproute2 "
    "linux-image-amd64 "  # the cloud kernel cannot be dom0
    "policycoreutils policycoreutils-python-utils semodule-utils checkpolicy auditd selinux-basics "
    "selinux-policy-default "
    "xen-utils-4.17 xenstore-utils "
    "python3 python3-selinux python3-yaml python3-psutil python3-prctl python3-venv python3-pytest "
    "openssh-server busybox-static less"
)
DOM0_DRIVERS = ("block", "char", "net", "virtio", "xen")
"""The folders of the kernel's drivers that dom0 needs; all of them are half a gigabyte."""

# Never read in the guest.
LEFT_OUT = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
)


def key(*, dom0: bool = False) -> str:
    """Return the key of this layer."""
    if dom0:
        return cache.digest("base-dom0", SUITE, *DOM0_PACKAGES.split(), *DOM0_DRIVERS, *LEFT_OUT)
    return cache.digest("base", SUITE, *PACKAGES.split(), *LEFT_OUT)


def layer(*, dom0: bool = False) -> str:
    """Return the path of the tar file; made from the distribution's mirror when it is not in the cache."""
    if dom0:
        return cache.entry("base-dom0", key(dom0=True), lambda path: _build(path, DOM0_PACKAGES, _drivers()))
    return cache.entry("base", key(), lambda path: _build(path, PACKAGES, []))


def _drivers() -> list[str]:
    """Return dpkg's options that leave out all drivers but those that dom0 needs."""
    folders = [f"{lib}/modules/*/kernel/drivers" for lib in ("/lib", "/usr/lib")]
    options = [f"--dpkgopt=path-exclude={folder}/*" for folder in folders]
    return options + [f"--dpkgopt=path-include={folder}/{kind}/*" for folder in folders for kind in DOM0_DRIVERS]


def _build(path: str, packages: str, options: list[str]) -> None:
    progress(f"building the Debian {SUITE} root (2 to 3 minutes, from the network)")
    command = ["mmdebstrap", "--mode=root", "--variant=apt", "--format=tar", f"--include={','.join(packages.split())}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT] + options
    # INITRD: the guest boots with a small initramfs of ours, so Debian's need not be made.
    scratch = cache.subfolder("tmp")
    environment = {**os.environ, "TMPDIR": scratch, "INITRD": "No", "DEBIAN_FRONTEND": "noninteractive"}
    programs.run([*command, SUITE, path], env=environment, show="I: ")
