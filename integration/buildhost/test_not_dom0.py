"""A machine that is not Xen's dom0 starts no domain of Xen's, and says so first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.buildhost.hosted import refused, run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_domain_is_planned_and_refused_outside_dom0(command: str, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"x")
    spec = tmp_path / "web.yaml"
    spec.write_text(f"hypervisor: xen\nname: web\nkernel: {tmp_path}/kernel\n")
    assert refused(run(command, "run", str(spec))) == (
        "confined-qemu: this is not Xen's dom0, which alone starts domains\nconfined-qemu:   boot the host under Xen\n"
    )
    plan = run(command, "plan", str(spec))
    assert plan.returncode == 125
    assert 'xl.cfg   name = "web"\n' in plan.stdout
    assert "refused  this is not Xen's dom0" in plan.stdout


def test_hvm_is_refused_with_its_reason(command: str, tmp_path: Path) -> None:
    spec = tmp_path / "web.yaml"
    spec.write_text("hypervisor: xen\nname: web\ntype: hvm\nkernel: /boot/vmlinuz\n")
    said = refused(run(command, "run", str(spec)))
    assert "web.yaml:3:7: type: an HVM guest's devices" in said
    assert "unconfined" in said
