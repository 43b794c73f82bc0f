"""The control group of a spec's VM: what is left in it is killed with it, and it is gone with the VM."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, sides

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = "/sys/fs/cgroup"
VM_GROUP = "confined-qemu-"
LABEL = "system_u:system_r:svirt_t:s0:c1020,c1021"
_LINGERER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs", "lingerer.py")
_PLACE = "/usr/local/bin/lingering-qemu"
USER = "grouped"


def group_of(pid: int) -> str:
    """Return the folder of a process's control group."""
    return f"{GROUPS}{sides.text(pid, 'cgroup').removeprefix('0::')}"


def groups(within: str = "") -> list[str]:
    """Return the groups of VMs within the test's own, or another."""
    folder = within or group_of(os.getpid())
    return [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(VM_GROUP)]


@pytest.fixture
def lingerer() -> Iterator[str]:
    """A program that leaves a process behind, in QEMU's place and labelled as QEMU is."""
    shutil.copy(_LINGERER, _PLACE)
    os.chmod(_PLACE, 0o755)
    harness.run("chcon", "-t", "qemu_exec_t", _PLACE)
    yield _PLACE
    os.unlink(_PLACE)


@contextmanager
def group(name: str) -> Iterator[str]:
    """Have a control group of the test's own."""
    path = f"{GROUPS}/{name}"
    os.mkdir(path)
    try:
        yield path
    finally:
        os.rmdir(path)


def inside(path: str, *command: str) -> list[str]:
    """Return a command that runs another in a control group."""
    return ["/bin/sh", "-c", f'echo $$ >{path}/cgroup.procs && exec "$@"', "sh", *command]


def test_it_lies_in_the_callers_and_ends_with_the_vm(image: harness.Image) -> None:
    vm = harness.boot_spec(image)
    qemu, mine = harness.qemu_of(image.path), group_of(os.getpid())
    assert group_of(qemu).startswith(f"{mine}/{VM_GROUP}{qemu}.")
    assert [group_of(pid) for pid in harness.watchers()] == [mine]
    assert harness.power_off(vm) == 0
    assert groups() == []
    assert harness.short_label(image.path) == harness.UNUSED


@pytest.mark.parametrize("how", ["harden: no", "drop-in"])
def test_who_is_not_asked_for_one_stays_in_the_callers(image: harness.Image, how: str, drop_in: str) -> None:
    if how == "drop-in":
        vm = harness.boot(drop_in, *harness.raw_arguments(image.path))
    else:
        image.write_spec(harden="no")
        vm = harness.boot_spec(image)
    assert group_of(harness.qemu_of(image.path)) == group_of(os.getpid())
    assert groups() == []
    assert harness.power_off(vm) == 0


@pytest.mark.parametrize("harden", ["yes", "no"])
def test_a_chain_of_processes_that_fork_and_end_does_not_outlive_its_vm(
    image: harness.Image, lingerer: str, harden: str
) -> None:
    image.write_spec(name="chain", emulator=lingerer, harden=harden)
    # each link has the output open, so this returns when the last one has ended
    assert harness.confined("run", image.spec).returncode == 0
    assert harness.short_label(image.path) == harness.UNUSED
    assert groups() == []
    assert harness.watchers() == []


@pytest.mark.parametrize("kind", ["loner", "kvm"])
@pytest.mark.parametrize(("harden", "left"), [("yes", 0), ("no", 1)])
def test_of_a_shared_context_the_group_alone_tells_who_has_let_go_of_every_file(
    image: harness.Image, lingerer: str, harden: str, left: int, kind: str
) -> None:
    seclabel = {"type": "static", "label": LABEL, "relabel": True}
    image.write_spec(name=kind, emulator=lingerer, harden=harden, seclabel=seclabel)
    done = harness.confined("run", image.spec)
    assert done.returncode == 0, done.stderr
    loners = harness.processes_as(LABEL)
    for pid in loners:
        harness.kill(pid)
    assert len(loners) == left
    assert harness.short_label(image.path) == harness.UNUSED
    assert groups() == []


def test_recover_removes_the_group_of_a_vm_whose_watcher_was_killed(image: harness.Image) -> None:
    vm = harness.boot(harness.COMMAND, "run", image.spec)
    qemu = harness.qemu_of(image.path)
    left = group_of(qemu)
    for pid in (vm.pid, *harness.watchers(), qemu):
        harness.kill(pid)
    assert vm.wait() == -signal.SIGKILL
    assert groups() == [left]
    done = harness.confined("recover")
    assert done.returncode == 0, done.stderr
    assert groups() == []
    assert harness.short_label(image.path) == harness.UNUSED


def test_who_was_put_into_it_by_others_is_not_killed_and_said(image: harness.Image) -> None:
    vm = harness.boot_spec(image)
    found = group_of(harness.qemu_of(image.path))
    with subprocess.Popen(inside(found, "/bin/cat"), stdin=subprocess.PIPE) as stranger:
        harness.until("it is there", lambda: group_of(stranger.pid) == found)
        assert harness.power_off(vm) == 0
        assert stranger.poll() is None
        assert harness.short_label(image.path) == harness.UNUSED
        again = harness.boot_spec(image)  # nobody is kept from the image
        assert harness.power_off(again) == 0
        done = harness.confined("recover")
        assert done.returncode == 0
        assert found in done.stderr
        assert "systemd-cgls" in done.stderr
        stranger.communicate()
    assert harness.confined("recover").returncode == 0
    assert groups() == []


def test_a_launch_that_fails_at_the_last_moment_leaves_none(image: harness.Image, folder: str) -> None:
    program = os.path.join(folder, "qemu-system-x86_64")
    shutil.copy(harness.QEMU, program)
    harness.run("chcon", "-t", "qemu_exec_t", program)
    with open(program, "r+b") as file:
        file.write(b"\x7fELF" + bytes(12))  # the kernel takes it for no program when all is done
    image.write_spec(emulator=program)
    done = harness.confined("run", image.spec)
    assert done.returncode == 126, done.stderr
    harness.settle()
    assert groups() == []
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_group_of_threads_takes_none_and_a_vm_starts_in_it(image: harness.Image) -> None:
    with group("cq-threads") as path, group("cq-threads/one") as thread:
        with open(f"{thread}/cgroup.type", "w", encoding="ascii") as file:
            file.write("threaded")
        vm = harness.boot(*inside(path, harness.COMMAND, "run", image.spec))
        assert group_of(harness.qemu_of(image.path)) == path
        assert harness.power_off(vm) == 0
        harness.until("all have left", lambda: not members(path))


def members(path: str) -> str:
    """Return who is in a control group."""
    with open(f"{path}/cgroup.procs", encoding="ascii") as file:
        return file.read()


@pytest.mark.parametrize("delegated", [True, False])
def test_a_user_has_one_where_the_callers_is_the_users(*, delegated: bool) -> None:
    harness.run("useradd", "--create-home", "--groups", "kvm", USER, check=False)
    home = f"/home/{USER}"
    image = harness.Image(home, "mine")
    for path in (image.path, image.spec):
        shutil.chown(path, USER)
    harness.run("restorecon", "-RF", home)
    before = harness.label(image.path)
    with group("cq-user") as path:
        if delegated:
            for name in ("", "cgroup.procs"):
                shutil.chown(os.path.join(path, name), USER)
        # pipes of the user's own: root's could not be brought to the VM's level by the user
        line = f"cat | {harness.COMMAND} run {image.spec} 2>&1 | cat"
        vm = harness.boot(*inside(path, "runuser", "-u", USER, "--", "sh", "-c", line))
        qemu = harness.qemu_of(image.path)
        assert group_of(qemu).startswith(f"{path}/{VM_GROUP}{qemu}." if delegated else path)
        assert bool(groups(path)) is delegated
        vm.popen.stdin.close()  # type: ignore[union-attr]
        harness.kill(qemu, signal.SIGTERM)
        assert vm.wait() == 0
        assert groups(path) == []
        harness.until("all have left", lambda: not members(path))
    assert harness.label(image.path) == before
    harness.run("userdel", "--remove", USER, check=False)
