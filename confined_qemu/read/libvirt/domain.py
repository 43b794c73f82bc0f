"""A libvirt domain's XML to a VM, and a list of what it says that a VM of ours has not. Pure.

After libvirt's domain_conf.c (9.0): its defaults, and what it refuses is refused here, at its line. An element or
attribute that this reader does not know is in the list, never dropped in silence.
"""

from __future__ import annotations

import re
from contextlib import suppress

from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace
from confined_qemu.read.libvirt import firmware, others, xmltree
from confined_qemu.read.libvirt.carrying import NO_KEY, Carrying, Loss
from confined_qemu.read.libvirt.devices import devices
from confined_qemu.read.libvirt.firmware import Machine
from confined_qemu.read.libvirt.helpers import shares, tpms
from confined_qemu.read.spec.table import SPEC
from confined_qemu.read.spec.yamlnodes import Mapping, Problems, Scalar, TooMany, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from confined_qemu.read.libvirt.firmware import Descriptor
    from confined_qemu.read.libvirt.xmltree import Element
    from confined_qemu.read.spec.vm import VM
    from confined_qemu.read.spec.yamlnodes import Node

SPACES: Final = {"http://libvirt.org/schemas/domain/qemu/1.0": "qemu"}
"""Namespaces whose elements are read, and the prefix that is written for them."""
_ACCELERATORS: Final = {"kvm": "kvm", "qemu": "tcg"}
_ARCHITECTURES: Final = {"i686": "i386", "armv7l": "arm", "ppc64le": "ppc64"}
"""libvirt's names where QEMU has others."""
_UNITS: Final[dict[str, int]] = {"b": 1, "bytes": 1} | {
    unit: base ** (power + 1)
    for power, letter in enumerate("kmgtpe")
    for unit, base in ((f"{letter}b", 1000), (letter, 1024), (f"{letter}ib", 1024))
}
"""Bytes in each of libvirt's units, which it reads in either case (virutil.c, virScaleInteger)."""
_MIB: Final = 1 << 20
_EVENTS: Final = {"on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy"}
"""What follows where the domain does not say it; QEMU does the same."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A VM, and what of its domain it lacks; `origins` names the element that a spec's key came from."""

    vm: VM
    lost: tuple[Loss, ...]
    origins: dict[str, str]


def parse(text: str, file: str, descriptors: Sequence[str] = ()) -> Imported:
    """Return the VM of a domain; `file` is only named in messages, nothing is opened.

    `descriptors` are the texts of the host's firmware descriptors, in the order in which they are taken.

    Raises:
        SpecError: no XML, no domain of QEMU's, or one that libvirt or we refuse; each problem at its place.
    """
    problems = Problems(file)
    carry = Carrying(problems)
    vm: Any = None
    with suppress(TooMany):
        root = xmltree.parse(text, problems, SPACES)
        if root is not None and root.tag != "domain":
            hint = "give a domain's XML, as `virsh dumpxml NAME` prints it"
            problems.add(root.mark, "", f"the document is a <{printable_tag(root)}>, no <domain>", hint)
        elif root is not None:
            _domain(carry, root, firmware.read(descriptors))
            vm = SPEC.read(carry.root(root.mark), "", problems)
    if (error := problems.error) is not None:
        raise error
    whole: VM = vm
    return Imported(whole, tuple(sorted(carry.lost, key=lambda loss: loss.mark)), carry.origins)


def printable_tag(element: Element) -> str:
    """Return an element's name, not too long."""
    return shown(element.tag)[1:-1]


def _domain(carry: Carrying, root: Element, descriptors: Sequence[Descriptor]) -> None:
    kind = root.take("type")
    if kind not in _ACCELERATORS:
        carry.refuse(root, f"expected kvm or qemu, got {shown(kind or '')}", "QEMU runs no other type", "@type")
    carry.put("accel", root, _ACCELERATORS.get(kind or "", "kvm"))
    _name(carry, root)
    uuid = ""
    if (element := root.one("uuid")) is not None and (uuid := element.word()):
        carry.argue(element, "-uuid", uuid)
    _memory(carry, root)
    _cpus(carry, root)
    if (system := root.one("os")) is not None:
        _system(carry, system, _machine(carry, root), descriptors)
    if (cpu := root.one("cpu")) is not None:
        _cpu_model(carry, cpu, kind or "")
    _clock_and_events(carry, root)
    for element in root.every("sysinfo"):
        others.sysinfo(carry, element)
    others.memory_backing(carry, root.one("memoryBacking"))
    if (found := root.one("devices")) is not None:
        tpms(carry, found.every("tpm"), uuid)
        shares(carry, found.every("filesystem"))
        devices(carry, found)
    _seclabels(carry, root.every("seclabel"))
    for line in root.every("qemu:commandline"):
        for argument in line.every("qemu:arg"):
            if (value := argument.take("value")) is None:
                carry.refuse(argument, "an argument needs value='…'", "add the attribute")
            else:
                carry.argue(argument, value)
        carry.left(line)
    carry.left(root)


def _name(carry: Carrying, root: Element) -> None:
    element = root.one("name")
    name = element.whole() if element is not None else ""
    if element is None or not name.strip():
        carry.refuse(element or root, "a domain needs a <name>", "add <name>NAME</name>")
        carry.put("name", root, "unnamed")
        return
    if "/" in name or "\n" in name:
        carry.refuse(element, f"a name has no '/' and no line break, got {shown(name)}", "choose another")
    fit = re.sub("[^A-Za-z0-9._-]", "-", name)[:64]
    fit = fit if fit[:1].isalnum() else f"vm{fit}"[:64]
    if fit != name:
        carry.lose(
            element, f"{shown(name)} becomes {fit}: a name here has letters, digits, '.', '_' and '-', at most 64"
        )
    carry.put("name", element, fit)


def _memory(carry: Carrying, root: Element) -> None:
    element = root.one("memory")
    size = _bytes(carry, element) if element is not None else 0
    if element is None or size == 0:
        carry.refuse(element or root, "a domain needs <memory> above 0", "add <memory unit='MiB'>128</memory>")
    if element is None or not size:
        return
    mebibytes = -(-size // _MIB)  # rounded up, as libvirt does for QEMU (qemu_domain.c)
    carry.put("memory", element, f"{mebibytes // 1024}G" if mebibytes % 1024 == 0 else f"{mebibytes}M")
    carry.left(element)
    current = root.one("currentMemory")
    if current is not None and _bytes(carry, current) != size:
        carry.lose(current, "the guest starts with all of its memory")


def _bytes(carry: Carrying, element: Element) -> int | None:
    """Return a size in bytes; without a unit it is KiB. None where it cannot be read, which is noted."""
    unit, number = (element.take("unit") or "KiB").strip(), element.word()
    if unit.lower() not in _UNITS or re.fullmatch("[0-9]{1,15}", number) is None:
        what = f"expected a size, got {shown(f'{number} {unit}')}"
        carry.refuse(element, what, "write a whole number and a unit such as KiB, MiB or GiB")
        return None
    return int(number) * _UNITS[unit.lower()]


def _cpus(carry: Carrying, root: Element) -> None:
    element = root.one("vcpu")
    if element is None:
        return
    current = element.take("current")
    if element.take("placement") not in {None, "static"}:
        carry.lose(element, NO_KEY, "@placement")
    number = element.word()
    carry.put("cpus", element, Scalar(number, plain=True, mark=element.mark))
    if current not in {None, number}:
        carry.lose(element, "the guest starts with all of its CPUs", "@current")
    carry.left(element)


def _machine(carry: Carrying, root: Element) -> Machine:
    """Return what the firmware is chosen by, and take `<smm>` of the features."""
    features = next((child for child in root.children if child.tag == "features"), None)
    smm = features.one("smm") if features is not None else None
    state = (smm.take("state") or "on") if smm is not None else None
    if smm is not None and state in {"on", "off"}:
        carry.argue(smm, "-machine", f"smm={state}")
    carry.left(smm)
    name = carry.keys["name"]
    return Machine(name.text if isinstance(name, Scalar) else "", smm=state)


# ---- what is booted


def _system(carry: Carrying, system: Element, machine: Machine, descriptors: Sequence[Descriptor]) -> None:
    kind = system.one("type")
    if kind is None or (word := kind.word()) != "hvm":
        what = "<type> is missing" if kind is None else f"expected hvm, got {shown(word)}"
        carry.refuse(kind or system, what, "write <type>hvm</type>: QEMU runs no other")
    else:
        if (stated := kind.take("machine")) is not None:
            carry.put("machine", kind, stated)
            machine = replace(machine, type=stated)
        if (architecture := kind.take("arch")) is not None:
            carry.put("emulator", kind, f"qemu-system-{_ARCHITECTURES.get(architecture, architecture)}")
            machine = replace(machine, architecture=architecture)
        carry.left(kind)
    firmware.firmware(carry, system, machine, descriptors)
    _kernel(carry, system)
    others.acpi_tables(carry, system.one("acpi"))
    order = [boot.take("dev") for boot in system.every("boot")]
    if order and order != [dev for dev in ("hd", "cdrom") if dev in order]:
        carry.lose(system, "the guest boots from the disks in their order, then from the cdrom", "/boot@dev")
    carry.left(system)


def _kernel(carry: Carrying, system: Element) -> None:
    kernel = system.one("kernel")
    if kernel is not None and not kernel.text.strip() and not kernel.children:
        kernel = None  # nothing is named (virXMLPropString, virXPathString): the disks are booted
    if kernel is None:  # libvirt drops the others then (qemu_command.c); they stay, and are in the list
        return
    for element in (kernel, system.one("initrd"), system.one("dtb")):
        if element is not None and element.text.strip() and (path := carry.path(element, element.whole())) is not None:
            carry.put(element.tag, element, path)
    line = system.one("cmdline")
    if line is not None and (text := line.whole()):
        carry.put("cmdline", line, text)


def _cpu_model(carry: Carrying, cpu: Element, kind: str) -> None:
    mode = cpu.take("mode") or "custom"
    model = cpu.one("model")
    name: str | None = model.word() if model is not None else None
    if mode in {"host-passthrough", "host-model"}:
        name = "host"
        if kind == "qemu" and mode == "host-model":  # libvirt takes what QEMU can emulate of the host's
            name = "max"
            carry.lose(cpu, "the guest gets the best CPU that QEMU emulates (cpu: max)", "@mode='host-model'")
        elif kind == "qemu":
            carry.refuse(cpu, f"mode='{mode}' needs type='kvm'", "use mode='maximum', or name a model", "@mode")
        elif mode == "host-model":
            carry.lose(cpu, "the guest gets the host's own CPU (cpu: host)", "@mode='host-model'")
    elif mode == "maximum":
        name = "max"
    carry.left(model)
    if name:
        words = [name]
        for feature in cpu.every("feature"):
            policy, flag = feature.take("policy") or "require", feature.take("name") or ""
            if policy in {"require", "force", "disable", "forbid"}:
                words.append(("+" if policy in {"require", "force"} else "-") + flag)
            else:
                carry.lose(feature, f"the CPU model decides about {shown(flag)}", f"@policy='{policy}'")
        carry.put("cpu", cpu, ",".join(words))
    carry.left(cpu)


def _clock_and_events(carry: Carrying, root: Element) -> None:
    """Read the clock, and what happens when the guest shuts down, reboots or crashes."""
    carry.left(root.one("features"))
    clock = root.one("clock")
    if clock is not None:
        offset = clock.take("offset") or "utc"
        if offset == "localtime":
            carry.argue(clock, "-rtc", "base=localtime")
        elif offset != "utc":
            carry.lose(clock, "the guest's clock starts at UTC", f"@offset='{offset}'")
    carry.left(clock)
    for tag, default in _EVENTS.items():
        element = root.one(tag)
        action = element.word() if element is not None else default
        if element is not None and tag == "on_reboot" and action == "destroy":
            carry.argue(element, "-no-reboot")
        elif element is not None and action != default and (tag, action) != ("on_crash", "restart"):
            carry.lose(element, f"{shown(action)}: {NO_KEY}")


# ---- the seclabel


def _seclabels(carry: Carrying, elements: list[Element]) -> None:
    models = [element.take("model") for element in elements]
    for number, (element, model) in enumerate(zip(elements, models, strict=True)):
        if model is None and len(models) > 1:
            carry.refuse(element, "each of several <seclabel> must name its model", "add model='selinux'")
        elif model in models[:number]:
            carry.refuse(element, f"a second <seclabel> of the model {model}", "drop one of the two")
        elif model in {None, "selinux"}:
            _seclabel(carry, element)
        else:
            carry.lose(element, f"labels of the model {model} are not set, only SELinux's")


def _seclabel(carry: Carrying, element: Element) -> None:
    kind = element.take("type") or "dynamic"
    relabel = element.take("relabel")
    if relabel not in {None, "yes", "no"}:
        carry.refuse(element, f"expected yes or no, got {shown(relabel or '')}", None, "@relabel")
        relabel = None
    values: dict[str, Node | str | bool | None] = {"type": kind, "relabel": relabel}
    label, base = element.one("label"), element.one("baselabel")
    if label is not None and kind == "static":
        values["label"] = carry.text(label, label.word())
    elif label is not None and kind != "dynamic":  # a running dynamic VM's is there, and libvirt reads it from no one
        carry.lose(label, f"not used where the seclabel has type={shown(kind)}")
    if base is not None and kind == "dynamic":
        values["baselabel"] = carry.text(base, base.word())
    elif base is not None:
        carry.lose(base, f"not used where the seclabel has type={shown(kind)}")
    mapping: Mapping = carry.mapping(element, values)
    if [key.text for key, _ in mapping.pairs if isinstance(key, Scalar)] != ["type"] or kind != "dynamic":
        carry.put("seclabel", element, mapping)
    carry.left(element)
