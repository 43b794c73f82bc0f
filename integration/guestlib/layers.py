"""The guest's layers above the plain Debian root: a policy, then the project's module, then a bootable disk."""

import os
import shutil
from dataclasses import dataclass

from integration.guestlib import base, cache, domu, fedora, hypervisor, initramfs, programs, sshkeys, wheel
from integration.guestlib.report import GuestError, progress

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files")
INIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "init.sh")
DISK_SIZE = "8G"
BOOT_MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4"]
ENABLED = ("confined-qemu-ready.service",)
# Timers and daemons that would work, or relabel, while tests run, and what costs seconds of every boot for nothing.
MASKED = (
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    "systemd-journald-audit.socket",  # auditd keeps what SELinux says; a second reader costs as much again
    "systemd-logind.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-update-utmp-runlevel.service",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-pstore.service",
    "systemd-timesyncd.service",
    "selinux-autorelabel-mark.service",
    # a test that needs one of these starts it
    "nmbd.service",
    "samba-ad-dc.service",
    "smbd.service",
    "nfs-client.target",
    "nfs-server.service",
    "proc-fs-nfsd.mount",
    "rpcbind.service",
    "rpcbind.socket",
    "rpc-statd-notify.service",
    "run-rpc_pipefs.mount",
    "var-lib-nfs-rpc_pipefs.mount",
    "getty@tty1.service",
)


AUDITD_SETTINGS = {"log_format": "RAW", "flush": "NONE"}
"""Without its dontaudit rules a policy has each launch denied something for each process of the guest; names beside the
numbers, and care for a disk that is thrown away, double what that takes of the one emulated CPU."""


@dataclass(frozen=True)
class Policy:
    """A SELinux policy that a guest can enforce.

    `boot_fix`: a module, beside this file, without which Debian does not boot under it. `range`: root's, after ssh.
    `store`: its folder in /etc/selinux, where that has not its name. `foreign`: it is no package of Debian's.
    `hypervisor`: it is enforced in the dom0 of this Xen.
    """

    name: str
    range: str
    boot_fix: str | None = None
    store: str = ""
    foreign: bool = False
    hypervisor: str | None = None

    @property
    def root(self) -> str:
        """The name of its root: one dom0 serves all hypervisors."""
        return "xen" if self.hypervisor else self.name

    @property
    def folder(self) -> str:
        """Its folder in /etc/selinux."""
        return self.store or self.name

    @property
    def user_context(self) -> str:
        """The context of root's commands."""
        return f"unconfined_u:unconfined_r:unconfined_t:{self.range}"

    def contexts(self, root: str) -> str:
        """Return the file that says which label a path has."""
        return os.path.join(root, "etc/selinux", self.folder, "contexts/files/file_contexts")


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("default", "s0-s0:c0.c1023"),
        Policy("mls", "s0-s15:c0.c1023", os.path.join(os.path.dirname(INIT), "mls-boot.cil")),
        Policy("fedora", "s0-s0:c0.c1023", store="targeted", foreign=True),
        Policy("xen", "s0-s0:c0.c1023", store="default", hypervisor=hypervisor.FLASK),
        Policy("xen-stock", "s0-s0:c0.c1023", store="default", hypervisor=hypervisor.STOCK),
    )
}


@dataclass(frozen=True)
class Guest:
    """A guest that can be booted: the folder of its disk, kernel and initramfs."""

    folder: str

    @property
    def disk(self) -> str:
        """Its root file system, never written to: boots work on a throw-away overlay."""
        return os.path.join(self.folder, "disk.img")

    @property
    def kernel(self) -> str:
        """Its kernel."""
        return os.path.join(self.folder, "vmlinuz")

    @property
    def initrd(self) -> str:
        """Its initramfs."""
        return os.path.join(self.folder, "initrd")


def policy_named(name: str) -> Policy:
    """Return the policy of that name."""
    if name not in POLICIES:
        raise GuestError(f"no guest with the policy {name}; there are: {' '.join(POLICIES)}")
    return POLICIES[name]


def guest(policy: Policy) -> Guest:
    """Return the bootable guest with this policy; builds what is not in the cache."""
    parts = [_policy_key(policy), DISK_SIZE, *BOOT_MODULES, cache.digest_files(INIT, wheel.POLICY)]
    parts += [domu.key()] if policy.hypervisor else []
    key = cache.digest(*parts, sshkeys.public_keys())

    def build(path: str) -> None:
        root = policy_root(policy)
        progress(f"building the guest's disk (policy {policy.name})")
        os.mkdir(path)
        _build_guest(policy, root, path)

    return Guest(cache.entry(f"guest-{policy.root}", key, build))


def _policy_key(policy: Policy) -> str:
    fix = [] if policy.boot_fix is None else [cache.digest_files(policy.boot_fix)]
    if policy.foreign:
        fix += [fedora.key()]
    return cache.digest(
        base.key(dom0=policy.hypervisor is not None),
        policy.root,
        *ENABLED,
        *MASKED,
        cache.digest_files(FILES, __file__),
        *fix,
    )


def policy_root(policy: Policy) -> str:
    """Return the folder of a root that enforces `policy`, with nothing of the project in it."""
    return cache.entry(f"root-{policy.root}", _policy_key(policy), lambda path: _build_policy_root(policy, path))


def _build_policy_root(policy: Policy, root: str) -> None:
    archive = base.layer(dom0=policy.hypervisor is not None)
    progress(f"building the root with the policy {policy.name}")
    os.mkdir(root)
    programs.run(["tar", "-C", root, "--xattrs", "--xattrs-include=*", "-xpf", archive])
    cache.remove(os.path.join(root, ".autorelabel"))
    shutil.copytree(FILES, root, dirs_exist_ok=True)
    with open(os.path.join(root, "etc/selinux/config"), "w", encoding="ascii") as file:
        file.write(f"SELINUX=enforcing\nSELINUXTYPE={policy.folder}\n")
    programs.chroot(root, "systemctl", "--quiet", "enable", *ENABLED)
    programs.chroot(root, "systemctl", "--quiet", "mask", *MASKED)
    _configure_auditd(root)
    programs.chroot(root, "python3", "-m", "venv", "--system-site-packages", wheel.VENV)
    if policy.hypervisor:
        domu.prepare(root)
    if policy.foreign:
        fedora.install(root, policy.folder)
        return
    progress("  rebuilding the policy without its dontaudit rules")
    programs.chroot(root, "semodule", "-n", "-s", policy.folder, *(_boot_fix(policy, root) or ["-B"]), "-D")


def _configure_auditd(root: str) -> None:
    path = os.path.join(root, "etc/audit/auditd.conf")
    with open(path, encoding="ascii") as file:
        lines = [line for line in file if line.partition("=")[0].strip() not in AUDITD_SETTINGS]
    with open(path, "w", encoding="ascii") as file:
        file.writelines(lines)
        file.writelines(f"{name} = {value}\n" for name, value in AUDITD_SETTINGS.items())


def _boot_fix(policy: Policy, root: str) -> list[str]:
    """Make the policy one that boots; returns what semodule needs to load its fix in the same run."""
    if policy.boot_fix is None:
        return []
    with open(os.path.join(root, "etc/selinux/semanage.conf"), "a", encoding="ascii") as file:
        # of classes that are newer than the policy, which it would deny
        file.write("handle-unknown=allow\n")
    with open(os.path.join(root, f"var/lib/selinux/{policy.name}/active/seusers.local"), "w", encoding="ascii") as file:
        # what `semanage login -m -s unconfined_u root` writes; the policy's own line makes root a sysadm_t
        file.write(f"root:unconfined_u:{policy.range}\n")
    place = "/usr/share/selinux/packages/" + os.path.basename(policy.boot_fix).replace("-", "_")
    os.makedirs(root + os.path.dirname(place), exist_ok=True)
    shutil.copy(policy.boot_fix, root + place)
    return ["-X", "300", "-i", place]


def _build_guest(policy: Policy, layer: str, path: str) -> None:
    """Make disk, kernel and initramfs in the folder `path` from a policy layer's root."""
    root = os.path.join(path, "root")
    programs.run(["cp", "-a", layer, root])
    sshkeys.install(root)
    wheel.bake_policy(root, policy.folder)
    if policy.hypervisor:
        domu.install(root)
    progress("  labelling")
    # -F: user and role too, not only the type.
    programs.run(["setfiles", "-F", "-r", root, policy.contexts(root), root])
    progress("  writing the file system")
    made = Guest(path)
    programs.run(["mke2fs", "-q", "-t", "ext4", "-d", root, made.disk, DISK_SIZE])
    shutil.copy(os.path.join(root, "boot", f"vmlinuz-{initramfs.kernel_version(root)}"), made.kernel)
    with open(INIT, encoding="ascii") as file:
        init = file.read()
    with open(made.initrd, "wb") as archive:
        archive.write(initramfs.build(root, BOOT_MODULES, init))
    cache.remove(root)
