"""Where the project's own files lie on a host: one place for each name."""

from __future__ import annotations

LAUNCH_SCRIPT = "/usr/local/libexec/confined-qemu/launch"
"""The labelled script whose execution enters the launcher's domain."""
DENIALS_SCRIPT = "/usr/local/libexec/confined-qemu/denials"
"""The labelled script whose execution enters the domain that reads the audit log."""
STATE = "/var/lib/confined-qemu"
"""The journal, one folder for each user, and the pair registry; made by `policy install`."""
RUNTIME = "/run/confined-qemu"
"""Root's VMs' own folders."""
GROUPS = "/sys/fs/cgroup"
"""Where control groups of the second version are mounted."""
VM_GROUP = "confined-qemu-"
"""What the name of a VM's own control group begins with."""
QEMU_IMG = "/usr/bin/qemu-img"
"""What reads the headers of images."""
PAIRS = "pairs"
"""The name of the pair registry's first file in a state folder."""
PAIR_FILES = 16
"""How many files the pair registry has."""
MODULE = "/usr/share/selinux/packages/confined-qemu/confined_qemu.cil"
"""The installed text of the policy module: a place that `semodule` may read on every policy."""
SETTINGS = "/etc/confined-qemu.yaml"
"""The launcher's settings for all users; a user's own has the same name, in `~/.config`."""
RECOVER_UNIT = "/etc/systemd/system/confined-qemu-recover.service"
RECOVER_WANTED = "/etc/systemd/system/multi-user.target.wants/confined-qemu-recover.service"


def pair_file(first: str, number: int) -> str:
    """Return the path of a file of the pair registry whose first one has this path."""
    return f"{first}.{number}" if number else first
