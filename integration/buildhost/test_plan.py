"""`plan`: the whole object that programs read, for a host with a policy, made on one without."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest

from integration.buildhost import hosted
from integration.buildhost.hosted import Vm, run

CONTEXTS = {
    "virtual_domain_context": "system_u:system_r:svirt_t:s0\n",
    "virtual_image_context": "system_u:object_r:svirt_image_t:s0\nsystem_u:object_r:virt_content_t:s0\n",
}
"""As in Debian's policy."""


@pytest.fixture
def policy_root(vm: Vm) -> str:
    """A policy's folder with the two files that say which contexts VMs and images get."""
    folder = os.path.join(vm.folder, "policy")
    os.makedirs(os.path.join(folder, "contexts"))
    for name, text in CONTEXTS.items():
        with open(os.path.join(folder, "contexts", name), "w", encoding="ascii") as file:
            file.write(text)
    return folder


def _planned(command: str, *words: str) -> tuple[int, dict[str, Any]]:
    done = run(command, "plan", "--json", *words)
    assert done.stderr == "", done
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def test_the_plan_of_linux_0_2_is_this_object(command: str, qemu: str, vm: Vm, policy_root: str) -> None:
    spec = shutil.copy(os.path.join(hosted.CHECKOUT, "configs", "linux-0.2.yaml"), vm.folder)
    image = os.path.join(vm.folder, "linux-0.2.img")
    os.rename(vm.image, image)
    code, plan = _planned(command, "--policy-root", policy_root, "--mcs", "c585,c813", spec)
    assert code == 0
    argv, accel = plan.pop("argv"), plan.pop("accel")
    assert plan == {
        "schema": 1,
        "name": "linux-0.2",
        "emulator": qemu,
        "confinement": "selinux",
        "process_context": "system_u:system_r:svirt_t:s0:c585,c813",
        "hardening": {"no_new_privs": True, "capabilities": [], "core": False},
        "resources": [
            {
                "path": image,
                "role": "disk",
                "access": "rw",
                "class": "private",
                "source": "disks[0].file",
                "context": "system_u:object_r:svirt_image_t:s0:c585,c813",
                "restore": "system_u:object_r:virt_image_t:s0",
            }
        ],
        "warnings": [],
        "refusals": [],
    }
    assert argv[0] == qemu
    assert argv[argv.index("-m") + 1] == "128M"
    assert argv[argv.index("-accel") + 1] == accel["chosen"]
    assert any(f"file={image}" in word for word in argv)
    assert set(accel) == {"chosen", "why"}


def test_a_raw_command_line_has_a_plan_too(command: str, vm: Vm, policy_root: str) -> None:
    code, plan = _planned(command, "--policy-root", policy_root, "--mcs", "c1,c2", "--", *vm.raw())
    assert code == 0
    assert plan["argv"][1:] == vm.raw()
    assert [(each["path"], each["context"]) for each in plan["resources"]] == [
        (vm.image, "system_u:object_r:svirt_image_t:s0:c1,c2")
    ]


def test_a_plan_with_a_missing_file_is_printed_and_refused(command: str, vm: Vm, policy_root: str) -> None:
    vm.write(confinement="selinux", disks=[{"file": "gone.img", "format": "raw"}, {"file": "a.img", "format": "raw"}])
    code, plan = _planned(command, "--policy-root", policy_root, "--mcs", "c1,c2", vm.spec)
    assert code == 125
    assert [os.path.basename(each["path"]) for each in plan["resources"]] == ["gone.img", "a.img"]
    assert len(plan["refusals"]) == 1
    assert "gone.img" in plan["refusals"][0]


def test_a_plan_for_this_host_says_that_it_would_be_refused(command: str, vm: Vm) -> None:
    vm.write(confinement="selinux")
    code, plan = _planned(command, vm.spec)
    assert code == 125
    assert plan["process_context"] is None
    assert plan["refusals"] == [hosted.NO_SELINUX.replace("confined-qemu: ", "").removesuffix("\n")]
    assert [each["context"] for each in plan["resources"]] == [None]


@pytest.mark.parametrize("pair", ["c1", "c1,c1", "c1,c5000", "c2.c4", "nonsense"])
def test_a_bad_pair_is_one_line(command: str, vm: Vm, policy_root: str, pair: str) -> None:
    line = hosted.refused(run(command, "plan", "--policy-root", policy_root, "--mcs", pair, vm.spec))
    assert pair in line


def test_a_folder_without_a_policy_is_one_line(command: str, vm: Vm) -> None:
    assert "virtual_domain_context" in hosted.refused(run(command, "plan", "--policy-root", vm.folder, vm.spec))
