"""What of the table of openings a confined VM opens, in few starts, and what of QEMU's options the table leaves out."""

from __future__ import annotations

from integration.suite.openings_table import NO_DEVICE, TABLE, Run, apart


def _together(*names: str) -> Run:
    """Return these command lines as one."""
    runs = [apart(run, f"r{number}") for number, run in enumerate(TABLE) if run.name in names]
    assert len(runs) == len(names), names
    unopened = {name: reason for run in runs for name, reason in run.unopened.items()}
    words = tuple(word for run in runs for word in run.words)
    return Run(" + ".join(names), words, unopened=unopened, stdio=all(run.stdio for run in runs))


CONFINED = (
    _together("drives", "firmware", "machine's kernel"),
    _together(
        "a disk without an option, and a cdrom", "character devices in the old syntax", "properties of devices",
        "kernel and tables", "traces", "M's firmware",
    ),
    _together("more of them", "a serial port that is none", "guest memory", "record", "bios"),
)  # fmt: skip
"""What a confined VM opens as well: no device, tap or folder of the host's, and no socket but a character device's."""

_LATER = "a later QEMU's"
_OTHERS = "QEMU for x86 refuses it"
_NO_MODULE = "Debian's package for a guest without a desktop is without it"
_PRINTS = "prints, and starts no VM"
_NO_SEV = "opened under KVM on a CPU with SEV only"
_NO_KEY = "it is written and never read"

NOT_RUN = {
    **dict.fromkeys(("h", "help", "version", "audio-help"), _PRINTS),
    **dict.fromkeys(("accel device", "accel rapl-helper-socket"), _LATER),
    **dict.fromkeys(("perfmap", "jitdump", "run-with", "run-with chroot"), _LATER),
    **{f"{name} map-path": _LATER for name in ("netdev", "nic", "net")},
    **dict.fromkeys(("device vhostdev", "object igvm-cfg:file", "object sev-snp-guest:sev-device"), _LATER),
    "object tdx-guest:quote-generation-socket.path": _LATER,
    "object authz-list-file:filename": "QEMU 7.2 knows its name in the schema or as an object, and not as both",
    "no-kvm": "an earlier QEMU's",
    "net vhostdev": "-net has no vDPA",
    **dict.fromkeys(("old-param", "semihosting", "semihosting-config", "prom-env", "g"), _OTHERS),
    **dict.fromkeys(("device netboot_fw", "device s390-ipl:firmware"), _OTHERS),
    **dict.fromkeys(("xen-attach", "xen-domid", "xen-domid-restrict"), _OTHERS),
    "async-teardown": "the process that it leaves behind waits for strace, and strace for it",
    "s": "-gdb on a port of the host, which another program may have",
    **dict.fromkeys(("shim", "M shim", "machine shim", "object sev-snp-guest:certs-path"), _LATER),
    **dict.fromkeys(("device jsonfile", "device wayland-socket-path", "device vfio-user-pci:socket.path"), _LATER),
    "object authz-listfile:filename": "QEMU 7.2 knows its name in the schema or as an object, and not as both",
    **dict.fromkeys(("device vfio-pci:host", "device vfio-pci-nohotplug:host"), NO_DEVICE),
    **{f"device u2f-emulated:{key}": _NO_MODULE for key in ("dir", "cert", "privkey", "entropy", "counter")},
    **{f"audio oss:{key}": "-audiodev's" for key in ("in.dev", "out.dev")},
    **{f"object sev-guest:{key}": _NO_SEV for key in ("sev-device", "dh-cert-file", "session-file")},
    "object tls-cipher-suites:dir": _NO_KEY,
    "object x-remote-object:socket.path": "QEMU's takes a descriptor",
    "object x-vfio-user-server:socket.path": _NO_MODULE,
}
"""Rows of the table of options that no run has, each with its reason."""
NOT_RUN_PROTOCOLS = {
    **dict.fromkeys(
        ("iscsi", "iser", "nfs", "rbd", "ssh", "gluster", "gluster+rdma", "gluster+tcp", "gluster+unix"), _NO_MODULE
    ),
    **dict.fromkeys(("sheepdog", "sheepdog+tcp", "sheepdog+unix"), "no QEMU since 6.0 has it"),
    **dict.fromkeys(("ftp", "ftps", "http", "https"), _NO_MODULE),
    **dict.fromkeys(("nbd+tcp", "nbds", "nbds+tcp", "nbds+unix"), "nbd's, over the network or with TLS"),
    **dict.fromkeys(("io_uring", "nvme-io_uring", "virtio-blk-vfio-pci"), _LATER),
    **dict.fromkeys(("virtio-blk-vhost-user", "virtio-blk-vhost-vdpa"), _LATER),
    "nvme": NO_DEVICE,
    "replication": "a node of a running migration",
    "blkreplay": "with -icount rr= and a snapshot of its own",
    "snapshot-access": "reads what copy-before-write kept, at run time",
}
"""Protocols and drivers of the block layer that no run has, each with its reason."""
