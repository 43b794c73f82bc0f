"""A VM to QEMU's arguments, and to what the one reader of command lines finds in them.

`-nodefaults` and `-no-user-config` make the VM what the spec says and nothing else; so the screen's card, the
serial line and the boot order are given here. Checked against QEMU 7.2; every option is also in 8.x and 9.x.
Images go in by `-drive`, whose driver follows the file (a block device is none that `-blockdev
driver=file` takes), and devices by `-device`, so that bus, boot order and sharing can be said.
"""

from __future__ import annotations

import posixpath

from confined_qemu.model import hostpaths
from confined_qemu.model.commas import escape
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.helper import Helper, HelperKind
from confined_qemu.model.invocation import Accel, Invocation
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.resource import PROBED, Access, Role
from confined_qemu.read.qemu import reader
from confined_qemu.read.settings import UnknownOptions
from confined_qemu.read.spec.devices import (
    Char,
    CharKind,
    HostBus,
    Input,
    MemoryBacking,
    Network,
    NetworkType,
    NicModel,
    Share,
    ShareDriver,
    Sound,
    needs_shared_memory,
)
from confined_qemu.read.spec.vm import CDROM_PLACE, Bus, Disk, DiskFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from confined_qemu.model.resource import Resource
    from confined_qemu.read.spec.vm import VM

_PC = ("pc", "q35", "isapc")
_AHCI_PORTS = 6
_INPUTS = {Input.TABLET: "tablet", Input.KEYBOARD: "kbd", Input.MOUSE: "mouse"}
_SOUNDS = {
    Sound.AC97: ("AC97,audiodev=vm-sound",),
    Sound.ICH6: ("intel-hda", "hda-duplex,audiodev=vm-sound"),
    Sound.ICH9: ("ich9-intel-hda", "hda-duplex,audiodev=vm-sound"),
}
_QUEUE = 1024
"""The most that a virtiofs device takes (QEMU's `-device vhost-user-fs-pci,help`); libvirt's example too."""


def _options(*words: str, **values: str) -> str:
    """Return a comma list: `words` as they are, then `values` escaped."""
    # A key of QEMU's may hold a dash, a Python name may not.
    return ",".join([*words, *(f"{key.replace('_', '-')}={escape(value)}" for key, value in values.items())])


class Command:
    """The growing command line of one VM.

    `origins` has the spec's key for each argument that names a file, by its number, and `accel_index` is the number of
    the accelerator's, whose place the plan fills.
    """

    def __init__(self, vm: VM, folder: str) -> None:
        self.vm = vm
        self.folder = folder
        self.arguments: list[str] = []
        self.origins: dict[int, str] = {}
        self.helpers: list[Helper] = []
        self.accel_index = -1
        self._controllers: set[str] = set()
        self._boot = 0

    def add(self, *arguments: str, origin: str | None = None) -> int:
        """Append arguments; return the number of the last one, for whose files the spec's key `origin` asks."""
        self.arguments += arguments
        last = len(self.arguments) - 1
        if origin is not None:
            self.origins[last] = origin
        return last

    def path(self, path: str) -> str:
        """Return the path from the root; `..` stays, because a link may stand before it."""
        return posixpath.join(self.folder, path)

    def boot_index(self) -> str:
        """Return the next place in the boot order; 0 is QEMU's own, for `-kernel`."""
        self._boot += 1
        return str(self._boot)

    def virtio(self, kind: str) -> str:
        """Return the virtio device for the machine's bus; microvm has no PCI, the rest is QEMU's alias."""
        return f"virtio-{kind}-device" if self.vm.machine == "microvm" else f"virtio-{kind}"

    def controller(self, name: str, device: str) -> str:
        """Add a controller before its first device; return its name."""
        if name not in self._controllers:
            self._controllers.add(name)
            self.add("-device", _options(device, id=name))
        return name


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _machine(command: Command) -> None:
    """Add what every VM has."""
    vm = command.vm
    command.add("-name", _options(guest=vm.name))
    command.add("-no-user-config", "-nodefaults", "-machine", vm.machine)
    # The plan replaces this word by what the host can do.
    command.accel_index = command.add("-accel", "kvm" if vm.accel is Accel.KVM else "tcg")
    if vm.cpu is not None:
        command.add("-cpu", vm.cpu)
    command.add("-smp", str(vm.cpus), "-m", vm.memory, "-display", vm.display)
    if vm.machine.startswith(_PC):
        # A boot loader writes to the screen even where nobody looks at it.
        command.add("-vga", "std")


def _flash(command: Command) -> None:
    vm = command.vm
    if vm.firmware is not None:
        fixed = f"if=pflash,unit=0,format={vm.firmware_format or DiskFormat.RAW},readonly=on"
        command.add("-drive", _options(fixed, file=command.path(vm.firmware)), origin="firmware")
    if vm.nvram is not None:
        fixed = f"if=pflash,unit=1,format={vm.nvram_format or DiskFormat.RAW},readonly=off"
        command.add("-drive", _options(fixed, file=command.path(vm.nvram)), origin="nvram")


def _kernel(command: Command) -> None:
    vm = command.vm
    for key, path in (("kernel", vm.kernel), ("initrd", vm.initrd), ("dtb", vm.dtb)):
        if path is not None:
            # A whole argument: QEMU takes its commas literally.
            command.add(f"-{key}", command.path(path), origin=key)
    if vm.cmdline is not None:
        command.add("-append", vm.cmdline)


def _ide(command: Command, place: int) -> dict[str, str]:
    """Return the options of a place on the machine's own disk controller; QEMU finds none by itself (measured)."""
    if command.vm.is_q35:
        return {"bus": f"ide.{place}", "unit": "0"}
    return {"bus": f"ide.{place // 2}", "unit": str(place % 2)}


def _disk_origin(number: int) -> str:
    return f"disks[{number}].file"


def _share_origin(number: int) -> str:
    return f"shares[{number}].dir"


def _disk_device(command: Command, disk: Disk, number: int) -> str:
    """Return the device for a disk, its controller added before."""
    place = command.vm.ide_places().get(number)
    if place is not None:
        return _options("ide-hd", **_ide(command, place))
    on_bus = sum(1 for other in command.vm.disks[:number] if other.bus is disk.bus)
    device, controller, where = "floppy", "", {}
    match disk.bus:
        case Bus.VIRTIO:
            device = command.virtio("blk")
        case Bus.SCSI:
            device, controller = "scsi-hd", command.controller("vm-scsi", command.virtio("scsi"))
        case Bus.USB:
            return f"usb-storage,bus={_usb(command)}"
        case Bus.FDC if command.vm.is_q35:  # a pc has the controller, a q35 not (measured)
            controller, where = command.controller("vm-fdc", "isa-fdc"), {"unit": str(on_bus)}
        case Bus.IDE | Bus.SATA:
            ahci = command.controller(f"vm-ahci{on_bus // _AHCI_PORTS}", "ahci")
            return _options("ide-hd", bus=f"{ahci}.{on_bus % _AHCI_PORTS}")
    return _options(device, bus=f"{controller}.0", **where) if controller else device


def _disks(command: Command) -> None:
    for number, disk in enumerate(command.vm.disks):
        path = command.path(disk.file)
        name = f"vm-disk{number}"
        fixed = f"if=none,id={name},format={disk.format.value},readonly={_on(disk.readonly)}"
        command.add("-drive", _options(fixed, file=path), origin=_disk_origin(number))
        device = _options(_disk_device(command, disk, number), drive=name)
        if disk.bus is not Bus.FDC:  # a floppy drive knows neither (measured)
            device = _options(device, bootindex=command.boot_index())
            device = _options(device, share_rw="on") if disk.shareable else device
        command.add("-device", device)


def _cdrom(command: Command) -> None:
    vm = command.vm
    if vm.cdrom is None:
        return
    fixed = f"if=none,id=vm-cdrom,media=cdrom,format={vm.cdrom_format or DiskFormat.RAW},readonly=on"
    command.add("-drive", _options(fixed, file=command.path(vm.cdrom)), origin="cdrom")
    if vm.machine.startswith(_PC):
        device = _options("ide-cd", **_ide(command, CDROM_PLACE))
    else:
        device = _options("scsi-cd", bus=command.controller("vm-scsi", command.virtio("scsi")) + ".0")
    command.add("-device", _options(device, drive="vm-cdrom", bootindex=command.boot_index()))


def _backend(command: Command, char: Char, key: str) -> str:
    """Add the host's end of a character device; return its id."""
    name = f"vm-{key}"
    match char.kind:
        case CharKind.FILE if char.path is not None:
            command.add("-chardev", _options("file", id=name, path=command.path(char.path)), origin=key)
        case CharKind.UNIX if char.path is not None:
            path = escape(command.path(char.path))
            command.add("-chardev", f"socket,id={name},path={path},server=on,wait=off", origin=key)
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


def _networks(command: Command) -> None:
    several = bool(command.vm.networks)
    for number, card in enumerate(command.vm.cards):
        _network(command, card, f"vm-net{number or ''}", f"networks[{number}]" if several else "network")


def _network(command: Command, card: Network, name: str, key: str) -> None:
    backend = f"{card.type.value},id={name}"
    if card.type is NetworkType.TAP and card.fd is not None:
        backend = _options(backend, fd=str(card.fd))
    elif card.type is NetworkType.TAP and card.ifname is not None:
        # The device is there already; QEMU's domain may start no script anyway.
        backend = _options(f"{backend},script=no,downscript=no", ifname=card.ifname)
    for forward in card.hostfwd:
        backend = _options(backend, hostfwd=forward)
    command.add("-netdev", backend, origin=f"{key}.ifname" if card.ifname is not None else None)
    device = command.virtio("net") if card.model is NicModel.VIRTIO else card.model.value
    device = _options(device, netdev=name)
    command.add("-device", device if card.mac is None else _options(device, mac=card.mac))


def _usb(command: Command) -> str:
    return command.controller("vm-usb", "qemu-xhci,p2=15,p3=15") + ".0"


def _devices(command: Command) -> None:
    """Add the host's devices that the guest gets, and what it points, types and plays with."""
    vm = command.vm
    for number, wanted in enumerate(vm.host_devices):
        usb = wanted.bus is HostBus.USB
        device = f"usb-host,bus={_usb(command)}" if usb else "vfio-pci"
        command.add("-device", _options(device, **dict(wanted.options)), origin=f"host_devices[{number}]")
    for kind in vm.input:
        command.add("-device", f"usb-{_INPUTS[kind]},bus={_usb(command)}")
    if vm.sound is not None:
        command.add("-audiodev", "none,id=vm-sound")
        for device in _SOUNDS[vm.sound]:
            command.add("-device", device)


def _virtio_devices(command: Command) -> None:
    vm = command.vm
    if vm.rng is not None:
        command.add("-object", _options("rng-random,id=vm-rng", filename=command.path(vm.rng)), origin="rng")
        command.add("-device", f"{command.virtio('rng')},rng=vm-rng")
    if vm.balloon:
        command.add("-device", command.virtio("balloon"))
    if vm.vsock is not None:
        bus = "device" if vm.machine == "microvm" else "pci"
        command.add("-device", f"vhost-vsock-{bus},guest-cid={vm.vsock}", origin="vsock")


def _memory(command: Command) -> None:
    """Add the guest's memory where it is not QEMU's own; virtiofsd needs some that it can map."""
    vm, kind = command.vm, command.vm.memory_backing
    if kind is None and needs_shared_memory(vm.shares):
        kind = MemoryBacking.MEMFD
    if kind is None:
        return
    fixed = f"id=vm-memory,size={vm.memory},share=on"
    if kind is MemoryBacking.HUGEPAGES:
        command.add(
            "-object", f"memory-backend-file,{fixed},mem-path=/dev/hugepages,prealloc=on", origin="memory_backing"
        )
    else:
        command.add("-object", f"memory-backend-memfd,{fixed}")
    command.add("-machine", "memory-backend=vm-memory")


def _tpm(command: Command) -> None:
    """Add the TPM: QEMU gets its end of swtpm's control channel as a descriptor."""
    wanted = command.vm.tpm
    if wanted is None:
        return
    helper = Helper(HelperKind.SWTPM, "tpm", command.path(wanted.state), "tpm.state", version=wanted.version)
    command.helpers.append(helper)
    command.add("-chardev", f"socket,id=vm-tpm,fd={{{helper.name}}}")
    command.add("-tpmdev", "emulator,id=vm-tpm0,chardev=vm-tpm")
    command.add("-device", f"{wanted.model},tpmdev=vm-tpm0")


def _shares(command: Command) -> None:
    vm = command.vm
    _memory(command)
    for number, share in enumerate(vm.shares):
        (_virtiofs if share.driver is ShareDriver.VIRTIOFS else _nine_p)(command, number, share)


def _virtiofs(command: Command, number: int, share: Share) -> None:
    name = f"share{number}"
    source = _share_origin(number)
    helper = Helper(
        HelperKind.VIRTIOFSD,
        name,
        command.path(share.dir),
        source,
        readonly=share.readonly,
        label_tree=share.relabel,
    )
    command.helpers.append(helper)
    bus = "device" if command.vm.machine == "microvm" else "pci"
    command.add("-chardev", f"socket,id=vm-{name},fd={{{name}}}")
    command.add("-device", f"vhost-user-fs-{bus},chardev=vm-{name},tag={share.tag},queue-size={_QUEUE}")


def _nine_p(command: Command, number: int, share: Share) -> None:
    name, path = f"vm-share{number}", command.path(share.dir)
    # mapped: QEMU's domain may set no owner, so owners and modes are kept in attributes of the files
    readonly = "on" if share.readonly else "off"
    fixed = f"local,id={name},security_model=mapped-xattr,multidevs=remap,readonly={readonly}"
    command.add("-fsdev", f"{fixed},path={escape(path)}", origin=_share_origin(number))
    command.add("-device", f"{command.virtio('9p')},fsdev={name},mount_tag={share.tag}")


def _extra_files(vm: VM, folder: str) -> Iterator[Resource]:
    """Yield what QMP will name later: no argument of QEMU's says it."""
    for number, extra in enumerate(vm.extra_files):
        access = Access.READ if extra.readonly else Access.READ_WRITE
        form = extra.format.value if extra.format is not None else PROBED
        path, source = posixpath.join(folder, extra.file), f"extra_files[{number}].file"
        found = hostpaths.resource(path, Role.EXTRA, access, source, format=form)
        if found is not None:
            yield found


def rendered(vm: VM, folder: str, extra: Sequence[str] = ()) -> Command:
    """Return the command line of a VM whose relative paths start at `folder`; `qemu_args`, then `extra` stand last.

    Raises:
        ValueProblem: `folder` is not absolute.
    """
    if not posixpath.isabs(folder):
        raise ValueProblem(f"the spec's folder {folder!r} is not absolute", hint="resolve it first")
    command = Command(vm, folder)
    _machine(command)
    for part in (_flash, _kernel, _disks, _cdrom, _characters, _networks, _devices, _virtio_devices, _tpm, _shares):
        part(command)
    command.add(*vm.qemu_args, *extra)
    return command


def invocation(
    vm: VM,
    folder: str,
    extra: Sequence[str] = (),
    *,
    config: Callable[[str], str | None] | None = None,
    unknown: UnknownOptions = UnknownOptions.REFUSE,
) -> Invocation:
    """Return QEMU's command line for a VM, and `extra` after it, with the files that the reader finds in it.

    `folder`, absolute, is where the VM's relative paths start; `config` and `unknown` are as for `reader.read`.
    What no argument says is added here: labels of a disk's own, trees to label, files named later over QMP.

    Raises:
        ValueProblem: `folder` is not absolute.
        CommandLineError: `qemu_args` or `extra` cannot be read.
        HostError: from `config`.
    """
    made = rendered(vm, folder, extra)
    emulator = posixpath.join(folder, vm.emulator) if "/" in vm.emulator else vm.emulator
    read = reader.read(emulator, made.arguments, config=config, unknown=unknown, origins=made.origins)
    labels = {_disk_origin(number): disk.seclabel for number, disk in enumerate(vm.disks)}
    if vm.cdrom_seclabel is not None:
        labels["cdrom"] = vm.cdrom_seclabel
    shares = {_share_origin(number) for number, share in enumerate(vm.shares) if share.relabel}

    def completed(found: Resource) -> Resource:
        if found.source in shares:
            return replace(found, label_tree=True)
        own = labels.get(found.source)
        if own is None or (own.label is None and own.relabel is None):
            return found
        return replace(found, label=own.label, relabel=own.relabel)

    return replace(
        read,
        name=vm.name,
        resources=(*map(completed, read.resources), *_extra_files(vm, folder)),
        helpers=tuple(made.helpers),
        accel=vm.accel,
        accel_index=made.accel_index,
        confinement=vm.confinement,
        landlock=vm.landlock,
        seclabel=vm.seclabel,
        require_domain=vm.require_domain,
        harden=vm.harden,
        sandbox=vm.harden,
        group=vm.harden,
        core=vm.core,
        user=vm.user,
        given=None,
    )
