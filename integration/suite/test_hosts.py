"""The host's own traps: users, full disks, swapped links, file systems, and a CPU or a /dev/kvm that is not there."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "tester"


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    """An ordinary user with a home, who may use KVM."""
    harness.run("useradd", "--create-home", "--groups", "kvm", USER, check=False)
    harness.run("restorecon", "-RF", f"/home/{USER}")
    yield pwd.getpwnam(USER)
    harness.run("userdel", "--remove", USER, check=False)
    harness.run("rm", "-rf", f"/home/{USER}")


def _as_user(*command: str) -> list[str]:
    return ["runuser", "-u", USER, "--", *command]


def _own(image: harness.Image, user: pwd.struct_passwd) -> None:
    for path in (image.path, image.spec):
        os.chown(path, user.pw_uid, user.pw_gid)
    harness.run("restorecon", "-RF", user.pw_dir)


def test_an_ordinary_user_on_an_image_of_theirs(user: pwd.struct_passwd) -> None:
    image = harness.Image(user.pw_dir, "mine")
    _own(image, user)
    before = harness.label(image.path)
    # pipes of the user's own: root's could not be brought to the VM's level by the user
    vm = harness.boot(*_as_user("sh", "-c", f"cat | {harness.COMMAND} run {image.spec} 2>&1 | cat"))
    pair = harness.level(harness.label(image.path))
    qemu = harness.qemu_of(image.path)
    assert harness.context(qemu) == f"system_u:system_r:svirt_t:{pair}"
    assert os.stat(f"/proc/{qemu}").st_uid == user.pw_uid
    vm.popen.stdin.close()  # type: ignore[union-attr]
    harness.kill(qemu, 15)
    assert vm.wait() == 0
    assert harness.label(image.path) == before


def test_a_pipe_of_another_user_is_refused_with_the_way_out(user: pwd.struct_passwd) -> None:
    image = harness.Image(user.pw_dir, "mine")
    _own(image, user)
    command = _as_user(harness.COMMAND, "run", image.spec)
    if HERE.others_pipes:
        vm = harness.boot(*command)
        harness.kill(harness.qemu_of(image.path), signal.SIGTERM)  # runuser would make a code of its own of a signal
        assert vm.wait() == 0
        return
    done = harness.run(*command, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 125
    assert "belongs to uid 0" in done.stderr
    assert "| cat" in done.stderr


def test_root_is_told_that_it_may_not_open_a_users_private_image(user: pwd.struct_passwd) -> None:
    image = harness.Image(user.pw_dir, "private")
    _own(image, user)
    os.chmod(image.path, 0o600)
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    (line,) = harness.messages(done.stderr)
    assert f"belongs to uid {user.pw_uid}" in line
    assert "user:" in line
    image.write_spec(user=USER)
    vm = harness.boot_spec(image)
    assert os.stat(f"/proc/{harness.qemu_of(image.path)}").st_uid == user.pw_uid
    assert harness.power_off(vm) == 0


def test_an_ordinary_user_may_not_label_what_is_not_theirs(user: pwd.struct_passwd) -> None:
    image = harness.Image(user.pw_dir, "roots")
    os.chmod(image.path, 0o666)
    harness.run("restorecon", "-RF", user.pw_dir)
    before = harness.label(image.path)
    done = harness.run(*_as_user(harness.COMMAND, "run", image.spec), check=False)
    assert done.returncode == 125
    assert "only its owner or root may relabel it" in done.stderr
    assert harness.label(image.path) == before


def test_a_full_disk_starts_and_labels_nothing(image: harness.Image) -> None:
    journals = "/var/lib/confined-qemu/0"
    os.makedirs(journals, mode=0o700, exist_ok=True)
    label = "system_u:object_r:confined_qemu_var_lib_t:s0"
    harness.run("mount", "-t", "tmpfs", "-o", f"size=4k,mode=700,rootcontext={label}", "tmpfs", journals)
    try:
        with open(os.path.join(journals, "filler"), "wb") as file:
            file.write(bytes(4096))
        done = harness.confined("run", image.spec)
    finally:
        harness.run("umount", journals)
    assert done.returncode == 125
    (line,) = harness.messages(done.stderr)
    assert "No space left on device" in line
    assert "nothing was labelled" in line
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_link_that_is_swapped_between_plan_and_act(image: harness.Image) -> None:
    """A trial of the launch script stops itself just before labels are set; the image becomes a link meanwhile."""
    stop = (
        "import os, signal\nfrom confined_qemu.launch import performing\n"
        "original = performing.perform\n"
        "def stopped(*rest):\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    return original(*rest)\n"
        "performing.perform = stopped\n"
    )
    before = harness.label("/etc/shadow")
    with harness.trial(stop) as trial:
        launcher = harness.Process([trial, "exec", "--", *harness.raw_arguments(image.path)], stdin=subprocess.DEVNULL)
        stopped = os.waitid(os.P_PID, launcher.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert stopped is not None
        assert stopped.si_code == os.CLD_STOPPED
        os.rename(image.path, f"{image.path}.old")
        os.symlink("/etc/shadow", image.path)
        harness.kill(launcher.pid, signal.SIGCONT)
        _, errors = launcher.popen.communicate(timeout=harness.PATIENCE)
    assert launcher.popen.returncode == 125, errors
    assert b"disappeared during launch" in errors
    assert harness.label("/etc/shadow") == before
    assert harness.short_label(f"{image.path}.old") == harness.UNUSED


@pytest.mark.parametrize("place", ["/dev/shm", "/tmp"])  # noqa: S108 - the places are the test
def test_an_image_on_a_temporary_file_system(place: str) -> None:
    image = harness.Image(place, "shm")
    before = harness.label(image.path)
    vm = harness.boot_spec(image)
    assert harness.short_label(image.path).startswith("svirt_image_t:s0:c")
    assert harness.power_off(vm) == 0
    assert harness.label(image.path) == before
    os.unlink(image.path)
    os.unlink(image.spec)


def test_a_file_system_without_labels_is_named(image: harness.Image, folder: str) -> None:
    place = os.path.join(folder, "ram")
    os.makedirs(place)
    harness.run("mount", "-t", "ramfs", "none", place)
    try:
        with open(os.path.join(place, "x.img"), "wb") as file:
            file.write(bytes(1 << 20))
        image.write_spec(disks=[{"file": os.path.join(place, "x.img"), "format": "raw", "bus": "ide"}])
        done = harness.confined("plan", image.spec)
    finally:
        harness.run("umount", place)
    lines = [line for line in done.stdout.splitlines() if "x.img" in line]
    if HERE.ramfs is None:
        assert done.returncode == 0
        assert any("svirt_image_t:s0:c" in line for line in lines), done.stdout
    else:
        assert done.returncode == 125
        assert any("ramfs" in line and HERE.ramfs in line for line in lines), done.stdout


def test_an_image_with_a_second_name_is_refused(image: harness.Image) -> None:
    os.link(image.path, image.path + ".2")
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    assert "2 hard links" in done.stderr
    assert harness.short_label(image.path) == harness.UNUSED


# ---- the CPU and /dev/kvm


@pytest.fixture
def _without_kvm() -> Iterator[None]:
    harness.run("modprobe", "-r", "kvm_amd")
    yield
    harness.run("modprobe", "kvm_amd")
    harness.until("/dev/kvm is back", lambda: os.path.exists("/dev/kvm"))
    harness.run("udevadm", "settle")


@pytest.mark.usefixtures("_without_kvm")
def test_kvm_without_its_module(image: harness.Image) -> None:
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    (line,) = harness.messages(done.stderr)
    assert "the module kvm_amd is not loaded" in line
    assert "modprobe kvm_amd" in line
    image.write_spec(accel="auto")
    plan = json.loads(harness.confined("plan", "--json", image.spec).stdout)
    assert plan["accel"]["chosen"] == "tcg"
    assert "kvm_amd" in plan["accel"]["why"]


def test_kvm_without_permission(user: pwd.struct_passwd) -> None:
    harness.run("gpasswd", "-d", USER, "kvm")
    image = harness.Image(user.pw_dir, "mine")
    _own(image, user)
    done = harness.run(*_as_user(harness.COMMAND, "run", image.spec), check=False)
    assert done.returncode == 125
    # the pipes that catch its output are root's, which it says too
    (line,) = [line for line in harness.messages(done.stderr) if "/dev/kvm" in line]
    assert "/dev/kvm may not be opened: Permission denied" in line
    assert "usermod -aG kvm" in line


def test_kvm_with_a_label_that_no_vm_may_use(image: harness.Image) -> None:
    harness.run("chcon", "-t", "fixed_disk_device_t", "/dev/kvm")
    try:
        done = harness.confined("run", image.spec)
    finally:
        harness.run("restorecon", "-F", "/dev/kvm")
    assert done.returncode == 125
    (line,) = harness.messages(done.stderr)
    assert "/dev/kvm" in line
    assert harness.short_label(image.path) == harness.UNUSED


def test_check_says_what_is_and_what_to_run(image: harness.Image) -> None:
    done = harness.confined("check", image.spec)
    assert done.returncode == 0, done.stdout
    assert "ok    selinux: enforcing" in done.stdout
    assert "ok    kvm: svm, API version 12" in done.stdout
    mend = "\n        run: setsebool -P virt_use_execmem on\n"
    said = f"warn  tcg: svirt_t may not generate code{mend}" in done.stdout
    assert said is (HERE.tcg == "svirt_t")
