"""Devices of the host: a block device as a disk, and nodes that are one VM's while it runs."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness, hostile
from integration.suite.policies import HERE
from integration.suite.test_files import PAUSED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZE = 8 << 20
BLOCK = "confined_qemu_use_block_devices"
HOST = "confined_qemu_use_host_devices"
DISK_LABEL = "fixed_disk_device_t:s0"


def switch(boolean: str, state: str) -> None:
    """Set a boolean until the next boot."""
    subprocess.run(["setsebool", f"{boolean}={state}"], check=True)


@pytest.fixture
def block_devices() -> Iterator[None]:
    """The launcher may relabel block devices, for one test."""
    switch(BLOCK, "on")
    yield
    switch(BLOCK, "off")


@pytest.fixture
def host_devices() -> Iterator[None]:
    """The launcher may relabel character devices, for one test."""
    switch(HOST, "on")
    yield
    switch(HOST, "off")


@pytest.fixture
def disk(folder: str) -> Iterator[str]:
    """A real block device with one partition (a loop device), labelled as the kernel and udev label one."""
    subprocess.run(["modprobe", "loop"], check=True)
    path = os.path.join(folder, "device.img")
    with open(path, "wb") as file:
        file.truncate(SIZE)
        # a DOS partition table: one Linux partition of the second MiB onwards
        file.seek(446)
        file.write(bytes(4) + b"\x83" + bytes(3) + (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little"))
        file.seek(510)
        file.write(b"\x55\xaa")
    device = harness.run("losetup", "--find", "--show", "--partscan", path).stdout.strip()
    partition = f"{device}p1"
    harness.until("the partition's node", lambda: os.path.exists(partition))
    subprocess.run(["restorecon", "-F", device, partition], check=True)
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_what_a_block_device_needs_is_said_with_its_command(disk: str, image: harness.Image) -> None:
    image.write_spec(disks=[{"file": disk, "format": "raw", "bus": "ide"}])
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    assert harness.messages(done.stderr)[-1] == (
        f"confined-qemu: {disk} (disks[0].file): the launcher may not relabel a block device\n"
        f"  run: setsebool -P {BLOCK} on"
    )
    assert harness.short_label(disk) == DISK_LABEL


@pytest.mark.usefixtures("block_devices")
def test_a_block_device_is_a_disk(
    disk: str,
    make_image: Callable[[str], harness.Image],
    folder: str,
    hostile_qemu: str,
    audit: harness.AuditTrail,
) -> None:
    owner, other = make_image("owner"), make_image("other")
    link = os.path.join(folder, "link")
    os.symlink(disk, link)
    owner.write_spec(disks=[{"file": link, "format": "raw", "bus": "ide"}])
    vm = harness.boot_spec(owner)
    pair = harness.level(harness.label(disk))
    assert harness.short_label(disk) == f"svirt_image_t:{pair}"
    assert harness.qemu_of(disk)
    # the same device under another name, and a part of it
    alias = os.path.join(folder, "alias")
    os.mknod(alias, os.stat(disk).st_mode, os.stat(disk).st_rdev)
    for path in (alias, f"{disk}p1"):
        other.write_spec(disks=[{"file": path, "format": "raw", "bus": "ide"}])
        refused = harness.confined("run", other.spec)
        assert refused.returncode == 125
        assert "in use by the VM owner (pid " in refused.stderr
    answers = hostile.attempt(other, hostile_qemu, [("read", disk), ("write", disk)])
    assert set(answers.values()) == {"EACCES"}
    assert audit.has("write", "svirt_t", f"svirt_image_t:{pair}", "blk_file")
    # what a VM got goes back, whatever the boolean says by then
    switch(BLOCK, "off")
    assert harness.power_off(vm) == 0
    assert harness.short_label(disk) == DISK_LABEL


@pytest.mark.usefixtures("block_devices")
def test_a_device_in_use_is_refused_by_name(disk: str, image: harness.Image, folder: str) -> None:
    subprocess.run(["mkfs.vfat", f"{disk}p1"], check=True)
    mounted = os.path.join(folder, "mnt")
    os.mkdir(mounted)
    subprocess.run(["mount", f"{disk}p1", mounted], check=True)
    prefix = "confined-qemu:   "
    try:
        for path, words in (
            (
                disk,
                f"its partition {os.path.basename(disk)}p1 is mounted on {mounted}\n{prefix}run: umount {mounted}",
            ),
            (f"{disk}p1", f"it is mounted on {mounted}\nconfined-qemu:   run: umount {mounted}"),
            ("/dev/vda", "it is mounted on /\nconfined-qemu:   run: umount /"),
        ):
            image.write_spec(disks=[{"file": path, "format": "raw", "bus": "virtio"}])
            done = harness.confined("run", image.spec)
            assert (done.returncode, done.stderr) == (125, f"confined-qemu: {path} (disks[0].file): {words}\n")
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert harness.short_label(disk) == DISK_LABEL


KEYBOARD = "/dev/input/event0"


def test_a_keyboard_is_one_vms(
    make_image: Callable[[str], harness.Image],
    folder: str,
    hostile_qemu: str,
    audit: harness.AuditTrail,
) -> None:
    """The real keyboard of this machine, which QEMU takes for itself (EVIOCGRAB)."""
    before = harness.short_label(KEYBOARD)
    sock = os.path.join(folder, "qmp.sock")
    arguments = [*PAUSED, "-object", f"input-linux,id=kbd,evdev={KEYBOARD}", "-qmp", f"unix:{sock},server=on,wait=off"]
    refused = harness.confined("exec", "--", *arguments)
    assert refused.returncode == 125
    assert f"relabel a character device\nconfined-qemu:   run: setsebool -P {HOST} on" in refused.stderr
    switch(HOST, "on")
    vm = harness.Process([harness.COMMAND, "exec", "--", *arguments])
    try:
        # the socket is made last
        harness.until("QEMU has the keyboard", lambda: harness.short_label(KEYBOARD) != before and os.path.exists(sock))
        qmp = harness.Qmp(sock)
        qmp.greeting()
        qmp.ask("qmp_capabilities")
        assert "kbd" in {entry["name"] for entry in qmp.ask("qom-list", path="/objects")["return"]}
        pair = harness.level(harness.context(vm.pid))
        assert harness.short_label(KEYBOARD) == f"svirt_image_t:{pair}"
        answers = hostile.attempt(make_image("other"), hostile_qemu, [("read", KEYBOARD), ("write", KEYBOARD)])
        assert set(answers.values()) == {"EACCES"}
        assert audit.has("write", "svirt_t", f"svirt_image_t:{pair}", "chr_file")
        qmp.close()
    finally:
        switch(HOST, "off")
        vm.popen.terminate()
        vm.wait()
    harness.settle()
    assert harness.short_label(KEYBOARD) == before


NODES = {
    "/dev/bus/usb/199/002": ("usb_device_t", ["-device", "qemu-xhci", "-device", "usb-host,hostdevice={}"]),
    "/dev/tpm7": ("tpm_device_t", ["-tpmdev", "passthrough,id=t,path={},cancel-path=/dev/null"]),
    "/dev/input/event77": ("event_device_t", ["-device", "virtio-input-host-pci,evdev={}"]),
}


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Nodes as a host with such devices has them: their names and labels; behind them is the null device."""
    for path in NODES:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mknod(path, 0o20600, os.makedev(1, 3))
    for path, (label_type, _) in NODES.items():
        subprocess.run(["restorecon", "-F", path], check=True)
        assert harness.short_label(path) == f"{label_type}:s0"
    yield list(NODES)
    for path in NODES:
        os.unlink(path)
    os.removedirs("/dev/bus/usb/199")


@pytest.mark.usefixtures("host_devices")
def test_usb_tpm_and_input_devices(nodes: list[str], image: harness.Image, hostile_qemu: str) -> None:
    """This machine has no USB controller and no TPM: what a program in the VM's domain may do with such nodes."""
    extra = [part.format(path) for path, (_, parts) in NODES.items() for part in parts]
    targets: list[tuple[str, Any]] = [(kind, path) for kind in ("read", "write") for path in nodes]
    assert set(hostile.attempt(image, hostile_qemu, targets, *extra).values()) == {"ok"}
    assert {path: harness.short_label(path) for path in nodes} == {path: f"{NODES[path][0]}:s0" for path in nodes}
    # a VM that was not given them
    answers = hostile.attempt(image, hostile_qemu, targets)
    opened = {path for (_, path), answer in answers.items() if answer != "EACCES"}
    assert opened == {path for path in nodes if NODES[path][0] in HERE.opens_unused}
