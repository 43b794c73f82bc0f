"""A VM's command line: what QEMU gets, which files it names, and that QEMU itself takes it."""

from __future__ import annotations

import posixpath
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.model.commas import split
from confined_qemu.model.context import Context
from confined_qemu.model.errors import CommandLineError, ValueProblem
from confined_qemu.model.invocation import Accel, Confinement
from confined_qemu.model.lean import replace
from confined_qemu.model.resource import Access, Listener, Role, Sharing
from confined_qemu.read.qemu import reader
from confined_qemu.read.settings import UnknownOptions
from confined_qemu.read.spec import loader
from confined_qemu.read.spec.devices import (
    Char,
    CharKind,
    HostDevice,
    MemoryBacking,
    Network,
    NetworkType,
)
from confined_qemu.read.spec.render import invocation, rendered
from confined_qemu.read.spec.vm import VM, Bus, Disk, DiskFormat, DiskLabel
from tests.strategies import hostile, paths, spec_documents, stray

if TYPE_CHECKING:
    from confined_qemu.model.resource import Resource


def values(vm: VM, option: str) -> list[str]:
    arguments = invocation(vm, "/specs").arguments
    return [after for before, after in pairwise(arguments) if before == option]


def disk(file: str = "a.img", **more: Any) -> Disk:
    return Disk(**({"file": file, "format": DiskFormat.RAW} | more))


def test_linux_0_2() -> None:
    vm = VM("linux-0.2", disks=(disk("linux-0.2.img", bus=Bus.IDE),), serial=Char(CharKind.STDIO))
    found = invocation(vm, "/specs")
    assert " ".join(found.arguments) == (
        "-name guest=linux-0.2 -no-user-config -nodefaults -machine pc -accel tcg -smp 1 -m 128M -display none -vga std"
        " -drive if=none,id=vm-disk0,format=raw,readonly=off,file=/specs/linux-0.2.img"
        " -device ide-hd,bus=ide.0,unit=0,drive=vm-disk0,bootindex=1"
        " -chardev stdio,id=vm-serial -serial chardev:vm-serial"
    )
    (image,) = found.resources
    assert (image.path, image.role, image.access) == ("/specs/linux-0.2.img", Role.DISK, Access.READ_WRITE)
    assert (image.sharing, image.source, image.format) == (Sharing.PRIVATE, "disks[0].file", "raw")
    assert found.listeners == ()
    assert found.emulator == "qemu-system-x86_64"


@pytest.mark.parametrize(("accel", "word"), [(Accel.AUTO, "tcg"), (Accel.TCG, "tcg"), (Accel.KVM, "kvm")])
def test_the_accelerator_is_the_argument_that_the_plan_replaces(accel: Accel, word: str) -> None:
    found = invocation(VM("x", accel=accel), "/")
    assert found.accel is accel
    assert found.accel_index is not None
    assert found.arguments[found.accel_index - 1 : found.accel_index + 1] == ("-accel", word)
    assert found.arguments.count("-accel") == 1


def test_what_is_no_argument_is_handed_on() -> None:
    vm = VM("x", user="nobody", confinement=Confinement.AUTO, require_domain=True)
    found = invocation(vm, "/")
    assert (found.name, found.user, found.require_domain) == ("x", "nobody", True)
    assert (found.confinement, found.seclabel) == (vm.confinement, vm.seclabel)


@pytest.mark.parametrize(
    ("readonly", "shareable", "sharing", "access"),
    [
        (False, False, Sharing.PRIVATE, Access.READ_WRITE),
        (True, False, Sharing.CONTENT, Access.READ),
        (False, True, Sharing.SHARED, Access.READ_WRITE),
        (True, True, Sharing.SHARED, Access.READ),
    ],
)
def test_a_disks_sharing(readonly: bool, shareable: bool, sharing: Sharing, access: Access) -> None:
    vm = VM("x", disks=(disk(readonly=readonly, shareable=shareable),))
    (image,) = invocation(vm, "/specs").resources
    assert (image.sharing, image.access) == (sharing, access)
    assert f"readonly={'on' if readonly else 'off'}" in split(values(vm, "-drive")[0])
    assert ("share-rw=on" in split(values(vm, "-device")[0])) is shareable


def test_a_disks_own_label_is_handed_on() -> None:
    label = Context.parse("u:r:t:s0:c1")
    vm = VM("x", disks=(disk("a", seclabel=DiskLabel(label=label)), disk("b", seclabel=DiskLabel(relabel=False))))
    labels = [(resource.label, resource.relabel) for resource in invocation(vm, "/").resources]
    assert labels == [(label, None), (None, False)]


def test_every_other_file() -> None:
    vm = VM(
        "x",
        cdrom="c",
        kernel="k",
        initrd="../i",
        dtb="/t",
        cmdline="root=/dev/sda, quiet",
        firmware="f",
        nvram="n",
        serial=Char.parse("file:s"),
        network=Network(NetworkType.TAP, ifname="tap0"),
    )
    found = {one.role: (one.path, one.access, one.sharing, one.source) for one in invocation(vm, "/specs").resources}
    read, private = (Access.READ, Sharing.CONTENT), Sharing.PRIVATE
    assert found == {
        Role.CDROM: ("/specs/c", *read, "cdrom"),
        Role.KERNEL: ("/specs/k", *read, "kernel"),
        Role.INITRD: ("/specs/../i", *read, "initrd"),
        Role.DTB: ("/t", *read, "dtb"),
        Role.FIRMWARE: ("/specs/f", *read, "firmware"),
        Role.NVRAM: ("/specs/n", Access.READ_WRITE, private, "nvram"),
        Role.CHARDEV: ("/specs/s", Access.CREATE, private, "serial"),
        Role.HOST_DEVICE: ("/dev/net/tun", Access.READ_WRITE, Sharing.UNLABELLED, "network.ifname"),
    }
    assert values(vm, "-append") == ["root=/dev/sda, quiet"]


def test_the_devices_of_the_host() -> None:
    names = ("usb:046d:c52b", "usb:1-2.3", "usb:1/12", "pci:01:00.0")
    vm = VM(
        "x",
        host_devices=tuple(map(HostDevice.parse, names)),
        rng="/dev/urandom",
        vsock=7,
        memory_backing=MemoryBacking.HUGEPAGES,
    )
    assert [line for line in values(vm, "-device") if "host" in line and "xhci" not in line] == [
        "usb-host,bus=vm-usb.0,vendorid=0x046d,productid=0xc52b",
        "usb-host,bus=vm-usb.0,hostbus=1,hostport=2.3",
        "usb-host,bus=vm-usb.0,hostbus=1,hostaddr=12",
        "vfio-pci,host=01:00.0",
        "vhost-vsock-pci,guest-cid=7",
    ]
    found = {one.path: (one.role, one.source) for one in invocation(vm, "/specs").resources}
    assert found == {
        "/sys/bus/usb/devices/vendor=046d,product=c52b": (Role.USB, "host_devices[0]"),
        "/sys/bus/usb/devices/bus=1,port=2.3": (Role.USB, "host_devices[1]"),
        "/dev/bus/usb/001/012": (Role.USB, "host_devices[2]"),
        "/sys/bus/pci/devices/0000:01:00.0/iommu_group": (Role.VFIO, "host_devices[3]"),
        "/sys/bus/pci/devices/0000:01:00.0/config": (Role.HOST_DEVICE, "host_devices[3]"),
        "/dev/vfio/vfio": (Role.HOST_DEVICE, "host_devices[3]"),
        "/dev/urandom": (Role.HOST_DEVICE, "rng"),
        "/dev/vhost-vsock": (Role.HOST_DEVICE, "vsock"),
        "/dev/hugepages": (Role.MEMORY, "memory_backing"),
    }


@pytest.mark.parametrize("text", ["usb", "usb:1-", "usb:0x1:2", "pci:1:0.0", "scsi:1:2", "pci:01:00.9", "usb:1-2,a=b"])
def test_what_is_no_device_of_the_host_is_refused(text: str) -> None:
    with pytest.raises(ValueProblem, match="expected a device such as"):
        HostDevice.parse(text)


def test_formats_of_flash_and_cdrom() -> None:
    form = DiskFormat.QCOW2
    vm = VM("x", cdrom="c", cdrom_format=form, firmware="f", firmware_format=form, nvram="n", nvram_format=form)
    found = {one.path: one.format for one in invocation(vm, "/").resources}
    assert found == {"/c": "qcow2", "/f": "qcow2", "/n": "qcow2"}
    plain = VM("x", cdrom="c", firmware="f", nvram="n")
    assert {one.format for one in invocation(plain, "/").resources} == {"raw"}


def test_each_of_several_cards_is_its_own() -> None:
    cards = (Network(NetworkType.USER), Network(NetworkType.TAP, ifname="tap0"), Network(NetworkType.TAP, fd=3))
    vm = VM("x", networks=cards)
    assert values(vm, "-netdev") == [
        "user,id=vm-net",
        "tap,id=vm-net1,fd={networks[1].ifname}",
        "tap,id=vm-net2,fd=3",
    ]
    assert [(one.path, one.source) for one in invocation(vm, "/").resources] == [("/dev/net/tun", "networks[1].ifname")]


def test_a_socket_is_a_listener_and_no_resource() -> None:
    found = invocation(VM("x", serial=Char.parse("unix:a,b"), qmp=Char.parse("unix:/q")), "/specs")
    assert found.resources == ()
    serial, qmp = found.listeners
    before = "socket,id=vm-serial,fd="
    assert serial == Listener("serial", "/specs/a,b", "serial", serial.index, before, ",server=on,wait=off")
    assert found.arguments[serial.index - 1 : serial.index + 3] == (
        "-chardev",
        before + "{serial},server=on,wait=off",
        "-serial",
        "chardev:vm-serial",
    )
    assert found.arguments[qmp.index] == f"{qmp.before}{{qmp}}{qmp.after}"
    assert qmp.path == "/q"


def test_extra_arguments_stand_last_as_they_were_written() -> None:
    extra = ("-drive", "file=a,,b", "-S", "")
    found = invocation(VM("x", qemu_args=extra), "/")
    assert found.arguments == (*invocation(VM("x"), "/").arguments, *extra)
    assert [(one.path, one.source) for one in found.resources] == [("a,b", "-drive file=")]


def test_extra_arguments_decide_about_the_specs_own_files() -> None:
    vm = VM("x", disks=(disk(),), kernel="k", qemu_args=("-snapshot", "-kernel", "/other"))
    found = [(one.path, one.access, one.source) for one in invocation(vm, "/").resources]
    assert found == [("/a.img", Access.READ, "disks[0].file"), ("/other", Access.READ, "-kernel")]


@given(spec_documents())
def test_a_spec_and_its_command_line_typed_by_hand_are_read_alike(document: dict[str, Any]) -> None:
    vm = loader.parse(yaml.safe_dump(document), "f.yaml")
    try:
        typed = reader.read(vm.emulator, rendered(vm, "/specs").arguments, unknown=UnknownOptions.WARN)
    except CommandLineError:
        with pytest.raises(CommandLineError):
            invocation(vm, "/specs", unknown=UnknownOptions.WARN)
        return
    spec = invocation(vm, "/specs", unknown=UnknownOptions.WARN)
    if typed.query:
        return

    def plain(found: Resource) -> Resource:
        return replace(found, source="", label=None, relabel=None, label_tree=False)

    files = [one for one in spec.resources if one.role is not Role.EXTRA]
    # a person's comma may part the modules of a multiboot kernel, a spec's initrd is one file
    commas = vm.initrd is not None and "," in vm.initrd
    left = {Role.EXTRA, Role.INITRD} if commas else {Role.EXTRA}
    assert [plain(one) for one in files if one.role not in left] == [
        plain(one) for one in typed.resources if one.role not in left
    ]
    assert [(one.path, one.access) for one in spec.listeners] == [(one.path, one.access) for one in typed.listeners]
    assert (spec.needs_tmpdir, spec.snapshot, spec.daemonize) == (typed.needs_tmpdir, typed.snapshot, typed.daemonize)


def test_disks_boot_in_order_and_the_cdrom_after_them() -> None:
    vm = VM("x", cdrom="c", disks=(disk("a", bus=Bus.SCSI), disk("b", bus=Bus.FDC), disk("c2")))
    order = [option for device in values(vm, "-device") for option in split(device) if "bootindex" in option]
    assert order == ["bootindex=1", "bootindex=2", "bootindex=3"]


@pytest.mark.parametrize("emulator", ["qemu-system-x86_64", "./qemu", "../bin/qemu", "/usr/bin/qemu"])
def test_an_emulator_with_a_slash_is_a_path(emulator: str) -> None:
    expected = posixpath.join("/specs", emulator) if "/" in emulator else emulator
    assert invocation(VM("x", emulator=emulator), "/specs").emulator == expected


def test_a_relative_folder_is_refused() -> None:
    with pytest.raises(ValueProblem, match="not absolute"):
        invocation(VM("x"), "specs")


@given(paths, st.sampled_from(["/", "/specs", "/a,b", "/a\n,readonly=off"]))
def test_no_path_adds_or_changes_an_option(path: str, folder: str) -> None:
    vm = VM("x", disks=(disk(path, readonly=True),), firmware=path + "f", serial=Char(CharKind.FILE, path + "s"))
    found = invocation(vm, folder)
    plain = invocation(VM("x", disks=(disk("p", readonly=True),), firmware="f", serial=Char.parse("file:s")), "/")
    assert len(found.arguments) == len(plain.arguments)
    files = {one.path for one in found.resources}
    for mine, other in zip(found.arguments, plain.arguments, strict=True):
        if mine == other:
            continue
        changed = [pair for pair in zip(split(mine), split(other), strict=True) if pair[0] != pair[1]]
        ((hostile_option, plain_option),) = changed
        key, _, whole = hostile_option.partition("=")
        assert key == plain_option.partition("=")[0]
        assert whole in files
        assert whole.startswith("/")


@given(spec_documents())
def test_every_good_spec_can_be_rendered(document: dict[str, Any]) -> None:
    vm = loader.parse(yaml.safe_dump(document), "f.yaml")
    found = invocation(replace(vm, qemu_args=()), "/specs")
    assert len(found.resources) + len(found.listeners) >= len(vm.disks)
    sources = [one.source for one in found.resources] + [one.source for one in found.listeners]
    assert not any(source.startswith("-") for source in sources)
    assert all(one.path.startswith("/") for one in found.resources)
    assert all(one.sharing is not Sharing.PRIVATE for one in found.resources if one.access is Access.READ)


@given(hostile | stray)
def test_an_extra_argument_changes_nothing_before_it(text: str) -> None:
    vm = VM("x", qemu_args=(text,))
    assert rendered(vm, "/").arguments == [*rendered(VM("x"), "/").arguments, text]
