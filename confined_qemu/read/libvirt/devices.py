"""The devices of a libvirt domain that a spec can say: disks, serial lines, network cards. Pure.

After libvirt's domain_conf.c, domain_postparse.c and qemu_validate.c (9.0): its defaults, and what it refuses.
"""

from __future__ import annotations

import re

from confined_qemu.model.commas import escape
from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.read.libvirt import others
from confined_qemu.read.spec.devices import NicModel
from confined_qemu.read.spec.vm import CDROM_PLACE, IDE_PLACES, Q35, Q35_PORTS, Bus, DiskFormat
from confined_qemu.read.spec.yamlnodes import Mapping, Scalar, shown

if TYPE_CHECKING:
    from typing import Final

    from confined_qemu.read.libvirt.carrying import Carrying
    from confined_qemu.read.libvirt.xmltree import Element
    from confined_qemu.read.spec.yamlnodes import Node

_BUSES: Final = {"hd": Bus.IDE, "sd": Bus.SCSI, "vd": Bus.VIRTIO, "fd": Bus.FDC}
"""The bus that a `<target dev=>` stands for where none is named (domain_postparse.c)."""


def devices(carry: Carrying, element: Element) -> None:
    """Read `<devices>`."""
    emulator = element.one("emulator")
    if emulator is not None and (path := carry.path(emulator, emulator.whole())) is not None:
        carry.put("emulator", emulator, path)
    orders = [order for disk in element.every("disk") if (order := _disk(carry, disk)) is not None]
    if orders != sorted(orders):
        carry.lose(element, "the guest boots from the disks in their order, then from the cdrom", "/disk/boot@order")
    _serial(carry, element)
    _interfaces(carry, element.every("interface"))
    others.read(carry, element)
    carry.left(element)


# ---- disks


def _disk(carry: Carrying, element: Element) -> int | None:
    """Read a disk; return its place in the boot order, None where it has none."""
    device = element.take("device") or "disk"
    kind = element.take("type") or "file"
    source = element.one("source")
    target = element.one("target")
    name = (target.take("dev") if target is not None else None) or ""
    if target is None or not name:
        carry.refuse(element, "a disk needs <target dev='…'/>", "add it, such as <target dev='vda' bus='virtio'/>")
        return None
    why = _left_out((element, source), device, kind)
    if why is not None:
        carry.lose(element, f"{name} is left out: {why}")
        return None
    path = source.take("file" if kind == "file" else "dev") if source is not None else None
    if source is None or not path:
        carry.lose(element, f"{name} is left out: there is nothing in the drive")
        return None
    file = carry.path(source, path)
    if file is None or not _may_be_kept(carry, element, name):
        return None
    form = _format(carry, element, name)
    if form is None:
        return None
    if device == "cdrom":
        _cdrom(carry, element, (source, target), file, form)
    else:
        _plain_disk(carry, element, (source, target), name, {"file": file, "format": form})
    boot = element.one("boot")
    order = (boot.take("order") if boot is not None else None) or ""
    for part in (source, target, boot, element):
        carry.left(part)
    return int(order) if re.fullmatch("[0-9]{1,4}", order) else None


def _left_out(parts: tuple[Element | None, ...], device: str, kind: str) -> str | None:
    """Return why a disk cannot be one of a spec, None where it can."""
    if device not in {"disk", "cdrom", "floppy"}:
        return f"a spec has disks, CD-ROMs and floppies, no device={shown(device)}"
    if kind not in {"file", "block"}:
        return f"a spec's disk is a file or a block device, not type={shown(kind)}"
    for part in parts:
        for child in part.children if part is not None else ():
            if child.tag in {"encryption", "slices"}:
                return f"a spec has no key for <{child.tag}>, without which the guest would read other bytes"
    return None


def _may_be_kept(carry: Carrying, element: Element, name: str) -> bool:
    """Refuse a disk that would be written although the domain says that it must not."""
    transient = element.one("transient")
    if transient is not None:
        hint = "name an overlay of it (qemu-img create -b …) in its place, or drop <transient/>"
        carry.refuse(transient, f"a spec has no transient disks: {name} would keep what the guest writes", hint)
    return transient is None


def _format(carry: Carrying, element: Element, name: str) -> str | None:
    """Return the stated format; libvirt takes an image that states none for raw, and so do we."""
    driver = element.one("driver")
    if driver is None:
        return DiskFormat.RAW.value
    driver.take("name")
    stated = driver.take("type") or DiskFormat.RAW.value
    carry.left(driver)
    if stated in {form.value for form in DiskFormat}:
        return stated
    carry.lose(driver, f"{name} is left out: a spec does not know the format {shown(stated)}", "@type")
    return None


def _cdrom(carry: Carrying, element: Element, parts: tuple[Element, Element], file: Node, form: str) -> None:
    source, target = parts
    bus = target.take("bus")
    element.flag("readonly")  # a CD-ROM is read-only anyway
    if "cdrom" in carry.keys:
        _another_cdrom(carry, element, source, (file, form))
        return
    carry.put("cdrom", element, file)
    if (label := _disk_label(carry, source)) is not None:
        carry.put("cdrom_seclabel", element, label)
    if form != DiskFormat.RAW:
        carry.put("cdrom_format", element, form)
    if bus not in {None, Bus.IDE, Bus.SATA}:
        carry.lose(target, "the drive is on the machine's own IDE or SATA controller", "@bus")


def _another_cdrom(carry: Carrying, element: Element, source: Element, image: tuple[Node, str]) -> None:
    """Read one more CD-ROM, such as one of drivers: a spec has one, and QEMU's own option says the others.

    They stand at the end of the machine's own controller, where its disks begin at the front.
    """
    file, form = image
    machine = carry.keys.get("machine")
    places = Q35_PORTS if isinstance(machine, Scalar) and machine.text.startswith(Q35) else IDE_PLACES
    index = places - 1 - sum(one.text.startswith("if=ide,media=cdrom,") for one in carry.arguments)
    if index <= CDROM_PLACE or not isinstance(file, Scalar):
        carry.lose(element, f"no place is left on the machine's controller for {shown(getattr(file, 'text', ''))}")
        return
    carry.no_label(source, "a second cdrom")
    words = f"if=ide,media=cdrom,index={index},format={form},readonly=on,file={escape(file.text)}"
    carry.argue(element, "-drive", words)


def _plain_disk(
    carry: Carrying, element: Element, parts: tuple[Element, Element], name: str, values: dict[str, Node | str]
) -> None:
    source, target = parts
    bus = target.take("bus") or _BUSES.get(name[:2], Bus.VIRTIO).value
    if bus not in {known.value for known in Bus}:
        carry.lose(target, f"{name} is left out: a spec does not know the bus {shown(bus)}", "@bus")
        return
    given: dict[str, Node | str | bool | None] = {**values, "bus": bus}
    for flag in ("readonly", "shareable"):
        if element.flag(flag):
            given[flag] = True
    given["seclabel"] = _disk_label(carry, source)
    carry.add_disk(element, carry.mapping(element, given))


def _disk_label(carry: Carrying, source: Element) -> Mapping | None:
    """Return a disk's own seclabel: the one of SELinux, or one that names no model."""
    found: Mapping | None = None
    models: list[str | None] = []
    for element in source.every("seclabel"):
        model = element.take("model")
        if model in models:
            carry.refuse(element, f"a second <seclabel> of the model {model or '(none)'}", "drop one of the two")
        models.append(model)
        if model not in {None, "selinux"}:
            carry.lose(element, f"labels of the model {model} are not set, only SELinux's")
            continue
        label = element.one("label")
        relabel = element.take("relabel")
        if relabel not in {None, "yes", "no"}:
            carry.refuse(element, f"expected yes or no, got {shown(relabel or '')}", None, "@relabel")
            relabel = None
        text = label.word() if label is not None else None
        found = carry.mapping(element, {"relabel": relabel, "label": text or None})
        carry.left(element)
    return found if found is not None and found.pairs else None


# ---- serial lines


def _serial(carry: Carrying, devices_: Element) -> None:
    """Read the first serial line; a `<console>` of a serial port is libvirt's second name for it."""
    lines = devices_.every("serial")
    consoles = devices_.every("console")
    for console in consoles:
        target = next((child for child in console.children if child.tag == "target"), None)
        kind = target.attributes.get("type", "serial") if target is not None else "serial"
        if kind != "serial":
            carry.lose(console, f"a spec has no console of type {shown(kind)}")
        elif not lines:
            lines = [console]
    for line in lines[:1]:
        if _appends(carry, line):
            continue
        text = _char(carry, line)
        carry.put("serial", line, text)
        line.every("target")
        line.every("address")
        carry.left(line)
    for line in lines[1:]:
        carry.lose(line, f"a spec has one serial line{HINT}give the others in qemu_args: (-serial …)")


def _appends(carry: Carrying, line: Element) -> bool:
    """Read a line to a file that keeps what is in it: a spec's serial line would make the file empty."""
    source = next((child for child in line.children if child.tag == "source"), None)
    if line.attributes.get("type") != "file" or source is None or source.attributes.get("append") != "on":
        return False
    path = carry.path(source, source.attributes.get("path", ""))
    if path is not None:
        words = f"file,id=serial0,path={escape(path.text)},append=on"
        carry.argue(line, "-chardev", words, "-serial", "chardev:serial0")
        carry.put("serial", line, "none")
    carry.no_label(source, "a serial line's file")
    line.drop()
    return True


def _char(carry: Carrying, element: Element) -> str:
    """Return where the line ends on the host, in a spec's words."""
    kind = element.take("type") or "pty"
    source = element.one("source")
    path = (source.take("path") if source is not None else None) or ""
    if kind in {"stdio", "null"}:
        return kind
    if kind == "pty":
        carry.lose(
            element,
            "no pseudo-terminal is made: the line is QEMU's standard input and output (serial: stdio)",
            "@type='pty'",
        )
        return "stdio"
    carry.no_label(source, "a serial line's file")
    if kind == "file" or (kind == "unix" and source is not None and source.take("mode") == "bind"):
        good = carry.path(source or element, path) is not None
        carry.left(source)
        return f"{kind}:{path}" if good else "null"
    carry.lose(element, "a spec has no such serial line: what the guest writes there is dropped", f"@type='{kind}'")
    return "null"


# ---- network


def _interfaces(carry: Carrying, elements: list[Element]) -> None:
    """Read every card that can be plugged in without libvirt's networks."""
    cards = [(element, card) for element in elements if (card := _interface(carry, element)) is not None]
    if len(cards) == 1:
        carry.put("network", *cards[0])
    else:
        for element, card in cards:
            carry.add("networks", element, card)


def _interface(carry: Carrying, element: Element) -> Mapping | None:
    kind = element.take("type") or "ethernet"
    mac = element.one("mac")
    address = mac.take("address") if mac is not None else None
    target = element.one("target")
    device = target.take("dev") if target is not None else None
    managed = target.take("managed") if target is not None else None
    model = _model(carry, element.one("model"))
    values: dict[str, Node | str | bool | None] = {
        "model": model,
        "mac": carry.text(mac, address) if mac is not None and address is not None else None,
    }
    if kind == "user":
        values["type"] = "user"
    elif kind == "ethernet" and device is not None:
        values |= {"type": "tap", "ifname": device}
        if managed != "no":
            hint = f"before the start run: ip tuntap add {shell_word(device)} mode tap"
            carry.lose(element, f"{device} is not made for the VM{HINT}{hint}", "/target")
    elif kind == "direct":
        carry.lose(element, _macvtap(element.one("source"), device))
        element.drop()
        return None
    else:
        hint = "make a tap device on that network, and write network: {type: tap, ifname: NAME}"
        carry.lose(element, f"the card is left out: a spec has none of type={shown(kind)}{HINT}{hint}")
        element.drop()
        return None
    element.every("address")
    for part in (mac, target, element):
        carry.left(part)
    return carry.mapping(element, values)


def _macvtap(source: Element | None, device: str | None) -> str:
    """Say how a macvtap device reaches a VM: it has a device node, which QEMU is given open."""
    link = shell_word((source.take("dev") if source is not None else None) or "LINK")
    mode = shell_word((source.take("mode") if source is not None else None) or "vepa")
    name = shell_word(device or "macvtap0")
    return (
        f"the card is left out: a spec takes a macvtap device as an open descriptor"
        f"{HINT}make the device: ip link add link {link} name {name} type macvtap mode {mode}"
        f"{HINT}write network: {{type: tap, fd: 3}}"
        f"{HINT}run the VM with 3<>/dev/tap$(cat /sys/class/net/{name}/ifindex)"
    )


def _model(carry: Carrying, element: Element | None) -> str | None:
    """Return the card's model; libvirt's default on a PC is rtl8139 (qemu_domain.c)."""
    if element is None:
        return NicModel.RTL8139.value
    stated = element.take("type") or ""
    carry.left(element)
    if stated in {model.value for model in NicModel}:
        return stated
    carry.lose(element, f"a spec does not know {shown(stated)}; the card is virtio", "@type")
    return None
