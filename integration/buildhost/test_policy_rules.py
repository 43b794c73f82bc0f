"""The policy module against whole policies and their `neverallow` rules, which `semodule` does not check."""

from __future__ import annotations

import bz2
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from confined_qemu.install import module
from integration.guestlib import fedora, layers

if TYPE_CHECKING:
    from pathlib import Path

HANDED = "(typeattributeset confined_qemu_handed_file (etc_t))"
"""What a VM may open is not handed over writable."""
BROKEN = (
    "(allow confined_qemu_t shadow_t (file (read)))",
    "(allow confined_qemu_probe_t etc_t (file (write)))",
    "(allow confined_qemu_probe_t shell_exec_t (file (execute_no_trans)))",
    "(allow confined_qemu_probe_t init_t (unix_stream_socket (connectto)))",
    "(allow confined_qemu_probe_t init_t (process (signal)))",
    "(allow confined_qemu_swtpm_t init_t (process (transition)))",
)
"""Rules that the policy, or our module, excludes: it keeps its secrets, and what Fedora gives to every domain is all
that the probe and the helpers have of what they are denied."""
OPENED = "(allow svirt_t confined_qemu_stdio_t (fifo_file (open)))"
"""Nobody opens a trusted pipe (MLS)."""

LEVELS = {"default": module.PolicyLevels.MCS, "mls": module.PolicyLevels.MLS, "fedora": module.PolicyLevels.MCS}
"""The policies: Debian's two, which the root of either guest holds, and Fedora's."""


@pytest.fixture(scope="module", params=LEVELS)
def policy(request: pytest.FixtureRequest) -> str:
    """Which of them."""
    return str(request.param)


@pytest.fixture(scope="module")
def whole(policy: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The policy as one CIL file; Debian's is taken from the store of the guest's root."""
    if policy == "fedora":
        return fedora.whole()
    root = layers.policy_root(layers.policy_named("default"))
    store = os.path.join(root, "var/lib/selinux", policy, "active/modules")
    disabled = set(os.listdir(os.path.join(store, "disabled")))
    path = tmp_path_factory.mktemp("policy") / "debian.cil"
    with open(path, "wb") as joined:
        for name in sorted(os.listdir(os.path.join(store, "100"))):
            if name not in disabled:
                with open(os.path.join(store, "100", name, "cil"), "rb") as file:
                    data = file.read()
                joined.write(bz2.decompress(data) if data.startswith(b"BZh") else data)
                joined.write(b"\n")
    return str(path)


def _compile(whole: str, policy: str, folder: Path, more: str = "") -> subprocess.CompletedProcess[str]:
    ours = folder / "confined_qemu.cil"
    ours.write_text(module.text(LEVELS[policy]) + more, encoding="ascii")
    command = ["secilc", "-M", "1", "-c", "33", "-f", os.devnull, "-o", str(folder / "policy"), whole, str(ours)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_module_breaks_no_rule(whole: str, policy: str, tmp_path: Path) -> None:
    done = _compile(whole, policy, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_rules_are_checked(whole: str, policy: str, tmp_path: Path) -> None:
    broken = [*BROKEN, *([OPENED] if policy == "mls" else [])]
    done = _compile(whole, policy, tmp_path, "\n".join([HANDED, *broken, ""]))
    assert done.returncode != 0
    assert "(neverallow confined_qemu_vm confined_qemu_handed_file (file (open)))" in done.stderr
    assert [rule for rule in broken if rule not in done.stderr] == []
