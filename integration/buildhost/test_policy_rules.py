"""The policy module against Debian's whole policy and its `neverallow` rules, which `semodule` does not check."""

from __future__ import annotations

import bz2
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from confined_qemu.install import module
from integration.guestlib import layers

if TYPE_CHECKING:
    from pathlib import Path

HANDED = "(typeattributeset confined_qemu_handed_file ({}))\n"
OPENED = "(allow svirt_t confined_qemu_stdio_t (fifo_file (open)))\n"
SECRET = "(allow confined_qemu_t shadow_t (file (read)))\n"  # noqa: S105 - a rule


POLICIES = {module.PolicyLevels.MCS: "default", module.PolicyLevels.MLS: "mls"}
"""Debian's policies; the root of either guest holds both."""


@pytest.fixture(scope="module", params=module.PolicyLevels)
def levels(request: pytest.FixtureRequest) -> module.PolicyLevels:
    """Which of the two."""
    found: module.PolicyLevels = request.param
    return found


@pytest.fixture(scope="module")
def debian(levels: module.PolicyLevels, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian's policy as one CIL file, taken from the store of the guest's root."""
    root = layers.policy_root(layers.policy_named("default"))
    store = os.path.join(root, "var/lib/selinux", POLICIES[levels], "active/modules")
    disabled = set(os.listdir(os.path.join(store, "disabled")))
    path = tmp_path_factory.mktemp("policy") / "debian.cil"
    with open(path, "wb") as whole:
        for name in sorted(os.listdir(os.path.join(store, "100"))):
            if name not in disabled:
                with open(os.path.join(store, "100", name, "cil"), "rb") as file:
                    data = file.read()
                whole.write(bz2.decompress(data) if data.startswith(b"BZh") else data)
                whole.write(b"\n")
    return str(path)


def _compile(
    debian: str, levels: module.PolicyLevels, folder: Path, more: str = ""
) -> subprocess.CompletedProcess[str]:
    ours = folder / "confined_qemu.cil"
    ours.write_text(module.text(levels) + more, encoding="ascii")
    command = ["secilc", "-M", "1", "-c", "33", "-f", os.devnull, "-o", str(folder / "policy"), debian, str(ours)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_module_breaks_no_rule(debian: str, levels: module.PolicyLevels, tmp_path: Path) -> None:
    done = _compile(debian, levels, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_rules_are_checked(debian: str, levels: module.PolicyLevels, tmp_path: Path) -> None:
    """What a VM may open is not handed over writable, nobody opens a trusted pipe, the policy keeps its secrets."""
    mls_only = [OPENED] if levels is module.PolicyLevels.MLS else []
    for more in (HANDED.format("etc_t"), SECRET, *mls_only):
        done = _compile(debian, levels, tmp_path, more)
        assert done.returncode != 0
        assert "neverallow" in done.stderr
