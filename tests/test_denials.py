"""Whose a denial is, equal ones together, and what is printed for a person and for a program."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.denials import avc
from confined_qemu.denials.attribution import Known, PastVms, grouped
from confined_qemu.model.answers import Answer, Reason, Setting
from confined_qemu.model.context import Context
from confined_qemu.model.lean import replace
from confined_qemu.model.pastvm import GivenFile, PastVm
from tests.conftest import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from confined_qemu.denials.avc import Denial

START = 1795532000000
IMAGES = "/var/lib/libvirt/images"
A = Context.parse("system_u:system_r:svirt_t:s0:c1,c2")
B = Context.parse("system_u:system_r:svirt_t:s0:c3,c4")
VMS = (
    PastVm("a", A, 100, START, START + 60_000),
    PastVm(
        "b", B, 200, START + 1000, None, (GivenFile(f"{IMAGES}/b.img", 9, "system_u:object_r:svirt_image_t:s0:c3,c4"),)
    ),
    PastVm("a", Context.parse("system_u:system_r:svirt_t:s0:c7,c8"), 300, START + 70_000, START + 80_000),
    PastVm("late", A, 400, START + 90_000),
)


def policy(denial: Denial) -> Answer:
    """Answer as Debian's policy does."""
    if denial.kind == "process" and "execmem" in denial.permissions:
        return Answer(Reason.BOOLEANS, (Setting("virt_use_execmem", on=True),))
    return Answer(Reason.CONSTRAINT if denial.target.type == "svirt_image_t" else Reason.TYPES)


KNOWN = Known(PastVms(VMS), frozenset({"svirt_t"}), policy, lambda _path, _kind: None)


def denial(time: int, source: Context | str, rest: str, *, pid: int = 1) -> Denial:
    text = f"type=AVC msg=audit({(START + time) // 1000}.{(START + time) % 1000:03}:1): "
    (found,) = avc.denials([f'{text}avc:  denied  {{ read }} for  pid={pid} comm="q" scontext={source} {rest}'])
    return found


IMAGE_B = 'name="b.img" dev="vda" ino=9 tcontext=system_u:object_r:svirt_image_t:s0:c3,c4 tclass=file'


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (denial(5000, A, IMAGE_B), "a"),
        (denial(5000, "system_u:system_r:swtpm_t:s0:c1,c2", IMAGE_B), "a"),
        (denial(5000, "system_u:system_r:confined_qemu_swtpm_t:s0:c1,c2", IMAGE_B), "a"),
        (denial(95_000, A, IMAGE_B), "late"),
        (denial(65_000, A, IMAGE_B), None),
        (denial(-1, A, IMAGE_B), None),
        (denial(5000, "system_u:system_r:svirt_t:s0:c1,c3", IMAGE_B), None),
        (denial(5000, "system_u:system_r:svirt_t:s0", IMAGE_B), None),
        (denial(5000, "u:r:confined_qemu_t:s0", IMAGE_B, pid=200), "b"),
        (denial(5000, "u:r:confined_qemu_t:s0", IMAGE_B, pid=201), None),
    ],
)
def test_a_denial_is_the_vms_that_ran_in_that_context_at_that_time(found: Denial, name: str | None) -> None:
    vm = PastVms(VMS).of(found)
    assert (vm.name if vm is not None else None) == name


def test_of_two_static_vms_in_one_context_the_pid_decides() -> None:
    vms = (PastVm("one", A, 10, START), PastVm("two", A, 11, START))
    found = [PastVms(vms).of(denial(1, A, IMAGE_B, pid=pid)) for pid in (10, 11, 12)]
    assert [vm.name for vm in found if vm is not None] == ["one", "two", "two"]


def test_a_static_vm_without_categories_owns_its_very_context_only() -> None:
    vm = PastVm("static", Context.parse("system_u:system_r:svirt_t:s0"), 10, START)
    assert PastVms((vm,)).of(denial(1, vm.context, IMAGE_B)) == vm
    assert PastVms((vm,)).of(denial(1, "system_u:system_r:other_t:s0", IMAGE_B)) is None


def test_the_path_is_the_kernels_or_that_of_a_known_file() -> None:
    assert PastVms(VMS).path(denial(1, A, IMAGE_B)) == f"{IMAGES}/b.img"
    assert PastVms(VMS).path(denial(1, A, IMAGE_B.replace("ino=9", "ino=8"))) is None
    assert PastVms(VMS).path(denial(1, A, IMAGE_B.replace("b.img", "c.img"))) is None
    assert PastVms(VMS).path(denial(1, A, IMAGE_B.replace('name="b.img"', 'path="/x"'))) == "/x"
    assert PastVms(VMS).path(denial(1, A, IMAGE_B.replace('name="b.img"', 'path="socket:[7]"'))) is None


def report() -> list[Denial]:
    with open(os.path.join(GOLDEN, "denials", "report.log"), encoding="ascii") as file:
        return list(avc.denials(file))


def test_the_report(golden: Callable[[str, str], None]) -> None:
    groups = grouped(report(), KNOWN)
    golden("denials/report.txt", "".join(f"{line}\n" for group in groups for line in group.describe()))
    golden("denials/report.json", json.dumps([group.to_json() for group in groups], indent=2) + "\n")


def test_denials_of_others_are_left_out() -> None:
    found = grouped([denial(1, "system_u:system_r:httpd_t:s0", IMAGE_B)], KNOWN)
    assert found == []


def test_of_two_runs_of_a_vm_the_one_that_lives_is_told_what_to_do_now() -> None:
    rest = 'name="c.img" dev="vda" ino=3 tcontext=system_u:object_r:virt_image_t:s0 tclass=file'
    vms = (PastVm("a", A, 1, START, START + 10), PastVm("a", B, 2, START + 20))
    first, second = denial(1, A, rest), denial(30, B, rest)
    known = replace(KNOWN, vms=PastVms(vms))
    (group,) = grouped([first, second], known)
    (line,) = group.lines.values()
    assert line.count == 2
    assert line.describe().endswith("for the VM that runs: confined-qemu allow a PATH")
    (group,) = grouped([first], known)
    (line,) = group.lines.values()
    assert "allow" not in line.describe()
