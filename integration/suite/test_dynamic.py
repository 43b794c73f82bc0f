"""Dynamic labelling: each VM at its own pair, its image at the same, and the label back afterwards."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("accel", ["kvm", "tcg"])
@pytest.mark.usefixtures("execmem_where_needed")
def test_two_vms_at_once(make_image: Callable[[str], harness.Image], accel: str) -> None:
    images = [make_image("a"), make_image("b")]
    for image in images:
        image.write_spec(accel=accel)
    vms = [harness.boot_spec(image) for image in images]
    processes = harness.run("ps", "-eZ").stdout
    levels = [harness.level(harness.label(image.path)) for image in images]
    assert levels[0] != levels[1]
    for image, its_level in zip(images, levels, strict=True):
        assert harness.label(image.path) == f"system_u:object_r:svirt_image_t:{its_level}"
        assert f"system_u:system_r:{HERE.tcg if accel == 'tcg' else 'svirt_t'}:{its_level} " in processes
        assert f"svirt_image_t:{its_level} {image.path}" in harness.run("ls", "-Z", image.path).stdout
    for vm in vms:
        vm.popen.terminate()
    assert [vm.wait() for vm in vms] == [0, 0]
    assert [harness.short_label(image.path) for image in images] == [harness.UNUSED] * 2


def test_tcg_without_the_boolean_starts_nothing_and_names_it(image: harness.Image) -> None:
    image.write_spec(accel="tcg", **HERE.tcg_in_svirt)
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    assert done.stdout == ""
    (line,) = harness.messages(done.stderr)
    assert "setsebool -P virt_use_execmem on" in line
    assert "execmem" in line
    assert harness.short_label(image.path) == harness.UNUSED


def test_the_guest_reads_what_a_person_types_and_its_exit_code_is_qemus(image: harness.Image) -> None:
    vm = harness.boot_spec(image, "--", "-device", "isa-debug-exit,iobase=0xf4")
    vm.send(b"hello")
    vm.read_until(b"hello")
    vm.send(b"x")
    assert vm.wait() == 33
    assert harness.short_label(image.path) == harness.UNUSED


def test_every_kind_of_file_gets_its_label(make_image: Callable[[str], harness.Image], folder: str) -> None:
    image = make_image("a")
    for name in ("cd.iso", "vmlinuz", "initrd", "nvram.fd"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(bytes(1 << 20))
    subprocess.run(["restorecon", "-RF", folder], check=True)
    image.write_spec(cdrom="cd.iso", serial="file:serial.log", monitor="unix:monitor.sock")
    vm = harness.Process([harness.COMMAND, "run", image.spec])
    log = os.path.join(folder, "serial.log")
    harness.until("the guest's marker in the serial file", lambda: os.path.exists(log) and _booted(log))
    pair = harness.level(harness.label(image.path))
    assert harness.short_label(os.path.join(folder, "cd.iso")) == HERE.content
    assert harness.short_label(log) == f"svirt_image_t:{pair}"
    assert harness.short_label(os.path.join(folder, "monitor.sock")) == f"svirt_image_t:{pair}"
    vm.popen.terminate()
    vm.wait()
    assert harness.short_label(os.path.join(folder, "cd.iso")) == harness.UNUSED
    assert harness.short_label(log) == harness.UNUSED
    assert not os.path.exists(os.path.join(folder, "monitor.sock"))


def _booted(log: str) -> bool:
    with open(log, "rb") as file:
        return b"ready" in file.read()


def test_a_second_vm_on_the_image_is_refused_by_name_and_pid(image: harness.Image) -> None:
    vm = harness.boot_spec(image)
    before = harness.label(image.path)
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    assert f"in use by the VM a (pid {harness.qemu_of(image.path)})" in done.stderr
    assert harness.label(image.path) == before
    assert harness.power_off(vm) == 0


def test_two_vms_on_one_read_only_image_and_the_last_one_restores(
    make_image: Callable[[str], harness.Image], folder: str
) -> None:
    images = [make_image("a"), make_image("b")]
    shared = os.path.join(folder, "shared.iso")
    with open(shared, "wb") as file:
        file.write(bytes(1 << 20))
    subprocess.run(["restorecon", "-RF", folder], check=True)
    for image in images:
        image.write_spec(cdrom="shared.iso")
    first, second = (harness.boot_spec(image) for image in images)
    assert harness.short_label(shared) == HERE.content
    assert harness.power_off(first) == 0
    assert harness.short_label(shared) == HERE.content
    assert harness.power_off(second) == 0
    assert harness.short_label(shared) == harness.UNUSED


@pytest.mark.parametrize("name", ["a,b.img", "a b.img", "a\nb.img", "-a.img", "a=b,,c'\".img", "ünï.img"])
def test_paths_that_bite(folder: str, name: str) -> None:
    image = harness.Image(folder, "x")
    os.rename(image.path, path := os.path.join(folder, name))
    image.path = path
    image.write_spec()
    subprocess.run(["restorecon", "-RF", folder], check=True)
    vm = harness.boot_spec(image)
    assert harness.short_label(path).startswith("svirt_image_t:s0:c")
    assert harness.power_off(vm) == 0
    assert harness.short_label(path) == harness.UNUSED


def test_ps_lists_what_the_kernel_runs(image: harness.Image) -> None:
    vm = harness.boot_spec(image)
    (row,) = json.loads(harness.confined("ps", "--json").stdout)["vms"]
    assert row["name"] == "a"
    assert row["context"] == harness.context(row["pid"])
    assert row["images"] == [image.path]
    assert row["accel"] == "kvm"
    assert harness.power_off(vm) == 0
    assert json.loads(harness.confined("ps", "--json").stdout)["vms"] == []


def test_permissive_labels_everything_and_warns(image: harness.Image) -> None:
    image.write_spec(confinement="selinux")  # `auto` would take Landlock, which enforces
    subprocess.run(["setenforce", "0"], check=True)
    try:
        vm = harness.boot_spec(image)
        assert harness.context(harness.qemu_of(image.path)).startswith("system_u:system_r:svirt_t:s0:c")
        vm.send(b"q")
        _, errors = vm.popen.communicate()
    finally:
        subprocess.run(["setenforce", "1"], check=True)
    assert b"confined-qemu: warning: SELinux is permissive" in errors
    assert harness.short_label(image.path) == harness.UNUSED


def test_plan_says_what_run_will_do(image: harness.Image) -> None:
    plan = json.loads(harness.confined("plan", "--json", image.spec).stdout)
    assert plan["schema"] == 1
    assert plan["process_context"].startswith("system_u:system_r:svirt_t:s0:c")
    (disk,) = [resource for resource in plan["resources"] if resource["role"] == "disk"]
    assert (disk["path"], disk["role"], disk["access"], disk["class"]) == (image.path, "disk", "rw", "private")
    assert disk["context"] == f"system_u:object_r:svirt_image_t:{harness.level(plan['process_context'])}"
    assert disk["restore"].endswith(harness.UNUSED)
    assert harness.short_label(image.path) == harness.UNUSED
