"""Landlock as a second wall: when it is laid on, by which rules, and what is said where it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.launch import inputs
from confined_qemu.model.helper import Helper, HelperKind
from confined_qemu.model.invocation import Seclabel, SeclabelType, SecondWall
from confined_qemu.model.lean import replace
from confined_qemu.model.steps import Listen, MakeFile, MakeFolder, OwnFolder, StartHelper
from confined_qemu.plan.planner import plan
from confined_qemu.read.qemu.reach import opens_later
from tests.worlds import World

if TYPE_CHECKING:
    from confined_qemu.model.plan import Plan

QUIET = ("-nodefaults", "-display", "none", "-hda", "a.img")
WATCHED = (*QUIET, "-qmp", "stdio")
PROGRAM = {"files": {"/h": {"label": "system_u:object_r:bin_t:s0"}}}


def made(*arguments: str, wanted: str = "auto", harden: bool = True, **world: Any) -> Plan:
    """Return the plan of a command line; a kernel of today's ABI unless the world says otherwise."""
    invocation = inputs.from_arguments("qemu-system-x86_64", arguments)
    invocation = replace(invocation, landlock=SecondWall(wanted), harden=harden)
    host = World(**{"landlock": 7, **world})
    return plan(invocation, host.facts(invocation), host.rules())


@pytest.mark.parametrize(
    ("arguments", "later"),
    [
        (QUIET, False),
        (WATCHED, True),
        (("-nodefaults", "-display", "none"), False),
        (("-display", "none"), False),
        ((), True),
        (("-nographic",), True),
        (("-nographic", "-monitor", "none"), False),
        (("-nographic", "-nodefaults"), False),
        (("-nographic", "-serial", "mon:stdio"), True),
        (("-display", "none", "-serial", "mon:stdio"), True),
        (("-display", "none", "-vnc", ":1"), True),
        (("-nodefaults", "-vnc", ":1"), False),
        (("-nodefaults", "-display", "gtk"), True),
        (("-nodefaults", "-display", "curses"), False),
        (("-nodefaults", "-mon", "chardev=a"), True),
        (("-nodefaults", "-gdb", "tcp::1"), True),
        (("-nodefaults", "-s"), True),
        (("-nodefaults", "--qmp", "unix:a,server=on"), True),
        (("-nodefaults", "-readconfig", "a"), True),
        (("-nodefaults", "-device", "usb-host,vendorid=1"), True),
        (("-nodefaults", "-monitor", "none", "-qmp", "none"), False),
    ],
)
def test_who_can_have_qemu_open_files_later(arguments: tuple[str, ...], later: bool) -> None:
    assert opens_later(arguments) is later


@pytest.mark.parametrize(
    ("arguments", "landlock", "abi", "held"),
    [
        (QUIET, "auto", 7, True),
        (QUIET, "auto", 2, True),
        (QUIET, "auto", 1, False),
        (QUIET, "auto", 0, False),
        (QUIET, "no", 7, False),
        (QUIET, "also", 1, True),
        (WATCHED, "auto", 7, False),
        (WATCHED, "also", 7, True),
        (WATCHED, "no", 7, False),
        (("-version",), "also", 7, False),
    ],
)
def test_it_is_laid_on_where_nothing_will_be_opened_later_or_the_user_says_so(
    arguments: tuple[str, ...], landlock: str, abi: int, held: bool
) -> None:
    found = made(*arguments, wanted=landlock, landlock=abi)
    assert (found.landlock is not None) is held
    assert found.confinement == "selinux"
    assert found.process is not None
    assert found.refusals == found.warnings == ()


def test_its_rules_are_of_the_same_files_and_of_the_vms_own_folders() -> None:
    found = made(
        *QUIET, "-snapshot", "-vnc", "unix:vnc.sock", "-serial", "file:log", "-accel", "kvm", wanted="also", kvm=True
    )
    assert found.landlock is not None
    rules = {rule.path: rule.words for rule in found.landlock.rules}
    assert rules["/srv/vm/a.img"] == "read"
    assert rules["/srv/vm/log"] == "read write truncate"
    assert rules["/dev/kvm"] == "read write ioctl"
    own = [step.path for step in found.steps if isinstance(step, MakeFolder)]
    assert len(own) == 2
    assert all("make" in rules[folder] for folder in own)
    # its sockets are made by the launcher, or in its own folder: nowhere else
    assert "/srv/vm" not in rules
    assert not [step for step in found.steps if isinstance(step, MakeFile | Listen | OwnFolder)]


def test_a_helper_has_rules_of_its_own() -> None:
    helped = Helper(HelperKind.SWTPM, "tpm0", "tpm", "tpm")
    invocation = replace(inputs.from_arguments("qemu-system-x86_64", QUIET), helpers=(helped,))
    closed = ["confined_qemu_t", "confined_qemu_swtpm_t", "process2", "nnp_transition"]
    for denied, held in (([], True), ([closed], False)):
        host = World(landlock=7, denied=denied)
        found = plan(invocation, host.facts(invocation), host.rules())
        (start,) = (step for step in found.steps if isinstance(step, StartHelper))
        assert start.context is not None
        assert (start.ruleset is not None) is held


@pytest.mark.parametrize(
    ("arguments", "world", "said"),
    [
        (QUIET, {"landlock": 0}, "this kernel has no Landlock"),
        (QUIET, {"harden": False}, "landlock: also needs no_new_privs, which this VM cannot have: harden: no"),
        (QUIET, {"enters_held": False}, "cannot have: confined_qemu_t may not enter svirt_t with no_new_privs"),
        ((*QUIET, "-nic", "bridge,helper=/h"), PROGRAM, "cannot have: QEMU runs /h"),
    ],
)
def test_where_it_was_asked_for_and_cannot_be_nothing_starts(
    arguments: tuple[str, ...], world: dict[str, Any], said: str
) -> None:
    found = made(*arguments, wanted="also", **world)
    assert found.landlock is None
    (refusal,) = found.refusals
    assert said in refusal
    without = made(*arguments, **world)
    assert without.refusals == ()
    assert without.landlock is None


def test_a_vm_without_a_label_has_no_second_wall() -> None:
    invocation = replace(
        inputs.from_arguments("qemu-system-x86_64", QUIET),
        landlock=SecondWall.ALSO,
        seclabel=Seclabel(SeclabelType.NONE),
    )
    host = World(landlock=7)
    (refusal,) = plan(invocation, host.facts(invocation), host.rules()).refusals
    assert refusal.startswith("landlock: also needs SELinux to confine the VM")
