"""What a VM's process gives up: one decision, whatever holds the VM."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.cli import check
from confined_qemu.launch import inputs
from confined_qemu.model.invocation import Confinement
from confined_qemu.model.lean import replace
from confined_qemu.plan.planner import plan
from tests.worlds import World

if TYPE_CHECKING:
    from confined_qemu.model.hardening import Hardening
    from confined_qemu.model.plan import Plan

ALL = ["chown", "dac_override", "ipc_lock", "net_admin", "net_bind_service", "setgid", "setuid", "sys_admin"]
BRIDGE = "/usr/lib/qemu/qemu-bridge-helper"
OTHER_BRIDGE = "/usr/libexec/qemu-bridge-helper"
MISSING = {"kind": "missing"}


def made(*arguments: str, harden: bool = True, **world: Any) -> Plan:
    """Return the plan of a command line of root's."""
    invocation = inputs.from_arguments("qemu-system-x86_64", arguments)
    invocation = replace(invocation, harden=harden, confinement=Confinement(world.pop("confinement", "selinux")))
    host = World(**{"capabilities": ALL, **world})
    return plan(invocation, host.facts(invocation), host.rules())


def hardening(*arguments: str, **world: Any) -> Hardening:
    found = made(*arguments, **world).hardening
    assert found is not None
    return found


@pytest.mark.parametrize("confinement", ["selinux", "landlock"])
@pytest.mark.parametrize(
    ("arguments", "world", "kept"),
    [
        ([], {}, set()),
        (["-hda", "a.img"], {}, set()),
        (["-hda", "a.img"], {"overridden": ["/srv/vm/a.img"]}, {"dac_override"}),
        (["-nic", "tap,ifname=t0,script=no,downscript=no"], {}, {"net_admin"}),
        (["-nic", "tap,ifname=t0,script=no,downscript=no"], {"capabilities": []}, set()),
        (["-runas", "nobody"], {}, {"setuid", "setgid"}),
        (["-overcommit", "mem-lock=on"], {}, {"ipc_lock"}),
        (["-nic", "user,hostfwd=tcp::80-:80"], {}, {"net_bind_service"}),
        (["-nic", "user,hostfwd=tcp::8080-:80"], {}, set()),
    ],
)
def test_what_is_kept_is_what_the_command_line_needs(
    confinement: str, arguments: list[str], world: dict[str, Any], kept: set[str]
) -> None:
    found = hardening(*arguments, confinement=confinement, landlock=7, **world)
    assert found.capabilities == frozenset(kept)
    assert found.privileges is None
    assert bool(found.why) is bool(kept)


def test_a_setuid_helper_keeps_what_makes_it_root() -> None:
    """qemu-bridge-helper is no use under no_new_privs; where it is not installed, nothing is kept for it."""
    there = hardening("-nic", "bridge", files={OTHER_BRIDGE: MISSING})
    assert there.capabilities is None
    assert there.privileges == f"QEMU runs {BRIDGE}"
    gone = hardening("-nic", "bridge", files={OTHER_BRIDGE: MISSING, BRIDGE: MISSING})
    assert gone.privileges is None
    assert gone.capabilities == frozenset()


def test_harden_no_keeps_all() -> None:
    found = hardening(harden=False)
    assert found.capabilities is None
    assert found.privileges == "harden: no"
    assert found.to_json() == {"no_new_privs": False, "capabilities": None, "core": True}
    # Landlock's rules take no_new_privs
    assert hardening(harden=False, confinement="landlock", landlock=7).privileges is None


@pytest.mark.parametrize(
    "world",
    [
        {"enters_held": False},
        {"denied": [["confined_qemu_t", "svirt_t", "process2", "nnp_transition"]]},
        {"denied": [["unconfined_t", "svirt_t", "process2", "nnp_transition"]], "in_domain": False},
    ],
)
def test_a_policy_that_lets_nobody_in_with_it_is_said(world: dict[str, Any]) -> None:
    found = hardening(**world)
    who = "confined_qemu_t" if world.get("in_domain", True) else "unconfined_t"
    assert found.privileges == f"{who} may not enter svirt_t with no_new_privs"
    assert found.capabilities == frozenset(), "they are given up all the same"
    assert made(**world).refusals == ()


@pytest.mark.parametrize(
    ("confinement", "said"),
    [("selinux", "takes it for root"), ("landlock", "whom Landlock lets change"), ("none", None)],
)
def test_check_warns_of_a_root_without_a_user_of_its_own(
    confinement: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made(confinement=confinement, landlock=7)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    lines = [finding.text for finding in check._held("vm.yaml", plan)]
    assert len(lines) == (said is not None)
    assert all(said is not None and said in line and "add user: NAME" in line for line in lines)
    assert list(check._held("vm.yaml", replace(plan, user="nobody"))) == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert list(check._held("vm.yaml", plan)) == []


def test_a_question_and_a_vm_that_nothing_confines_give_up_nothing() -> None:
    assert made("-version").hardening is None
    assert made(confinement="none").hardening is None
