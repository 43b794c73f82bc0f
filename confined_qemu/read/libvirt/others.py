"""The host's devices, and what a spec says in a line each: input, sound, random numbers, balloon, vsock, memory. Pure.

After libvirt's domain_conf.c (9.0): its defaults.
"""

from __future__ import annotations

import re

from confined_qemu.model.commas import escape
from confined_qemu.model.errors import HINT
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.read.spec.devices import Input, MemoryBacking, Sound
from confined_qemu.read.spec.yamlnodes import Scalar, shown

if TYPE_CHECKING:
    from typing import Final

    from confined_qemu.read.libvirt.carrying import Carrying
    from confined_qemu.read.libvirt.xmltree import Element

_TABLES: Final = {"raw": "file=", "slic": "sig=SLIC,file=", "msdm": "sig=MSDM,file="}
"""What stands before a table's file on QEMU's command line (qemu_command.c)."""
_RANDOM: Final = "/dev/random"
"""What libvirt takes where a `<backend model='random'>` names none."""


def read(carry: Carrying, devices: Element) -> None:
    """Read these devices of `<devices>`."""
    for element in devices.every("hostdev"):
        _hostdev(carry, element)
    for element in devices.every("input"):
        _input(carry, element)
    for tag, reader in (("sound", _sound), ("rng", _rng), ("memballoon", _balloon), ("vsock", _vsock)):
        for number, element in enumerate(devices.every(tag)):
            if number:
                carry.lose(element, f"a spec has one <{tag}>")
            else:
                reader(carry, element)


def _end(carry: Carrying, *parts: Element | None) -> None:
    for part in parts:
        if part is not None:
            part.every("address")
            carry.left(part)


def _hostdev(carry: Carrying, element: Element) -> None:
    kind, mode = element.take("type") or "", element.take("mode") or "subsystem"
    source = element.one("source")
    name = _name(kind, source) if source is not None and mode == "subsystem" else None
    if name is None or source is None:
        carry.lose(element, f"left out: a spec cannot name this host device of type={shown(kind)}")
        return
    carry.add("host_devices", element, name)
    if element.take("managed") == "yes" and kind == "pci":
        hint = f"before the start run: driverctl set-override {name.removeprefix('pci:')} vfio-pci"
        carry.lose(element, f"the device is not taken from its driver{HINT}{hint}", "@managed")
    _end(carry, source, element)


def _name(kind: str, source: Element) -> str | None:
    """Return the device in a spec's words."""
    address = source.one("address")
    if kind == "pci" and address is not None:
        numbers = [_number(address.take(key) or "0") for key in ("domain", "bus", "slot", "function")]
        domain, bus, slot, function = (number or 0 for number in numbers)
        return None if None in numbers else f"pci:{domain:04x}:{bus:02x}:{slot:02x}.{function}"
    vendor, product = source.one("vendor"), source.one("product")
    if kind == "usb" and vendor is not None and product is not None:
        ids = [_number(one.take("id") or "") for one in (vendor, product)]
        return None if None in ids else "usb:" + ":".join(f"{one or 0:04x}" for one in ids)
    if kind == "usb" and address is not None:
        bus_, device = _number(address.take("bus") or ""), _number(address.take("device") or "")
        return None if bus_ is None or device is None else f"usb:{bus_}/{device}"
    return None


def _number(text: str) -> int | None:
    if re.fullmatch("0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,9}", text) is None:
        return None
    return int(text, 16) if text[:2] in {"0x", "0X"} else int(text)


def _input(carry: Carrying, element: Element) -> None:
    kind, bus = element.take("type") or "", element.take("bus")
    if kind in {one.value for one in Input} and bus == "usb":
        carry.add("input", element, kind)
        _end(carry, element)
    elif bus in {None, "ps2"} and kind in {"keyboard", "mouse"}:
        carry.lose(element, "the machine has a PS/2 keyboard and mouse of its own")
    else:
        carry.lose(element, f"a spec does not know {shown(f'{kind} {bus or str()}'.strip())}")


def _sound(carry: Carrying, element: Element) -> None:
    model = element.take("model") or ""
    if model not in {one.value for one in Sound}:
        carry.lose(element, f"a spec does not know the sound card {shown(model)}")
        return
    carry.put("sound", element, model)
    _end(carry, element)


def _rng(carry: Carrying, element: Element) -> None:
    backend = element.one("backend")
    model = backend.take("model") if backend is not None else None
    if backend is None or model != "random" or element.take("model") not in {None, "virtio"}:
        carry.lose(element, f"a spec does not know a source of type {shown(model or '')}")
        return
    carry.no_label(backend, "a source of random numbers")
    if (path := carry.path(backend, backend.word() or _RANDOM)) is not None:
        carry.put("rng", element, path)
    _end(carry, backend, element)


def _balloon(carry: Carrying, element: Element) -> None:
    model = element.take("model") or ""
    if model.startswith("virtio"):
        carry.put("balloon", element, "yes")
        _end(carry, element)
    elif model != "none":
        carry.lose(element, f"a spec does not know the balloon {shown(model)}")


def _vsock(carry: Carrying, element: Element) -> None:
    cid = element.one("cid")
    number = cid.take("address") if cid is not None else None
    automatic = cid is not None and cid.take("auto") == "yes"
    if cid is None or number is None or automatic:
        carry.lose(element, f"libvirt would choose a number{HINT}write vsock: NUMBER, one that no other VM has")
        return
    element.take("model")
    carry.put("vsock", element, Scalar(number, plain=True, mark=cid.mark))
    _end(carry, cid, element)


def acpi_tables(carry: Carrying, element: Element | None) -> None:
    """Read `<os><acpi><table>`: a file with a table, whose header says what it is but for the licence of Windows."""
    for table in element.every("table") if element is not None else ():
        kind = table.take("type") or ""
        if kind not in _TABLES:
            carry.lose(table, f"left out: QEMU reads no table of type={shown(kind)}")
        elif (path := carry.path(table, table.whole().strip())) is not None:
            carry.argue(table, "-acpitable", f"{_TABLES[kind]}{escape(path.text)}")
    carry.left(element)


def sysinfo(carry: Carrying, element: Element) -> None:
    """Read `<sysinfo type='fwcfg'>`: texts and files that the guest's firmware or first boot reads (Ignition)."""
    if element.attributes.get("type") != "fwcfg":
        carry.lose(element, "a spec has no key for it")
        return
    element.take("type")
    for entry in element.every("entry"):
        name, file, text = entry.take("name") or "", entry.take("file"), entry.whole()
        if file is None:
            carry.argue(entry, "-fw_cfg", f"name={escape(name)},string={escape(text)}")
        elif (path := carry.path(entry, file)) is not None:
            carry.argue(entry, "-fw_cfg", f"name={escape(name)},file={escape(path.text)}")
        carry.left(entry)
    carry.left(element)


def memory_backing(carry: Carrying, element: Element | None) -> None:
    """Read `<memoryBacking>`."""
    if element is None:
        return
    pages, source, access = (element.one(tag) for tag in ("hugepages", "source", "access"))
    kind = source.take("type") if source is not None else None
    if pages is not None and not pages.children:
        carry.put("memory_backing", pages, MemoryBacking.HUGEPAGES.value)
    elif pages is not None:
        carry.lose(
            pages, f"a spec has no key for their size{HINT}for the host's default write memory_backing: hugepages"
        )
    elif kind == MemoryBacking.MEMFD and source is not None:
        carry.put("memory_backing", source, MemoryBacking.MEMFD.value)
    elif source is not None:
        carry.lose(source, f"the guest's memory is QEMU's own, not of type={shown(kind or '')}")
    if access is not None and access.take("mode") == "private":
        carry.lose(access, "memory_backing: shares the guest's memory with the VM's helpers", "@mode")
    for part in (source if kind == MemoryBacking.MEMFD else None, access, element):
        carry.left(part)
