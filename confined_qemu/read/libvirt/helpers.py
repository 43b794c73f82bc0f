"""The TPMs and shared folders of a libvirt domain. Pure.

After libvirt's domain_conf.c and qemu_tpm.c (9.0): its defaults, and where it keeps a TPM's state.
"""

from __future__ import annotations

import re

from confined_qemu.model.errors import HINT
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.read.spec.devices import ShareDriver, TpmModel, TpmVersion
from confined_qemu.read.spec.yamlnodes import Mapping, Sequence, shown

if TYPE_CHECKING:
    from typing import Final

    from confined_qemu.read.libvirt.carrying import Carrying
    from confined_qemu.read.libvirt.xmltree import Element
    from confined_qemu.read.spec.yamlnodes import Node

_STATES: Final = "/var/lib/libvirt/swtpm"
_UUID: Final = re.compile("[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_TAG: Final = re.compile(r"[A-Za-z0-9/_.:-]{1,31}")
_DRIVERS: Final = {"virtiofs": ShareDriver.VIRTIOFS, "path": ShareDriver.NINE_P}


def tpms(carry: Carrying, elements: list[Element], uuid: str) -> None:
    """Read the first `<tpm>`; its state is the folder that libvirt keeps for this `uuid`."""
    for element in elements[:1]:
        _tpm(carry, element, uuid)
    for element in elements[1:]:
        carry.lose(element, "a VM has one TPM")


def _tpm(carry: Carrying, element: Element, uuid: str) -> None:
    model = element.take("model") or TpmModel.TIS.value
    backend = element.one("backend")
    kind = (backend.take("type") if backend is not None else None) or ""
    version = (backend.take("version") if backend is not None else None) or TpmVersion.TPM_2.value
    why = None
    if kind != "emulator":
        why = f"a spec has no TPM of type {shown(kind)}"
    elif version not in {known.value for known in TpmVersion} or model not in {known.value for known in TpmModel}:
        why = f"a spec does not know the TPM {shown(f'{model} {version}')}"
    elif backend is not None and any(child.tag == "encryption" for child in backend.children):
        why = "its state is encrypted, and a spec has no key for that"
    source = backend.one("source") if backend is not None else None
    stated = _state(carry, source)
    if why is None and source is not None and stated is None:
        why = "its <source> is not a folder of the host"
    elif why is None and source is None and _UUID.fullmatch(uuid) is None:
        why = f"libvirt finds its state by the domain's <uuid>, which is missing{HINT}add the <uuid>"
    if why is not None:
        carry.lose(element, f"left out: {why}")
        return
    state = stated or f"{_STATES}/{uuid.lower()}/tpm2"
    carry.put("tpm", element, carry.mapping(element, {"state": state, "version": version, "model": model}))
    if source is None:
        carry.lose(
            element,
            f"its state is the one that libvirt keeps{HINT}for a VM of its own copy {state} and name the copy",
        )
    element.every("address")
    carry.left(source)
    for part in (backend, element):
        carry.left(part)


def _state(carry: Carrying, source: Element | None) -> str | None:
    """Return the folder that a `<source type='dir' path=…>` names (libvirt 10.10), None where it is none."""
    if source is None or source.take("type") != "dir" or not (path := source.take("path") or ""):
        return None
    carry.no_label(source, "a TPM's state")
    return path if carry.path(source, path) is not None else None


def shares(carry: Carrying, elements: list[Element]) -> None:
    """Read every `<filesystem>` that is a folder of the host."""
    found = [share for element in elements if (share := _share(carry, element)) is not None]
    if found:
        carry.put("shares", elements[0], Sequence(tuple(found), found[0].mark))


def _share(carry: Carrying, element: Element) -> Mapping | None:
    kind = element.take("type") or "mount"
    driver, source, target = (element.one(tag) for tag in ("driver", "source", "target"))
    stated = (driver.take("type") if driver is not None else None) or "path"
    folder = source.take("dir") if source is not None else None
    tag = (target.take("dir") if target is not None else None) or ""
    why = None
    if kind != "mount" or source is None or folder is None:
        why = f"a spec shares folders of the host, not type={shown(kind)}"
    elif stated not in _DRIVERS:
        why = f"a spec does not know the driver {shown(stated)}"
    elif _TAG.fullmatch(tag) is None:
        why = f"expected a tag of at most 31 letters, digits and / _ . : -, got {shown(tag)}"
    if why is not None or source is None or folder is None:
        carry.lose(element, f"left out: {why}")
        return None
    mode = element.take("accessmode") or "passthrough"
    if stated == "path" and mode != "mapped":
        carry.lose(
            element,
            "owners and modes that the guest sets are kept in extended attributes",
            f"@accessmode='{mode}'",
        )
    path = carry.path(source, folder)
    readonly = True if element.flag("readonly") else None
    element.every("address")
    for part in (driver, source, target, element):
        carry.left(part)
    values: dict[str, Node | str | bool | None] = {
        "dir": path,
        "tag": tag,
        "driver": _DRIVERS[stated].value,
        "readonly": readonly,
    }
    return carry.mapping(element, values) if path is not None else None
