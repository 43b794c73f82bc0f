"""The host's own kernel boots: a VM gets a copy of what it may not read where it lies, and may not read it there.

Where a policy lets every process read /boot (Fedora's), there is no copy, and a VM may not write there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, hostile, mounted
from integration.suite.policies import HERE
from integration.suite.test_files import PAUSED, Control, kernel, write

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNEL, INITRD = "/boot/vmlinuz-confined-qemu-test", "/boot/initrd.img-confined-qemu-test"
QMP = ("-chardev", "socket,id=c,path={}/agent.sock", "-mon", "chardev=c,mode=control")


@pytest.fixture
def boot() -> Iterator[None]:
    """A kernel and its initial RAM disk where every distribution has them, labelled as the policy says."""
    write(KERNEL, kernel())
    write(INITRD, b"initrd" * 1000)
    subprocess.run(["restorecon", "-F", KERNEL, INITRD], check=True)
    yield
    for path in (KERNEL, INITRD):
        os.unlink(path)


def _copies(pid: int) -> dict[str, str]:
    """Return the paths that stand for the kernel and the initial RAM disk on a QEMU's command line."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().decode().split("\0")
    return {option: words[words.index(option) + 1] for option in ("-kernel", "-initrd", "-cdrom") if option in words}


def _ended(vm: harness.Process, control: Control) -> None:
    control.ask("quit")
    control.close()
    assert vm.wait() == 0
    harness.settle()


@pytest.mark.usefixtures("boot")
def test_the_hosts_own_kernel_boots_from_a_copy_that_is_gone_afterwards(folder: str) -> None:
    before = {path: harness.label(path) for path in (KERNEL, INITRD)}
    assert set(map(harness.short_label, before)) == {"boot_t:s0"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(folder, "agent.sock"))
        listener.listen(1)
        words = [*PAUSED, "-kernel", KERNEL, "-initrd", INITRD, *(word.format(folder) for word in QMP)]
        vm = harness.Process([harness.COMMAND, "exec", "--", *words])
        control = Control(listener)
        pair = harness.level(harness.context(vm.pid))
        copies = _copies(vm.pid)
        for option, path in (("-kernel", KERNEL), ("-initrd", INITRD)):
            copy = copies[option]
            if HERE.reads_boot:
                assert copy == path
                continue
            assert harness.short_label(copy) == f"svirt_image_t:{pair}"
            with open(copy, "rb") as made, open(path, "rb") as original:
                assert made.read() == original.read()
        assert {path: harness.label(path) for path in before} == before
        _ended(vm, control)
    assert HERE.reads_boot or not any(os.path.exists(os.path.dirname(copy)) for copy in copies.values())
    assert {path: harness.label(path) for path in before} == before


@pytest.mark.usefixtures("boot")
def test_the_plan_shows_both(folder: str) -> None:
    done = harness.confined("plan", "--json", "--", *PAUSED, "-kernel", KERNEL)
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["refusals"], plan["warnings"]) == (0, [], [])
    paths = {one["path"]: one["context"] for one in plan["resources"]}
    assert paths[KERNEL] is None
    copied = f"copy     {KERNEL}: {len(kernel()):,} bytes to "
    shown = harness.confined("plan", "--", *PAUSED, "-kernel", KERNEL).stdout
    if HERE.reads_boot:
        assert "given" not in plan
        assert KERNEL in plan["argv"]
        assert copied not in shown
    else:
        assert KERNEL in plan["given"]
        assert KERNEL not in plan["argv"]
        assert copied in shown
    assert os.listdir(folder) == []


@pytest.mark.usefixtures("boot")
def test_no_vm_writes_boot_nor_reads_it_unless_all_may(
    image: harness.Image, hostile_qemu: str, audit: harness.AuditTrail
) -> None:
    answers = hostile.attempt(image, hostile_qemu, [("read", KERNEL), ("write", KERNEL)], "-kernel", KERNEL)
    assert answers["write", KERNEL] == "EACCES"
    assert answers["read", KERNEL] == ("ok" if HERE.reads_boot else "EACCES")
    assert audit.has("write" if HERE.reads_boot else "read", "svirt_t", "boot_t", "file")
    assert harness.short_label(KERNEL) == "boot_t:s0"


@pytest.fixture
def closed_stick() -> Iterator[None]:
    """Sticks that VMs may not read themselves, for one test; the boolean is on where the policy has it so."""
    name = "virt_use_usb"
    before = subprocess.run(["getsebool", name], check=True, capture_output=True, text=True).stdout.split()[-1]
    subprocess.run(["setsebool", f"{name}=off"], check=True)
    yield
    subprocess.run(["setsebool", f"{name}={before}"], check=True)


@pytest.mark.usefixtures("closed_stick")
def test_an_iso_on_a_stick_is_copied(folder: str) -> None:
    subprocess.run(["modprobe", "-a", "vfat", "loop"], check=True)
    with mounted.vfat() as stick, socket.socket(socket.AF_UNIX) as listener:
        iso = write(os.path.join(stick, "tools.iso"), b"\1" * (1 << 20))
        listener.bind(os.path.join(folder, "agent.sock"))
        listener.listen(1)
        words = [*PAUSED, "-cdrom", iso, *(word.format(folder) for word in QMP)]
        vm = harness.Process([harness.COMMAND, "exec", "--", *words])
        control = Control(listener)
        copy = _copies(vm.pid)["-cdrom"]
        assert copy != iso
        assert harness.short_label(copy) == f"svirt_image_t:{harness.level(harness.context(vm.pid))}"
        _ended(vm, control)
        assert not os.path.exists(copy)
