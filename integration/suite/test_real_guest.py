"""The main job: linux-0.2.img boots from its disk to a shell, takes a command, powers off; its label comes back."""

from __future__ import annotations

import os

import pytest

from integration.suite import boots, harness


def test_linux_boots_takes_a_command_and_powers_off(folder: str) -> None:
    boots.place(folder)
    disk = os.path.join(folder, boots.IMAGE)
    vm = harness.Process([harness.COMMAND, "run", os.path.join(folder, boots.SPEC)])
    vm.read_until(boots.MARKER)
    pair = harness.level(harness.label(disk))
    assert harness.context(harness.qemu_of(disk)) == f"system_u:system_r:svirt_t:{pair}"
    vm.send(b"echo sum-$((40+2))\n")
    vm.read_until(b"sum-42")
    vm.send(b"poweroff\n")
    assert vm.wait() == 0
    assert harness.short_label(disk) == harness.UNUSED


@pytest.mark.parametrize("name", [boots.IMAGE, boots.SPEC])
def test_what_the_main_job_needs_is_here(name: str) -> None:
    assert os.path.exists(os.path.join(boots.SOURCE, name))
