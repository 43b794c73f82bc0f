"""What differs between the policies that the suite runs on: a table, so that a test says what it expects on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Policy:
    """A policy, by what a test sees of it."""

    tcg: str
    """The type of a VM under TCG."""
    content: str
    """The label of an image of the default type while a VM only reads it: left alone where VMs may read it."""
    others_pipes: bool
    """May a VM use a pipe that another user's process made, at all levels?"""
    opens_terminals: bool
    """May a VM open a terminal by name?"""
    ramfs: str | None
    """The type of a file on ramfs where no VM may use it."""
    tcg_in_svirt: Mapping[str, Any]
    """What a spec says so that its VM would generate code in svirt_t, which needs the boolean."""
    execmem: tuple[str, ...]
    """The booleans, off by default, by which bare QEMU in a person's domain and VMs may generate code."""


POLICIES = {
    "default": Policy(
        tcg="svirt_t",
        content="virt_content_t:s0",
        others_pipes=False,
        opens_terminals=True,
        ramfs="ramfs_t",
        tcg_in_svirt={},
        execmem=("allow_execmem", "virt_use_execmem"),
    ),
    "targeted": Policy(
        tcg="svirt_tcg_t",
        content="virt_image_t:s0",
        others_pipes=True,
        opens_terminals=False,
        ramfs=None,
        tcg_in_svirt={"seclabel": {"type": "dynamic", "baselabel": "system_u:system_r:svirt_t:s0"}},
        execmem=("virt_use_execmem",),
    ),
}
"""By the name that /etc/selinux/config has: Debian's default policy, and Fedora's."""


def _name() -> str:
    with open("/etc/selinux/config", encoding="ascii") as file:
        (name,) = (line.partition("=")[2].strip() for line in file if line.startswith("SELINUXTYPE="))
    return name


HERE = POLICIES[_name()]
"""The one that this guest enforces."""
