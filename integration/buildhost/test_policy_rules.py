"""The policy module against Debian's whole policy and its `neverallow` rules, which `semodule` does not check."""

from __future__ import annotations

import bz2
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from confined_qemu.policy import module
from integration.guestlib import layers

if TYPE_CHECKING:
    from pathlib import Path

HANDED = "(typeattributeset confined_qemu_handed_file ({}))\n"
SECRET = "(allow confined_qemu_t shadow_t (file (read)))\n"  # noqa: S105 - a rule


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian's policy as one CIL file, taken from the store of the guest's root."""
    store = os.path.join(layers.policy_root(layers.policy_named("default")), "var/lib/selinux/default/active/modules")
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


def _compile(debian: str, folder: Path, more: str = "") -> subprocess.CompletedProcess[str]:
    ours = folder / "confined_qemu.cil"
    ours.write_text(module.text(module.Levels.MCS) + more, encoding="ascii")
    command = ["secilc", "-M", "1", "-c", "33", "-f", os.devnull, "-o", str(folder / "policy"), debian, str(ours)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_module_breaks_no_rule(debian: str, tmp_path: Path) -> None:
    done = _compile(debian, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("more", [HANDED.format("etc_t"), SECRET])
def test_the_rules_are_checked(debian: str, tmp_path: Path, more: str) -> None:
    """What a VM may open by itself is never handed over writable; and the policy's own rule about secrets holds."""
    done = _compile(debian, tmp_path, more)
    assert done.returncode != 0
    assert "neverallow" in done.stderr
