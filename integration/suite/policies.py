"""What differs between the policies that the suite runs on: a table, so that a test says what it expects on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from integration.guestlib import strikes as table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from integration.guestlib.strikes import Otherwise


@dataclass(frozen=True)
class Policy:
    """A policy, by what a test sees of it."""

    tcg: str
    """The type of a VM under TCG."""
    content: str
    """The label of an image of the default type while a VM only reads it: left alone where VMs may read it."""
    unread: str
    """A type of images that a VM may not even read."""
    others_pipes: bool
    """May a VM use a pipe that another user's process made, at all levels?"""
    opens_terminals: bool
    """May a VM open a terminal by name?"""
    opens_taps: bool
    """May a VM open a tap device, so that QEMU itself can say what is wrong with its interface?"""
    relays: bool
    """Does a client of a VM's socket need the launcher's relay, and so the VM a folder of its own?"""
    connects_to_people: bool
    """May a VM connect to a listener of a person's program, where it may write to the socket's file?"""
    opens_unused: frozenset[str]
    """The types of devices that any VM may open while no VM has them."""
    io_uring: bool
    """May every VM use io_uring, which QEMU tries at each start?"""
    reads_boot: bool
    """May every process read what lies in /boot, so that a VM's kernel needs no copy?"""
    probe_lacks: str
    """What qemu-img's domain may not do to a program, so that it runs none."""
    lacks: str
    """What a VM may not do to an image that no VM uses."""
    foreign: tuple[str, ...]
    """What a VM lacks for files on file systems without labels while their boolean is off: what the kernel denies."""
    no_domains: tuple[str, ...]
    """Types of processes that are no domain of a VM of ours."""
    users_file: str
    """The type of /etc/passwd."""
    roots_home: tuple[str, str]
    """The types of /root and of a file in it."""
    lacks_in_home: tuple[str, str]
    """What a VM lacks to make a file in /root, and for what class."""
    init_socket: str
    """The type of systemd's own socket."""
    made_in_root: str
    """The type of what is in a folder that was just made in /."""
    userdomain: tuple[str, ...]
    """The booleans that let a VM run in a person's domain."""
    ramfs: str | None
    """The type of a file on ramfs, which takes no labels and no VM may use; None where it takes labels, as tmpfs."""
    tcg_in_svirt: Mapping[str, Any]
    """What a spec says so that its VM would generate code in svirt_t, which needs the boolean."""
    needs_module: bool
    """May nothing but the launcher's own domain start QEMU in a VM's?"""
    scene: tuple[str, tuple[str, ...]]
    """The text with the demo's transcript under this policy (in the suite's tree, or a path), and how it was made."""
    execmem: tuple[str, ...]
    """The booleans, off by default, by which bare QEMU in a person's domain and VMs may generate code."""
    strikes: Otherwise
    """Which attempts of a hostile program are answered otherwise than the table says, which is Debian's."""

    def people(self) -> str:
        """Return the command that lets a VM run in a person's domain, as messages write it."""
        first, *more = self.userdomain
        return "setsebool -P " + (" ".join(f"{name}=on" for name in self.userdomain) if more else f"{first} on")


_DEBIAN = Policy(
    tcg="svirt_t",
    content="virt_content_t:s0",
    unread="virt_image_t",
    others_pipes=False,
    opens_terminals=True,
    opens_taps=True,
    relays=True,
    connects_to_people=False,
    opens_unused=frozenset(),
    io_uring=False,
    reads_boot=False,
    probe_lacks="open",
    lacks="open and read and write",
    foreign=("read", "write"),
    no_domains=("httpd_t", "virtd_t", "qemu_t"),
    users_file="etc_t",
    roots_home=("user_home_dir_t", "user_home_t"),
    lacks_in_home=("create", "file"),
    init_socket="init_runtime_t",
    made_in_root="etc_runtime_t",
    userdomain=("confined_qemu_transition_userdomain",),
    ramfs="ramfs_t",
    tcg_in_svirt={},
    needs_module=True,
    scene=("README.md", ()),
    execmem=("allow_execmem", "virt_use_execmem"),
    strikes={},
)
POLICIES = {
    "default": _DEBIAN,
    "mls": _DEBIAN,
    "targeted": Policy(
        tcg="svirt_tcg_t",
        content="virt_image_t:s0",
        unread="virt_home_t",
        others_pipes=True,
        opens_terminals=False,
        opens_taps=False,
        relays=False,
        connects_to_people=True,
        opens_unused=frozenset({"usb_device_t", "tpm_device_t"}),
        io_uring=True,
        reads_boot=True,
        probe_lacks="execute_no_trans",
        lacks="write",
        foreign=("open",),
        no_domains=("httpd_t", "virtd_t"),
        users_file="passwd_file_t",
        roots_home=("admin_home_t", "admin_home_t"),
        lacks_in_home=("write", "dir"),
        init_socket="init_var_run_t",
        made_in_root="default_t",
        userdomain=("confined_qemu_transition_userdomain", "virt_transition_userdomain"),
        ramfs=None,
        tcg_in_svirt={"seclabel": {"type": "dynamic", "baselabel": "system_u:system_r:svirt_t:s0"}},
        needs_module=False,
        scene=("/opt/confined-qemu/lib/python3.11/site-packages/confined_qemu/help/fedora.md", ("--tcg",)),
        execmem=("virt_use_execmem",),
        strikes=table.FEDORA,
    ),
}
"""By the name that /etc/selinux/config has: Debian's two, of the same source, and Fedora's."""


def _name() -> str:
    with open("/etc/selinux/config", encoding="ascii") as file:
        (name,) = (line.partition("=")[2].strip() for line in file if line.startswith("SELINUXTYPE="))
    return name


HERE = POLICIES[_name()]
"""The one that this guest enforces."""
