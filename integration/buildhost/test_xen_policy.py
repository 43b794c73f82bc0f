"""The policy fragment that the topic `xen` shows, compiled by checkpolicy for Xen."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.guestlib import readme

if TYPE_CHECKING:
    from pathlib import Path

BEFORE = """\
class domain
class resource
sid xen
class domain { create }
class resource {
    add remove use use_iommu use_iommu_nointremap use_noiommu setup stat_device add_device remove_device add_irq
    remove_irq add_iomem remove_iomem add_ioport remove_ioport plug unplug
}
attribute resource_type;
type xen_t;
type dom0_t;
type domU_t;
role system_r;
role system_r types { xen_t dom0_t domU_t };
allow dom0_t domU_t:domain create;
neverallow * ~resource_type:resource { use use_iommu use_iommu_nointremap use_noiommu };
"""
"""What the sample policy has that the fragment stands on (xen/xsm/flask/policy, tools/flask/policy)."""
BETWEEN = "user system_u roles { system_r };\nsid xen system_u:system_r:xen_t\n"


def compiled(rules: str, contexts: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile a policy for Xen of these parts."""
    source = folder / "policy.conf"
    source.write_text(BEFORE + rules + BETWEEN + contexts)
    command = ["checkpolicy", "-t", "Xen", "-c", "30", "-o", str(folder / "policy"), str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def fragment() -> tuple[str, str]:
    """Return the fragment's rules, and its contexts."""
    shown = readme.block(readme.read(f"{readme.HELP}/xen.md"), "flask").strip("`\n")
    lines = [f"{line}\n" for line in shown.splitlines()]
    rules = "".join(line for line in lines if line.endswith(";\n"))
    contexts = "".join(line for line in lines if not line.endswith(";\n"))
    assert contexts.count("con ") == 4
    return rules, contexts


def test_it_compiles(fragment: tuple[str, str], tmp_path: Path) -> None:
    done = compiled(*fragment, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_its_attribute_it_does_not(fragment: tuple[str, str], tmp_path: Path) -> None:
    rules = fragment[0].replace("typeattribute web_nic_t resource_type;\n", "")
    done = compiled(rules, fragment[1], tmp_path)
    assert done.returncode != 0
    assert "neverallow" in done.stderr
