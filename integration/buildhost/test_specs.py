"""QEMU takes what a spec becomes: it starts with it, stopped, and tells its drives by QMP."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.read.spec.devices import Char, Input, MemoryBacking, Network, NetworkType, NicModel, Sound
from confined_qemu.read.spec.render import invocation
from confined_qemu.read.spec.vm import VM, Bus, Disk, DiskFormat

if TYPE_CHECKING:
    from pathlib import Path

QEMU = "qemu-system-x86_64"
OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"


def disk(file: str, **more: Any) -> Disk:
    return Disk(**({"file": file, "format": DiskFormat.RAW} | more))


def start(vm: VM, folder: Path, descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
    """Start QEMU on a VM with QMP on its standard streams, stopped; return its drives by name, and end it."""
    found = invocation(vm, str(folder))
    arguments = list(found.arguments)
    for listener, descriptor in zip(found.listeners, descriptors, strict=True):
        arguments[listener.index] = f"{listener.before}{descriptor}{listener.after}"
    command = [QEMU, *arguments, "-S", "-qmp", "stdio"]
    wanted = "\n".join(json.dumps({"execute": name}) for name in ("qmp_capabilities", "query-block", "quit"))
    done = subprocess.run(
        command, input=wanted, capture_output=True, text=True, timeout=60, check=False, pass_fds=descriptors
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    (drives,) = [one["return"] for one in answers if isinstance(one.get("return"), list)]
    return {drive["device"]: drive.get("inserted", {}) for drive in drives}


def image(folder: Path, name: str) -> str:
    path = folder / name
    path.write_bytes(bytes(1 << 16))
    return name


@pytest.mark.parametrize("bus", list(Bus))
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_qemu_takes_each_bus(bus: Bus, machine: str, tmp_path: Path) -> None:
    count = 2 if bus is Bus.FDC else 3
    disks = tuple(disk(image(tmp_path, f"{number}.img"), bus=bus) for number in range(count))
    drives = start(VM("x", machine=machine, disks=disks, cdrom=image(tmp_path, "c.iso")), tmp_path)
    assert {drives[f"vm-disk{number}"]["file"] for number in range(count)} == {
        str(tmp_path / one.file) for one in disks
    }
    assert not any(drives[f"vm-disk{number}"]["ro"] for number in range(count))
    assert drives["vm-cdrom"]["ro"]


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("sound", list(Sound))
def test_qemu_takes_a_machine_with_everything(machine: str, sound: Sound, tmp_path: Path) -> None:
    vm = VM(
        "x",
        machine=machine,
        networks=(Network(NetworkType.USER), Network(NetworkType.USER, model=NicModel.E1000)),
        input=tuple(Input),
        sound=sound,
        rng="/dev/urandom",
        balloon=True,
        memory_backing=MemoryBacking.MEMFD,
    )
    start(vm, tmp_path)


def test_qemu_takes_read_only_and_shared_disks_twice(tmp_path: Path) -> None:
    shared = disk(image(tmp_path, "s.img"), shareable=True)
    kinds = [disk(image(tmp_path, f"{bus}.img"), bus=bus, readonly=True) for bus in (Bus.VIRTIO, Bus.SCSI, Bus.USB)]
    drives = start(VM("x", disks=(*kinds, shared)), tmp_path)
    assert [drives[f"vm-disk{number}"]["ro"] for number in range(4)] == [True, True, True, False]


def test_qemu_takes_eight_sata_disks_on_a_pc(tmp_path: Path) -> None:
    disks = tuple(disk(image(tmp_path, f"{number}.img"), bus=Bus.SATA) for number in range(8))
    assert len([name for name in start(VM("x", disks=disks), tmp_path) if name.startswith("vm-disk")]) == 8


@pytest.mark.parametrize(
    "name", ["a,b.img", "a,readonly=off", "a\nb", "nbd:x", "json:{}", "fat:rw:x", "ü", "-S", "a=b", "%d"]
)
def test_qemu_opens_the_hostile_name_that_was_meant(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "f,o=o"
    folder.mkdir()
    drives = start(VM("x", disks=(disk(image(folder, name), readonly=True),)), folder)
    assert drives["vm-disk0"]["file"] == str(folder / name)
    assert drives["vm-disk0"]["ro"]


def test_qemu_listens_on_the_sockets_that_it_is_given(tmp_path: Path) -> None:
    vm = VM("x", serial=Char.parse("unix:s"), monitor=Char.parse("unix:m"), qmp=Char.parse("unix:q"))
    sockets = []
    for name in "smq":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / name))
        listener.listen(1)
        sockets.append(listener)
    start(vm, tmp_path, tuple(listener.fileno() for listener in sockets))
    for listener in sockets:
        listener.close()


@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
def test_qemu_takes_a_vm_of_everything(machine: str, tmp_path: Path) -> None:
    vm = VM(
        "x",
        machine=machine,
        cpu="max",
        cpus=2,
        memory="256M",
        disks=(disk(image(tmp_path, "a.img")),),
        cdrom=image(tmp_path, "c.iso"),
        serial=Char.parse("file:s,1.log"),
        network=Network(NetworkType.USER, mac="52:54:00:00:00:01", hostfwd=("tcp:127.0.0.1:0-:22",)),
    )
    assert set(start(vm, tmp_path)) >= {"vm-disk0", "vm-cdrom"}
    assert (tmp_path / "s,1.log").exists()


@pytest.mark.parametrize("model", list(NicModel))
def test_qemu_takes_each_network_card(model: NicModel, tmp_path: Path) -> None:
    start(VM("x", network=Network(NetworkType.USER, model=model)), tmp_path)


def test_qemu_takes_firmware_and_its_variables(tmp_path: Path) -> None:
    variables = tmp_path / "vars.fd"
    shutil.copy(OVMF.replace("CODE", "VARS"), variables)
    drives = start(VM("x", machine="q35", firmware=OVMF, nvram="vars.fd"), tmp_path)
    assert (drives["pflash0"]["ro"], drives["pflash1"]["ro"]) == (True, False)


@pytest.mark.parametrize("text", ["stdio", "mon:stdio", "null", "none"])
def test_qemu_takes_each_serial_line(text: str, tmp_path: Path) -> None:
    command = [
        QEMU,
        *invocation(VM("x", serial=Char.parse(text), qmp=Char.parse("unix:q")), str(tmp_path)).arguments,
    ]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "q"))
        listener.listen(1)
        index = next(number for number, text in enumerate(command) if "{qmp}" in text)
        command[index] = command[index].replace("{qmp}", str(listener.fileno()))
        pipe = subprocess.PIPE
        with subprocess.Popen(command, pass_fds=(listener.fileno(),), stdin=pipe, stdout=pipe, stderr=pipe) as qemu:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(str(tmp_path / "q"))
                client.sendall(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
                while client.recv(4096):
                    pass
            assert qemu.wait(60) == 0
