"""Hypothesis strategies of the project's values, hostile ones first."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from confined_qemu.model.context import Context
from confined_qemu.model.invocation import Confinement
from confined_qemu.model.mcs import MAX_CATEGORY, Level, Pair, Range
from confined_qemu.read.spec.devices import ShareDriver
from confined_qemu.read.spec.vm import DiskFormat

categories = st.frozensets(st.integers(0, MAX_CATEGORY), max_size=12)
"""Few categories anywhere, so that runs and single ones both occur when drawn near each other."""
crowded = st.frozensets(st.integers(0, 20), max_size=15)
"""Many categories close together: every way of writing a run."""
levels = st.builds(Level, st.integers(0, 15), categories | crowded)
"""Any level of the reference policy."""


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Draw a range whose high level dominates its low one."""
    low = draw(levels)
    high = Level(low.sensitivity + draw(st.integers(0, 3)), low.categories | draw(categories | crowded))
    return Range(low, high)


names = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)
"""A user, a role or a type."""
contexts = st.builds(Context, names, names, names, st.none() | ranges())
"""A context with or without a range."""


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Draw a category pair."""
    first, second = sorted(draw(st.sets(st.integers(0, MAX_CATEGORY), min_size=2, max_size=2)))
    return Pair(first, second)


hostile = st.text(
    st.sampled_from(",=:.%~'\"\\ \n\t\r\x1b\x7f[]{}#&*!|>-/a\u00e9\u202e\ufeff") | st.characters(codec="utf-8"),
    min_size=1,
    max_size=30,
).filter(lambda text: "\0" not in text)
"""Text that means something to QEMU, YAML, JSON or a terminal; no NUL, which no path can hold."""
stray = st.binary(min_size=1, max_size=20).map(
    lambda data: data.replace(b"\0", b"\xff").decode("utf-8", "surrogateescape")
)
"""A path that is not UTF-8, as Python hands it over: lone surrogates."""
paths = st.builds("/".join, st.lists(hostile | stray | st.just(".."), min_size=1, max_size=4)).filter(
    lambda path: path.strip("/") != ""
)
"""Relative and absolute paths, with commas, newlines, `..`, colons and stray bytes."""

_files = hostile.map(lambda text: f"f/{text}")


@st.composite
def disk_documents(draw: st.DrawFn, number: int) -> dict[str, Any]:
    """Draw one disk of a spec; `number` keeps its file apart from the others'."""
    document: dict[str, Any] = {
        "file": f"{number}/{draw(hostile)}",
        "format": draw(st.sampled_from([str(one) for one in DiskFormat])),
    }
    bus = draw(st.sampled_from(["virtio", "scsi", "usb", "sata", None]))
    if bus is not None:
        document["bus"] = bus
    if bus != "sata":
        document["readonly"] = draw(st.booleans())
    if document["format"] == "raw":
        document["shareable"] = draw(st.booleans())
    if draw(st.booleans()):
        document["seclabel"] = draw(st.just({"relabel": False}) | contexts.map(lambda label: {"label": str(label)}))
    return document


_tags = st.lists(st.from_regex(r"[A-Za-z0-9/_.:-]{1,31}", fullmatch=True), max_size=3, unique=True)


@st.composite
def share_documents(draw: st.DrawFn, tag: str) -> dict[str, Any]:
    """Draw one share of a spec, a folder of its own."""
    return {
        "dir": f"share{tag}/{draw(hostile)}",
        "tag": tag,
        "driver": draw(st.sampled_from([str(one) for one in ShareDriver])),
        "readonly": draw(st.booleans()),
        "relabel": draw(st.booleans()),
    }


def _seclabels() -> st.SearchStrategy[dict[str, Any]]:
    whole = st.builds(Context, names, names, names, ranges())
    static = st.builds(
        lambda label, relabel: {"type": "static", "label": str(label), "relabel": relabel}, whole, st.booleans()
    )
    dynamic = contexts.map(lambda label: {"baselabel": str(label), "relabel": True})
    return st.just({"type": "none"}) | static | dynamic


@st.composite
def spec_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a good spec as the plain document that its YAML holds."""
    optional = {
        "emulator": _files,
        "accel": st.sampled_from(["auto", "kvm", "tcg"]),
        "machine": st.sampled_from(["pc", "q35", "microvm", "pc-i440fx-7.2"]),
        "cpu": st.sampled_from(["max", "qemu64,+ssse3", "host"]),
        "cpus": st.integers(1, 4096),
        "memory": st.builds("{}{}".format, st.integers(1, 10**6), st.sampled_from("KMGT")),
        "user": st.sampled_from(["nobody", "1000"]),
        "disks": st.integers(0, 3).flatmap(lambda count: st.tuples(*map(disk_documents, range(count))).map(list)),
        "cdrom": hostile.map(lambda text: f"cdrom/{text}"),
        "serial": st.sampled_from(["stdio", "null", "none", "mon:stdio"]) | hostile.map(lambda text: f"file:s/{text}"),
        "qmp": st.just("none") | hostile.map(lambda text: f"unix:q/{text}"),
        "network": st.sampled_from(
            ["none", "user", {"type": "tap", "ifname": "tap0"}, {"type": "user", "hostfwd": ["tcp::2222-:22"]}]
        ),
        "host_devices": st.lists(
            st.sampled_from(["usb:046d:c52b", "usb:1-2.3", "usb:1/5", "pci:01:00.0", "pci:0000:01:00.0"]), max_size=3
        ),
        "input": st.lists(st.sampled_from(["tablet", "keyboard", "mouse"]), max_size=2),
        "sound": st.sampled_from(["ac97", "ich6", "ich9"]),
        "rng": hostile.map(lambda text: f"rng/{text}"),
        "balloon": st.booleans(),
        "vsock": st.integers(3, 0xFFFFFFFE),
        "memory_backing": st.sampled_from(["memfd", "hugepages"]),
        "qemu_args": st.lists(hostile, max_size=4),
        "confinement": st.sampled_from([str(one) for one in Confinement if one is not Confinement.NONE]),
        "require_domain": st.booleans(),
        "harden": st.booleans(),
        "core": st.booleans(),
        "seclabel": _seclabels(),
        "shares": _tags.flatmap(lambda tags: st.tuples(*map(share_documents, tags)).map(list)),
        "tpm": hostile.map(lambda text: {"state": f"tpm/{text}"}),
        "firmware": hostile.map(lambda text: f"fw/{text}"),
    }
    document: dict[str, Any] = {"name": draw(st.from_regex("[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True))}
    for key in draw(st.sets(st.sampled_from(sorted(optional)))):
        document[key] = draw(optional[key])
    if "network" not in document:
        document["networks"] = draw(st.lists(st.sampled_from([{"type": "user"}, {"type": "tap", "fd": 3}]), max_size=3))
    if "cdrom" in document and "seclabel" not in document:
        document["cdrom_seclabel"] = draw(st.sampled_from([{}, {"relabel": False}, {"label": "a:b:c:s0"}]))
    if draw(st.booleans()):
        document |= {"kernel": f"k/{draw(hostile)}", "cmdline": draw(hostile)}
        if draw(st.booleans()):
            document["initrd"] = f"i/{draw(hostile)}"
    if "firmware" in document and draw(st.booleans()):
        document["nvram"] = f"nv/{draw(hostile)}"
    seclabel = document.get("seclabel", {})
    if seclabel.get("type") == "none" or seclabel.get("relabel") is False:
        for disk in document.get("disks", []):  # a label of its own needs a VM that relabels
            if "label" in disk.get("seclabel", {}):
                del disk["seclabel"]
    return document
