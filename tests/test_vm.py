"""Each rule between a VM's keys: broken it is refused at its key, kept it is not."""

from __future__ import annotations

from typing import Any

import pytest

from confined_qemu.model.context import Context
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.invocation import Confinement, Seclabel, SeclabelType
from confined_qemu.read.spec.devices import Char, CharKind, Network, NetworkType
from confined_qemu.read.spec.rules import Broken, size_in_bytes
from confined_qemu.read.spec.vm import VM, Bus, Disk, DiskFormat, DiskLabel

STATIC = SeclabelType.STATIC
DYNAMIC = SeclabelType.DYNAMIC
NONE = SeclabelType.NONE
LABEL = Context.parse("system_u:system_r:svirt_t:s0:c1,c2")
BARE = Context.parse("system_u:system_r:svirt_t")
STDIO = Char(CharKind.STDIO)


def disk(**values: Any) -> Disk:
    return Disk(**({"file": "a.img", "format": DiskFormat.RAW} | values))


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (lambda: disk(readonly=True, bus=Bus.IDE), ["readonly"]),
        (lambda: disk(readonly=True, bus=Bus.SATA), ["readonly"]),
        (lambda: disk(shareable=True, format=DiskFormat.QCOW2), ["shareable"]),
        (lambda: disk(shareable=True, bus=Bus.FDC), ["shareable"]),
        (lambda: DiskLabel(relabel=False, label=LABEL), ["label"]),
        (lambda: Network(NetworkType.USER, ifname="tap0"), ["ifname"]),
        (lambda: Network(NetworkType.USER, fd=5), ["fd"]),
        (lambda: Network(NetworkType.NONE, mac="52:54:00:12:34:56"), ["mac"]),
        (lambda: Network(NetworkType.TAP, ifname="tap0", hostfwd=("tcp::1-:1",)), ["hostfwd"]),
        (lambda: Network(NetworkType.TAP), ["type"]),
        (lambda: Network(NetworkType.TAP, ifname="tap0", fd=5), ["type"]),
        (lambda: VM("x", initrd="i", cmdline="c", dtb="d"), ["initrd", "cmdline", "dtb"]),
        (lambda: VM("x", nvram="n"), ["nvram"]),
        (lambda: VM("x", cdrom_format=DiskFormat.QCOW2), ["cdrom_format"]),
        (lambda: VM("x", network=Network(NetworkType.USER), networks=(Network(NetworkType.USER),)), ["networks"]),
        (lambda: VM("x", confinement=Confinement.NONE, require_domain=True), ["require_domain"]),
        (lambda: VM("x", serial=STDIO, monitor=STDIO, qmp=STDIO), ["monitor", "qmp"]),
        (lambda: VM("x", serial=Char(CharKind.MUX), qmp=STDIO), ["qmp"]),
        (lambda: VM("x", serial=STDIO, display="curses"), ["serial"]),
        (lambda: VM("x", disks=tuple(disk(file=str(n), bus=Bus.IDE) for n in range(5))), ["disks[4].bus"]),
        (lambda: VM("x", disks=tuple(disk(file=str(n), bus=Bus.FDC) for n in range(3))), ["disks[2].bus"]),
        (
            lambda: VM("x", cdrom="c", machine="q35", disks=tuple(disk(file=str(n), bus=Bus.SATA) for n in range(7))),
            ["disks[5].bus", "disks[6].bus"],
        ),
        (lambda: VM("x", disks=(disk(), disk())), ["disks[1].file"]),
        (lambda: VM("x", disks=(disk(),), cdrom="a.img"), ["cdrom"]),
        (lambda: VM("x", disks=(disk(readonly=True),), serial=Char.parse("file:a.img")), ["serial"]),
        (lambda: VM("x", seclabel=Seclabel(DYNAMIC, label=LABEL)), ["seclabel.label"]),
        (lambda: VM("x", seclabel=Seclabel(DYNAMIC, relabel=False)), ["seclabel.relabel"]),
        (lambda: VM("x", seclabel=Seclabel(STATIC)), ["seclabel.label"]),
        (lambda: VM("x", seclabel=Seclabel(STATIC, label=BARE)), ["seclabel.label"]),
        (lambda: VM("x", seclabel=Seclabel(STATIC, label=LABEL, baselabel=LABEL)), ["seclabel.baselabel"]),
        (lambda: VM("x", seclabel=Seclabel(NONE, relabel=True)), ["seclabel.relabel"]),
        (lambda: VM("x", seclabel=Seclabel(NONE, relabel=False, label=LABEL)), ["seclabel.label"]),
        (lambda: VM("x", seclabel=Seclabel(NONE, relabel=False, baselabel=LABEL)), ["seclabel.baselabel"]),
    ],
)
def test_a_broken_rule_is_named_at_its_key(make: Any, keys: list[str]) -> None:
    with pytest.raises(Broken) as caught:
        make()
    assert [violation.key for violation in caught.value.violations] == keys
    assert str(caught.value).startswith(f"{keys[0]}: ")


@pytest.mark.parametrize(
    "make",
    [
        lambda: disk(readonly=True, bus=Bus.SCSI),
        lambda: disk(shareable=True, readonly=True),
        lambda: DiskLabel(relabel=True, label=LABEL),
        lambda: DiskLabel(relabel=False),
        lambda: Network(NetworkType.TAP, fd=5),
        lambda: VM("x", kernel="k", initrd="i", cmdline="c", dtb="d", firmware="f", nvram="n"),
        lambda: VM("x", serial=Char(CharKind.MUX), monitor=Char.parse("unix:m"), qmp=Char.parse("unix:q")),
        lambda: VM("x", disks=tuple(disk(file=str(n), bus=Bus.IDE) for n in range(4))),
        lambda: VM("x", machine="q35", disks=tuple(disk(file=str(n), bus=Bus.IDE) for n in range(6))),
        lambda: VM("x", disks=tuple(disk(file=str(n), bus=Bus.SATA) for n in range(9))),
        lambda: VM("x", disks=(disk(readonly=True), disk(readonly=True)), cdrom="a.img"),
        lambda: VM("x", seclabel=Seclabel(DYNAMIC, baselabel=LABEL)),
        lambda: VM("x", seclabel=Seclabel(STATIC, relabel=True, label=LABEL)),
        lambda: VM("x", seclabel=Seclabel(STATIC, relabel=False, label=LABEL)),
        lambda: VM("x", seclabel=Seclabel(NONE, relabel=False)),
    ],
)
def test_what_keeps_the_rules_is_made(make: Any) -> None:
    make()


@pytest.mark.parametrize("text", ["stdio", "mon:stdio", "null", "none", "file:a,b:c", "unix:/run/x"])
def test_a_character_device_is_its_text(text: str) -> None:
    assert str(Char.parse(text)) == text


@pytest.mark.parametrize("text", ["", "file", "file:", "unix:", "tcp:1", "stdio:x", "mon:file:x", "NULL", "mon"])
def test_what_is_no_character_device(text: str) -> None:
    with pytest.raises(ValueProblem):
        Char.parse(text)


@pytest.mark.parametrize(("text", "size"), [("1K", 1024), ("128M", 1 << 27), ("3G", 3 << 30), ("2T", 2 << 40)])
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "128", "M", "0M", "1.5G", "-1M", "128MB", "128m", " 1M", "0x10M", "1 M", "\u0661M"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueProblem, match="128M"):
        size_in_bytes(text)


def test_disks_leave_the_cdroms_place_free() -> None:
    disks = tuple(disk(file=str(n), bus=Bus.IDE) for n in range(3))
    assert VM("x", disks=disks).ide_places() == {0: 0, 1: 1, 2: 2}
    assert VM("x", disks=(disk(file="v"), *disks), cdrom="c").ide_places() == {1: 0, 2: 1, 3: 3}
