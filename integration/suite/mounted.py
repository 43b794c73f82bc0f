"""Real mounts of file systems without labels of their own, for the tests; each is undone by itself."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "/mnt/cq"
"""Where everything is mounted, a folder for each."""
STORE = "/var/cq-store"
"""What is behind the mounts."""
_FAT_SIZE = 8 << 20
_NFS_CONFIG = "/etc/nfs.conf.d/confined-qemu-test.conf"
_SMB_PORT = 4450
_SMB_CONFIG = """[global]
server role = standalone server
map to guest = Bad User
guest account = root
interfaces = lo
bind interfaces only = yes
smb ports = {port}
disable netbios = yes
disable spoolss = yes
load printers = no
lock directory = {state}
state directory = {state}
cache directory = {state}
private dir = {state}
pid directory = {state}
ncalrpc dir = {state}/ncalrpc
[vms]
path = {store}
guest ok = yes
read only = no
"""


def _folders(name: str) -> tuple[str, str]:
    """Return a fresh folder to mount on, and one behind it."""
    target, store = os.path.join(ROOT, name), os.path.join(STORE, name)
    for path in (target, store):
        os.makedirs(path, exist_ok=True)
    return target, store


@contextmanager
def mounted(target: str, *command: str) -> Iterator[str]:
    """Run a command that mounts at `target`; unmount afterwards."""
    harness.run(*command)
    try:
        yield target
    finally:
        harness.run("umount", target)


@contextmanager
def nfs() -> Iterator[str]:
    """NFS 4.2 on the loopback; the server's programs are units, as the policy wants their domains."""
    target, store = _folders("nfs")
    with open(_NFS_CONFIG, "w", encoding="ascii") as file:
        # no rpcbind for version 3; no grace period in which nothing can be opened
        file.write("[nfsd]\nvers3=n\nthreads=1\ngrace-time=1\nlease-time=1\n")
    with open("/etc/exports", "w", encoding="ascii") as file:
        file.write(f"{store} 127.0.0.1(rw,no_root_squash,insecure,no_subtree_check,fsid=0)\n")
    harness.run("systemctl", "unmask", "nfs-server", "nfs-mountd", "proc-fs-nfsd.mount")
    harness.run("systemctl", "start", "nfs-server")
    with open("/proc/fs/nfsd/v4_end_grace", "w", encoding="ascii") as file:
        file.write("Y")
    try:
        with mounted(target, "mount", "-t", "nfs4", "-o", "soft", "127.0.0.1:/", target):
            yield target
    finally:
        harness.run("systemctl", "stop", "nfs-server", "nfs-mountd")
        os.unlink(_NFS_CONFIG)


@contextmanager
def cifs() -> Iterator[str]:
    """SMB 3 on the loopback; the server runs as the test's own, not as smbd_t, and needs no rights of the policy."""
    target, store = _folders("cifs")
    state = os.path.join(STORE, "cifs-state")
    os.makedirs(state, exist_ok=True)
    config = os.path.join(state, "smb.conf")
    with open(config, "w", encoding="ascii") as file:
        file.write(_SMB_CONFIG.format(port=_SMB_PORT, state=state, store=store))
    server = subprocess.Popen(
        ["smbd", "--foreground", "--no-process-group", "--debug-stdout", f"--configfile={config}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # at its end it signals its process group
    )  # fmt: skip
    try:
        harness.until("smbd listens", lambda: server.poll() is None and _connects(_SMB_PORT))
        # nobrl: QEMU's image locks would be the server's, where a lock for reading forbids its holder to write
        options = f"guest,nobrl,vers=3.0,port={_SMB_PORT}"
        with mounted(target, "mount", "-t", "cifs", "-o", options, "//127.0.0.1/vms", target):
            yield target
    finally:
        server.terminate()
        server.wait()


def _connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def fuse() -> Iterator[str]:
    """FUSE: another folder, seen through bindfs."""
    target, store = _folders("fuse")
    with mounted(target, "bindfs", store, target):
        yield target


@contextmanager
def vfat() -> Iterator[str]:
    """The file system of a USB stick, on a loop device."""
    target, store = _folders("vfat")
    image = os.path.join(store, "vfat.img")
    with open(image, "wb") as file:
        file.truncate(_FAT_SIZE)
    harness.run("mkfs.vfat", image)
    with mounted(target, "mount", "-o", "loop", image, target):
        yield target


@contextmanager
def context_mount() -> Iterator[str]:
    """A file system that gives all its files a VM's label."""
    target, _ = _folders("context")
    option = "context=system_u:object_r:svirt_image_t:s0"
    with mounted(target, "mount", "-t", "tmpfs", "-o", option, "none", target):
        yield target


@contextmanager
def ext2() -> Iterator[str]:
    """A file system with labels, on a loop device; read-only once it is filled."""
    target, store = _folders("ext2")
    image = os.path.join(store, "ext2.img")
    with open(image, "wb") as file:
        file.truncate(_FAT_SIZE)
    harness.run("busybox", "mke2fs", "-F", image)
    with mounted(target, "mount", "-t", "ext4", "-o", "loop", image, target):
        yield target


MOUNTS = {"nfs": nfs, "cifs": cifs, "fuse": fuse, "vfat": vfat, "context": context_mount, "ext2": ext2}


@contextmanager
def all_of_them() -> Iterator[dict[str, str]]:
    """Mount everything; return the folders by name."""
    for module in ("nfsd", "cifs", "fuse", "vfat", "loop"):
        subprocess.run(["modprobe", module], check=True)
    with ExitStack() as stack:
        yield {name: stack.enter_context(mount()) for name, mount in MOUNTS.items()}
