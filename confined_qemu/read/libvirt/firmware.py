"""The firmware of a libvirt domain, stated or chosen by the descriptors of QEMU's firmware as libvirt does it. Pure.

After libvirt's qemu_firmware.c (9.0) and QEMU's `docs/interop/firmware.json`. QEMU itself reads no descriptor.
"""

from __future__ import annotations

from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.lean import TYPE_CHECKING, dataclass
from confined_qemu.read.spec.vm import DiskFormat
from confined_qemu.read.spec.yamlnodes import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Final

    from confined_qemu.read.libvirt.carrying import Carrying
    from confined_qemu.read.libvirt.xmltree import Element

_INTERFACES: Final = {"efi": "uefi", "bios": "bios"}
_MACHINES: Final = {"pc": "pc-i440fx-", "q35": "pc-q35-"}
"""What QEMU's short names stand for, as far as the descriptors' patterns tell them apart."""
_SMM: Final = ("-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on")
"""What firmware needs that keeps its variables from the guest's kernel."""
_NONE_FITS: Final = (
    f"no descriptor in /usr/share/qemu/firmware or /etc/qemu/firmware fits{HINT}write firmware: and nvram: yourself"
)
_TEMPLATE: Final = ("template", "templateFormat", "format")
_VARIABLES: Final = "/var/lib/libvirt/qemu/nvram"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One descriptor: the files that it names, and for which machines they are."""

    interfaces: frozenset[str]
    machines: tuple[tuple[str, str], ...]
    """Pairs of an architecture and a pattern of machine types."""
    features: frozenset[str]
    code: str
    code_format: str = "raw"
    flash: bool = True
    template: str | None = None
    template_format: str = "raw"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a domain says elsewhere that decides which firmware fits; `smm` is None where it says nothing."""

    name: str
    architecture: str = "x86_64"
    type: str = "pc"
    smm: str | None = None


def read(texts: Sequence[str]) -> tuple[Descriptor, ...]:
    """Return the descriptors that can be read of these texts, in their order; libvirt passes over the others too."""
    return tuple(found for text in texts if (found := _descriptor(text)) is not None)


def _descriptor(text: str) -> Descriptor | None:
    import json

    try:
        whole: Any = json.loads(text)
        mapping = whole["mapping"]
        if mapping["device"] not in {"flash", "memory"}:
            return None
        flash = mapping["device"] == "flash"
        code = mapping["executable"] if flash else mapping
        template = mapping.get("nvram-template") or {}
        machines = [(one["architecture"], machine) for one in whole["targets"] for machine in one["machines"]]
        found = Descriptor(
            frozenset(whole["interface-types"]), tuple(machines), frozenset(whole["features"]), code["filename"],
            code.get("format", "raw"), flash, template.get("filename"), template.get("format", "raw"),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    words = [found.code, found.code_format, found.template or "", found.template_format]
    return found if all(isinstance(word, str) and "\0" not in word for word in words) else None


def firmware(carry: Carrying, system: Element, machine: Machine, descriptors: Sequence[Descriptor]) -> None:
    """Read `<os firmware=>`, `<firmware>`, `<loader>` and `<nvram>`."""
    wanted, loader, nvram = system.take("firmware"), system.one("loader"), system.one("nvram")
    features = system.one("firmware")
    stated = loader is not None and loader.text.strip() != ""
    if stated and loader is not None:
        path, flash = _stated(carry, loader)
        chosen = next((one for one in descriptors if flash and one.code == path), None)
        _forget(features)
    else:
        chosen, flash = None, False
        if wanted is not None:
            fitting = _fitting(descriptors, _INTERFACES.get(wanted, ""), machine)
            chosen = next((one for one in fitting if _has(one, features, loader, nvram)), None)
            flash = _chosen(carry, system, wanted, chosen)
            _forget(features, loader)
    carry.left(features)
    carry.left(loader)
    if nvram is not None or (flash and chosen is not None and chosen.template is not None):
        _variables(carry, nvram, system, chosen if flash else None, (machine.name, flash))


def _forget(*elements: Element | None) -> None:
    for element in elements:
        if element is not None:
            element.drop()


def _stated(carry: Carrying, loader: Element) -> tuple[str, bool]:
    """Take the firmware that a domain names; return its path, and whether it is flash memory."""
    kind = loader.take("type") or "rom"
    path = carry.path(loader, loader.word())
    flash = kind == "pflash"
    if flash and loader.take("readonly") == "no":
        carry.lose(loader, "the firmware's code is read-only; the guest writes nvram: alone", "@readonly='no'")
    elif not flash:
        loader.take("readonly")
    if path is not None and flash:
        carry.put("firmware", loader, path)
        _format(carry, loader, "firmware", loader.take("format"))
        if loader.take("secure") == "yes":
            carry.argue(loader, *_SMM)
    elif path is not None:
        carry.argue(loader, "-bios", path.text)
    return "" if path is None else path.text, flash


def _fitting(descriptors: Sequence[Descriptor], interface: str, machine: Machine) -> Iterator[Descriptor]:
    import fnmatch

    name = _MACHINES.get(machine.type, machine.type)
    for one in descriptors:
        fits = any(
            architecture == machine.architecture
            and (fnmatch.fnmatchcase(name, pattern) or (machine.type in _MACHINES and pattern.startswith(name)))
            for architecture, pattern in one.machines
        )
        if fits and interface in one.interfaces and not ("requires-smm" in one.features and machine.smm == "off"):
            yield one


def _has(one: Descriptor, features: Element | None, loader: Element | None, nvram: Element | None) -> bool:
    """Tell whether firmware is as the domain wants it: features, guarded variables, formats."""
    for feature in features.children if features is not None else ():
        there = feature.attributes.get("name") in one.features
        if feature.attributes.get("enabled") in {"yes", "no"} and there != (feature.attributes["enabled"] == "yes"):
            return False
    ours, theirs = (part.attributes if part is not None else {} for part in (loader, nvram))
    if ours.get("secure") == "yes" and not {"secure-boot", "requires-smm"} <= one.features:
        return False
    if ours.get("secure") == "no" and "requires-smm" in one.features:
        return False
    if ours.get("type") == "pflash" and not one.flash:
        return False
    return ours.get("format") in {None, one.code_format} and theirs.get("format") in {None, one.template_format}


def _chosen(carry: Carrying, system: Element, wanted: str, chosen: Descriptor | None) -> bool:
    """Carry what was chosen; tell whether it is flash memory."""
    if chosen is None:
        if wanted != "bios":  # that is QEMU's own
            carry.lose(system, _NONE_FITS, "@firmware")
        return False
    path = carry.path(system, chosen.code)
    if path is None:
        return False
    if not chosen.flash:
        carry.argue(system, "-bios", path.text)
        return False
    carry.put("firmware", system, path)
    _format(carry, system, "firmware", chosen.code_format)
    if "requires-smm" in chosen.features:
        carry.argue(system, *_SMM)
    return True


def _variables(
    carry: Carrying, nvram: Element | None, system: Element, chosen: Descriptor | None, of: tuple[str, bool]
) -> None:
    """Read `<nvram>`, or take what libvirt makes where nothing is said: a copy of the firmware's template."""
    name, flash = of
    place = system if nvram is None else nvram
    kind = (nvram.take("type") if nvram is not None else None) or "file"
    source = nvram.one("source") if nvram is not None else None
    text = (source.take({"block": "dev"}.get(kind, "file")) or "") if source is not None else ""
    if nvram is not None and source is None:
        text = nvram.word()
    template, stated, form = (nvram.take(key) if nvram is not None else None for key in _TEMPLATE)
    if chosen is not None and template is None:
        template, stated = chosen.template, chosen.template_format
        form = form or (None if text else stated)
    why = None
    if kind not in {"file", "block"}:
        why = f"a spec's nvram: is a file, not type={shown(kind)}"
    elif not flash:
        why = "only firmware in flash memory uses it, and there is no <loader type='pflash'>"
    elif not text and template is None:
        why = f"libvirt would copy a template that is not named here{HINT}make the copy, and write nvram: PATH"
    if why is not None:
        carry.lose(place, f"left out: {why}")
        return
    text = text or f"{_VARIABLES}/{name}_VARS.{form if form not in {None, 'raw'} else 'fd'}"
    if template is not None:
        carry.lose(
            place,
            f"the file is not copied from its template{HINT}if it is missing: {_copy(template, stated, text, form)}",
        )
    carry.no_label(source, "the firmware's variables")
    if (path := carry.path(place, text)) is not None:
        carry.put("nvram", place, path)
        _format(carry, place, "nvram", form)
    carry.left(source)
    carry.left(nvram)


def _copy(template: str, stated: str | None, text: str, form: str | None) -> str:
    words = f"{shell_word(template)} {shell_word(text)}"
    ours, theirs = stated or form or "raw", form or "raw"
    return f"install -D -m 600 {words}" if ours == theirs else f"qemu-img convert -f {ours} -O {theirs} {words}"


def _format(carry: Carrying, element: Element, key: str, stated: str | None) -> None:
    """Carry a format: taken for raw, a qcow2 file would lose its header."""
    if stated in {None, DiskFormat.RAW}:
        return
    if stated in {form.value for form in DiskFormat}:
        carry.put(f"{key}_format", element, str(stated))
    else:
        hint = "convert it: qemu-img convert -O raw"
        carry.refuse(element, f"a spec does not know the format {shown(str(stated))}", hint, "@format")
