"""The text of the policy module: its parts for every policy, a fragment for its range, and a version."""

from __future__ import annotations

from importlib import resources

from confined_qemu.model import policynames
from confined_qemu.model.lean import StrEnum

NAME = "confined_qemu"
VERSION = 9
"""Raised with every change of the rules; the kernel knows it as a type alias, so that anyone can ask for it."""

PARTS = (NAME, "devices", "filesystems", "probe", "denials", "helpers", "shares", "userdomain", "settings")
"""The files beside this one that the module is made of, one for each thing that it allows."""


class PolicyLevels(StrEnum):
    """Which levels the host's policy has: categories only, or sensitivities too."""

    MCS = "mcs"
    MLS = "mls"


def version_type(version: int) -> str:
    """Return the type alias that says that this version of the module is loaded."""
    return f"confined_qemu_version_{version}"


def text(levels: PolicyLevels) -> str:
    """Return the module as CIL for a policy with these levels."""
    folder = resources.files(__package__)
    alias = version_type(VERSION)
    return "\n".join(
        (
            *((folder / f"{part}.cil").read_text(encoding="ascii") for part in (*PARTS, levels)),
            f"; version {VERSION}",
            f"(typealias {alias})",
            f"(typealiasactual {alias} {policynames.SCRIPT})",
            "",
        )
    )
