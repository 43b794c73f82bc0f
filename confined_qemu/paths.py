"""Where the project's own files lie on a host: one place for each name."""

from __future__ import annotations

LAUNCH_SCRIPT = "/usr/local/libexec/confined-qemu/launch"
"""The labelled script whose execution enters the launcher's domain."""
STATE = "/var/lib/confined-qemu"
"""The journal, one folder for each user, and the pair registry; made by `policy install`."""
RUNTIME = "/run/confined-qemu"
"""Root's VMs' own folders."""
QEMU_IMG = "/usr/bin/qemu-img"
"""What reads the headers of images."""
PAIRS = "pairs"
"""The pair registry's name in a state folder."""
MODULE = "/usr/share/selinux/packages/confined-qemu/confined_qemu.cil"
"""The installed text of the policy module: a place that `semodule` may read on every policy."""
RECOVER_UNIT = "/etc/systemd/system/confined-qemu-recover.service"
RECOVER_WANTED = "/etc/systemd/system/multi-user.target.wants/confined-qemu-recover.service"
