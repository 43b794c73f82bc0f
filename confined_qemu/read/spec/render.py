"""A VM to QEMU's arguments and the host files that they name.

`-nodefaults` and `-no-user-config` make the VM what the spec says and nothing else; so the screen's card, the
serial line and the boot order are given here. Checked against QEMU 7.2; every option is also in 8.x and 9.x.
Images go in by `-drive`, whose driver follows the file (a block device is none that `-blockdev
driver=file` takes), and devices by `-device`, so that bus, boot order and sharing can be said.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from confined_qemu.model import hostpaths
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.frozen import replace
from confined_qemu.model.invocation import Accel, Invocation
from confined_qemu.model.resource import PROBED, Access, Listener, Role
from confined_qemu.read.spec import render_helpers
from confined_qemu.read.spec.command import Command, options
from confined_qemu.read.spec.devices import Char, CharKind, NetworkType, NicModel
from confined_qemu.read.spec.disks import Bus, Disk
from confined_qemu.read.spec.vm import CDROM_PLACE

if TYPE_CHECKING:
    from confined_qemu.read.spec.vm import VM

_PC = ("pc", "q35", "isapc")
_AHCI_PORTS = 6


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _machine(command: Command) -> int:
    """Add what every VM has; return the number of the accelerator's argument."""
    vm = command.vm
    command.add("-name", options(guest=vm.name))
    command.add("-no-user-config", "-nodefaults", "-machine", vm.machine)
    # The plan replaces this word by what the host can do.
    accel = command.add("-accel", "kvm" if vm.accel is Accel.KVM else "tcg")
    if vm.cpu is not None:
        command.add("-cpu", vm.cpu)
    command.add("-smp", str(vm.cpus), "-m", vm.memory, "-display", vm.display)
    if vm.machine.startswith(_PC):
        # A boot loader writes to the screen even where nobody looks at it.
        command.add("-vga", "std")
    return accel


def _flash(command: Command) -> None:
    vm = command.vm
    if vm.firmware is not None:
        code = command.file(vm.firmware, Role.FIRMWARE, Access.READ, "firmware")
        command.add("-drive", options("if=pflash,unit=0,format=raw,readonly=on", file=code))
    if vm.nvram is not None:
        variables = command.file(vm.nvram, Role.NVRAM, Access.READ_WRITE, "nvram")
        command.add("-drive", options("if=pflash,unit=1,format=raw,readonly=off", file=variables))


def _kernel(command: Command) -> None:
    vm = command.vm
    for option, path, role in (
        ("-kernel", vm.kernel, Role.KERNEL),
        ("-initrd", vm.initrd, Role.INITRD),
        ("-dtb", vm.dtb, Role.DTB),
    ):
        if path is not None:
            # A whole argument: QEMU takes its commas literally.
            command.add(option, command.content(path, role))
    if vm.cmdline is not None:
        command.add("-append", vm.cmdline)


def _ide(command: Command, place: int) -> dict[str, str]:
    """Return the options of a place on the machine's own disk controller; QEMU finds none by itself (measured)."""
    if command.vm.is_q35:
        return {"bus": f"ide.{place}", "unit": "0"}
    return {"bus": f"ide.{place // 2}", "unit": str(place % 2)}


def _disk_device(command: Command, disk: Disk, number: int) -> str:
    """Return the device for a disk, its controller added before."""
    place = command.vm.ide_places().get(number)
    if place is not None:
        return options("ide-hd", **_ide(command, place))
    on_bus = sum(1 for other in command.vm.disks[:number] if other.bus is disk.bus)
    device, controller, where = "floppy", "", {}
    match disk.bus:
        case Bus.VIRTIO:
            device = command.virtio("blk")
        case Bus.SCSI:
            device, controller = "scsi-hd", command.controller("vm-scsi", command.virtio("scsi"))
        case Bus.USB:
            device, controller = "usb-storage", command.controller("vm-usb", "qemu-xhci,p2=15,p3=15")
        case Bus.FDC if command.vm.is_q35:  # a pc has the controller, a q35 not (measured)
            controller, where = command.controller("vm-fdc", "isa-fdc"), {"unit": str(on_bus)}
        case Bus.IDE | Bus.SATA:
            ahci = command.controller(f"vm-ahci{on_bus // _AHCI_PORTS}", "ahci")
            return options("ide-hd", bus=f"{ahci}.{on_bus % _AHCI_PORTS}")
    return options(device, bus=f"{controller}.0", **where) if controller else device


def _disks(command: Command) -> None:
    for number, disk in enumerate(command.vm.disks):
        path = command.path(disk.file)
        access = Access.READ if disk.readonly else Access.READ_WRITE
        role = Role.FLOPPY if disk.bus is Bus.FDC else Role.DISK
        image = hostpaths.resource(
            path, role, access, disk.source, shareable=disk.shareable, format=disk.format.value
        )  # fmt: skip
        if image is not None:
            command.note(replace(image, label=disk.seclabel.label, relabel=disk.seclabel.relabel))
        name = f"vm-disk{number}"
        fixed = f"if=none,id={name},format={disk.format.value},readonly={_on(disk.readonly)}"
        command.add("-drive", options(fixed, file=path))
        device = options(_disk_device(command, disk, number), drive=name)
        if disk.bus is not Bus.FDC:  # a floppy drive knows neither (measured)
            device = options(device, bootindex=command.boot_index())
            device = options(device, share_rw="on") if disk.shareable else device
        command.add("-device", device)


def _cdrom(command: Command) -> None:
    vm = command.vm
    if vm.cdrom is None:
        return
    path = command.content(vm.cdrom, Role.CDROM)
    command.add("-drive", options("if=none,id=vm-cdrom,media=cdrom,format=raw,readonly=on", file=path))
    if vm.machine.startswith(_PC):
        device = options("ide-cd", **_ide(command, CDROM_PLACE))
    else:
        device = options("scsi-cd", bus=command.controller("vm-scsi", command.virtio("scsi")) + ".0")
    command.add("-device", options(device, drive="vm-cdrom", bootindex=command.boot_index()))


def _backend(command: Command, char: Char, key: str) -> str:
    """Add the host's end of a character device; return its id."""
    name = f"vm-{key}"
    match char.kind:
        case CharKind.FILE if char.path is not None:
            path = command.file(char.path, Role.CHARDEV, Access.CREATE, key)
            command.add("-chardev", options("file", id=name, path=path))
        case CharKind.UNIX if char.path is not None:
            before, after = f"socket,id={name},fd=", ",server=on,wait=off"
            index = command.add("-chardev", f"{before}{{{key}}}{after}")
            command.listeners.append(Listener(key, command.path(char.path), key, index, before, after))
        case CharKind.MUX:
            # What `-serial mon:stdio` stands for: ^A c switches, and ^C goes to the guest.
            command.add("-chardev", f"stdio,id={name},mux=on,signal=off")
            command.add("-mon", f"chardev={name},mode=readline")
        case CharKind.STDIO:
            command.add("-chardev", f"stdio,id={name}")
        case _:
            command.add("-chardev", f"null,id={name}")
    return name


def _characters(command: Command) -> None:
    vm = command.vm
    if vm.serial.kind is not CharKind.NONE:
        command.add("-serial", f"chardev:{_backend(command, vm.serial, 'serial')}")
    for key, char, mode in (("monitor", vm.monitor, "readline"), ("qmp", vm.qmp, "control")):
        if char.kind is not CharKind.NONE:
            command.add("-mon", f"chardev={_backend(command, char, key)},mode={mode}")


def _network(command: Command) -> None:
    card = command.vm.network
    if card.type is NetworkType.NONE:
        return
    backend = f"{card.type.value},id=vm-net"
    if card.type is NetworkType.TAP and card.fd is not None:
        backend = options(backend, fd=str(card.fd))
    elif card.type is NetworkType.TAP and card.ifname is not None:
        # The device is there already; QEMU's domain may start no script anyway.
        backend = options(f"{backend},script=no,downscript=no", ifname=card.ifname)
        command.file("/dev/net/tun", Role.HOST_DEVICE, Access.READ_WRITE, "network.ifname")
    for forward in card.hostfwd:
        backend = options(backend, hostfwd=forward)
    command.add("-netdev", backend)
    device = command.virtio("net") if card.model is NicModel.VIRTIO else card.model.value
    device = options(device, netdev="vm-net")
    command.add("-device", device if card.mac is None else options(device, mac=card.mac))


def _extra_files(command: Command) -> None:
    """Note what QMP will name later: no argument of QEMU's says it."""
    for number, extra in enumerate(command.vm.extra_files):
        access = Access.READ if extra.readonly else Access.READ_WRITE
        form = extra.format.value if extra.format is not None else PROBED
        source = f"extra_files[{number}].file"
        command.note(hostpaths.resource(command.path(extra.file), Role.EXTRA, access, source, format=form))


def invocation(vm: VM, folder: str) -> Invocation:
    """Return QEMU's command line for a VM whose relative paths start at `folder` (absolute: the spec's own).

    `qemu_args` stand last, as they were written, and their files are not in `resources`: `first_extra` says
    where they begin. A unix socket is a `Listener`, and in no resource.

    Raises:
        ValueProblem: `folder` is not absolute.
    """
    if not posixpath.isabs(folder):
        raise ValueProblem(f"the spec's folder {folder!r} is not absolute", hint="resolve it first")
    command = Command(vm, folder)
    accel_index = _machine(command)
    parts = (_flash, _kernel, _disks, _cdrom, _characters, _network, render_helpers.tpm, render_helpers.shares)
    for part in parts:
        part(command)
    _extra_files(command)
    command.add(*vm.qemu_args)
    return Invocation(
        name=vm.name,
        emulator=command.path(vm.emulator) if "/" in vm.emulator else vm.emulator,
        arguments=tuple(command.arguments),
        resources=tuple(command.resources),
        listeners=tuple(command.listeners),
        helpers=tuple(command.helpers),
        accel=vm.accel,
        accel_index=accel_index,
        confinement=vm.confinement,
        seclabel=vm.seclabel,
        require_domain=vm.require_domain,
        user=vm.user,
    )


def first_extra(vm: VM, rendered: Invocation) -> int:
    """Return the number of the first argument that came from `qemu_args`; with none, the arguments' count."""
    return len(rendered.arguments) - len(vm.qemu_args)
