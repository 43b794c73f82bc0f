"""What `run` says of a QEMU that failed while Landlock held it: the paths that the plan did not know, and no other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.cli import heldhelp
from confined_qemu.model.invocation import Confinement
from confined_qemu.model.landlock import READ, Scope
from confined_qemu.model.lean import replace
from confined_qemu.model.plan import PlannedResource
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.model.ruleset import Ports, Rule, Ruleset
from tests.test_planner import made
from tests.worlds import World

if TYPE_CHECKING:
    from pathlib import Path

    from confined_qemu.model.plan import Plan


def held(folder: Path, *arguments: str, declared: str = "known.img") -> Plan:
    """Return a plan that Landlock holds, with one file of the folder declared and a folder of QEMU's own."""
    plan = made(World(selinux="disabled", landlock=7), confinement=Confinement.AUTO, arguments=arguments)
    path = str(folder / declared)
    rules = (Rule(path, READ, "disk"), Rule(str(folder / "firmware"), READ, "firmware"))
    resource = Resource(path, Role.DISK, Access.READ, Sharing.PRIVATE, "disks[0].file")
    return replace(
        plan,
        landlock=Ruleset.of(7, rules, Ports(), Scope(0)),
        resources=(PlannedResource(resource, path, None, None),),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that QEMU may open, and one that it may not."""
    (tmp_path / "firmware").mkdir()
    for name in ("known.img", "unknown.img", "firmware/bios.bin"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_path_without_a_rule_is_named_with_what_mends_it(folder: Path) -> None:
    plan = held(folder, "-x", f"a=b,file={folder}/unknown.img", "-hda", f"{folder}/known.img", "-bios", "/no/such")
    (line,) = heldhelp.lines(plan)
    assert f"{folder}/unknown.img" in line
    assert "extra_files" in line


def test_nothing_is_said_of_what_the_plan_knows(folder: Path) -> None:
    plan = held(folder, "-hda", f"{folder}/known.img", "-bios", f"{folder}/firmware/bios.bin", "-m", "1/2")
    assert heldhelp.lines(plan) == []
    assert heldhelp.lines(replace(plan, landlock=None)) == []


def test_owner_and_mode_are_told_from_landlock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = held(folder, "-hda", f"{folder}/known.img")
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    (line,) = heldhelp.lines(plan)
    assert "disks[0].file" in line
    assert "owner and mode" in line
