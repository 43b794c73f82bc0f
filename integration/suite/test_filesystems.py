"""Images on file systems that take no labels: what a VM may use it uses, the rest is refused with the way out."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, hostile, mounted
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOLEANS = {
    "nfs": ("nfs_t", "virt_use_nfs"),
    "cifs": ("cifs_t", "virt_use_samba"),
    "fuse": ("fusefs_t", "virt_use_fusefs"),
    "vfat": ("dosfs_t", "virt_use_usb"),
}
"""What the policies of the guests have: the type of each file system, and the boolean that opens it to VMs."""
WRITTEN = b"A" * 512


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, str]]:
    """Every file system, mounted."""
    with mounted.all_of_them() as found:
        yield found


@pytest.fixture
def off() -> Iterator[None]:
    """Every boolean is off, whatever the policy's own choice, which they have again afterwards."""
    names = [boolean for _, boolean in BOOLEANS.values()]
    before = {}
    for name in names:
        with open(f"/sys/fs/selinux/booleans/{name}", encoding="ascii") as file:
            before[name] = file.read().split()[0]
    subprocess.run(["setsebool", *(f"{name}=0" for name in names)], check=True)
    yield
    subprocess.run(["setsebool", *(f"{name}={value}" for name, value in before.items())], check=True)


def _writes(vm: harness.Process, image: harness.Image, monitor_path: str) -> None:
    """Let QEMU write to the disk as its guest would, and see it in the file."""
    client = harness.Qmp(monitor_path)
    client.greeting()
    client.ask("qmp_capabilities")
    said = client.ask("human-monitor-command", **{"command-line": 'qemu-io vm-disk0 "write -P 65 0 512"'})
    assert "return" in said, said
    client.ask("human-monitor-command", **{"command-line": 'qemu-io vm-disk0 "flush"'})
    with open(image.path, "rb") as file:
        assert file.read(len(WRITTEN)) == WRITTEN, said
    client.close()
    assert vm.popen.poll() is None


@pytest.fixture
def monitor(folder: str) -> str:
    """Where the VM's monitor is: sockets want a file system with labels."""
    return os.path.join(folder, "monitor.sock")


def _image(folder: str, monitor: str) -> harness.Image:
    image = harness.Image(folder, "a")
    image.write_spec(qmp=f"unix:{monitor}")
    return image


def _refusal(image: harness.Image) -> str:
    done = harness.confined("run", image.spec)
    assert (done.returncode, done.stdout) == (125, ""), done.stderr
    (line,) = harness.messages(done.stderr)
    assert harness.journals() == []
    return line


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.usefixtures("off")
def test_off_it_is_refused_and_on_it_runs_and_writes(places: dict[str, str], monitor: str, name: str) -> None:
    type_name, boolean = BOOLEANS[name]
    image = _image(places[name], monitor)
    before = harness.label(image.path)
    assert type_name in before
    line = _refusal(image)
    assert f"{image.path} (disks[0].file): it lies on " in line
    assert f"\n  run: setsebool -P {boolean} on" in line

    harness.run("setsebool", f"{boolean}=on")
    vm = harness.boot_spec(image)
    _writes(vm, image, monitor)
    assert harness.label(image.path) == before

    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    assert "in use by the VM a (pid " in done.stderr
    assert harness.power_off(vm) == 0
    assert harness.label(image.path) == before


@pytest.mark.usefixtures("off")
def test_what_is_refused_the_kernel_denies(
    places: dict[str, str], image: harness.Image, hostile_qemu: str, audit: harness.AuditTrail
) -> None:
    files = {name: os.path.join(places[name], "victim") for name in BOOLEANS}
    for path in files.values():
        with open(path, "wb") as file:
            file.write(b"x")
    answers = hostile.attempt(
        image, hostile_qemu, [(kind, path) for path in files.values() for kind in ("read", "write")]
    )
    assert set(answers.values()) == {"EACCES"}
    for type_name, _ in BOOLEANS.values():
        for permission in HERE.foreign:
            assert audit.has(permission, "svirt_t", type_name, "file"), (type_name, permission)


def test_what_a_mount_labels_for_vms_runs_and_is_told(places: dict[str, str], monitor: str) -> None:
    image = _image(places["context"], monitor)
    vm = harness.boot_spec(image)
    _writes(vm, image, monitor)
    vm.send(b"q")
    _, errors = vm.popen.communicate()
    (line,) = harness.messages(errors.decode())
    assert line.startswith(
        f"confined-qemu: warning: {image.path} (disks[0].file): it lies on tmpfs at {places['context']}"
    )
    assert line.endswith("SELinux does not separate it from other VMs")
    assert harness.short_label(image.path) == "svirt_image_t:s0"


def test_a_read_only_mount_serves_readers_only(places: dict[str, str], image: harness.Image) -> None:
    there = places["ext2"]
    disk = harness.Image(there, "b")
    cd = os.path.join(there, "cd.iso")
    with open(cd, "wb") as file:
        file.write(bytes(1 << 20))
    done = harness.confined("exec", "--", *harness.raw_arguments(disk.path))
    assert f"of type unlabeled_t\nconfined-qemu:   run: confined-qemu policy adopt {there}\n" in done.stderr
    harness.run("chcon", "-R", "-t", HERE.unread, there)
    harness.run("mount", "-o", "remount,ro", there)

    assert f"\n  attach it read-only, or run: mount -o remount,rw {there}" in _refusal(disk)

    # what is only read is copied for the VM
    label = harness.label(cd)
    image.write_spec(cdrom=cd)
    vm = harness.boot_spec(image)
    assert harness.label(cd) == label
    assert harness.power_off(vm) == 0
