"""The table of options against the installed QEMU, so that an option which is new there shows up here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from confined_qemu.cmdline.options import OPTIONS, Kind
from confined_qemu.cmdline.own import READERS
from confined_qemu.cmdline.queries import FLAGS

QEMU = shutil.which("qemu-system-x86_64") or ""
needs_qemu = pytest.mark.skipif(not QEMU, reason="qemu-system-x86_64 is not installed")

_LATER = {"run-with", "perfmap", "jitdump"}
"""Options of 8.x and 9.x."""
_EARLIER = {"no-kvm"}
"""Options that QEMU had before 7.2, and that clients still give."""


def ask(*arguments: str) -> str:
    done = subprocess.run([QEMU, *arguments], capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


@pytest.mark.touches_host
@needs_qemu
def test_every_option_that_qemu_prints_is_in_the_table() -> None:
    printed = {
        name
        for line in ask("-help").splitlines()
        if (found := re.match(r"--?([A-Za-z][\w-]*(?:(?:/| or )-[\w-]+)*)", line))
        for name in re.split(r"(?:/| or )-", found[1])
    }
    assert {"hda", "hdb", "h", "help", "preconfig", "drive", "object"} <= printed
    assert printed - OPTIONS.keys() == set()


@pytest.mark.touches_host
@needs_qemu
def test_the_table_knows_which_options_take_a_value() -> None:
    def takes_value(name: str) -> bool | None:
        # QEMU looks at every option's name before it looks at any value (`lookup_opt`)
        said = ask(f"-{name}") if name not in FLAGS else ask(f"-{name}", "-not-an-option")
        if "requires an argument" in said:
            return True
        return None if f"-{name}: invalid option" in said else False

    names = sorted(OPTIONS.keys() - _LATER - _EARLIER)
    with ThreadPoolExecutor() as pool:
        answers = dict(zip(names, pool.map(takes_value, names), strict=True))
    assert answers == {name: OPTIONS[name].kind is not Kind.FLAG for name in names}


def test_options_of_other_versions_are_known() -> None:
    assert OPTIONS.keys() >= _LATER | _EARLIER


def test_each_kind_comes_with_what_its_reader_needs() -> None:
    for name, option in OPTIONS.items():
        assert (option.kind is Kind.FLAG) == (name in FLAGS), name
        assert (option.use is not None) == (option.kind is Kind.PATH), name
        assert (name in READERS) == (option.kind is Kind.OWN), name
        if option.kind is Kind.LIST:
            assert option.keys, name


def test_a_key_of_one_driver_names_a_list_that_has_drivers() -> None:
    for name, option in OPTIONS.items():
        if any(":" in key for key in option.keys):
            assert option.implied is not None, name


def _properties_of(names: list[str]) -> list[dict[str, Any]]:
    """Return the properties of these devices, as QEMU lists them.

    A QEMU whose modules come in several packages ends at a device whose parent is in one that is not installed
    ("missing object type"); that device cannot be used there either, and the question goes on behind it.
    """
    found: list[dict[str, Any]] = []
    while names:
        commands: list[dict[str, Any]] = [{"execute": "qmp_capabilities"}]
        commands += [{"execute": "device-list-properties", "arguments": {"typename": name}} for name in names]
        done = subprocess.run(
            [QEMU, "-M", "none", "-display", "none", "-nodefaults", "-S", "-qmp", "stdio"],
            input="\n".join(map(json.dumps, [*commands, {"execute": "quit"}])),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        answers = [line for line in lines if "return" in line or "error" in line][1:]
        found += [item for answer in answers if isinstance(answer.get("return"), list) for item in answer["return"]]
        if done.returncode == 0:
            break
        assert "missing object type" in done.stderr
        names = names[len(answers) + 1 :]
    return found


@pytest.mark.touches_host
@needs_qemu
def test_every_file_property_of_every_device_is_known() -> None:
    """Properties of type str whose names say that they are files, as QEMU itself lists them."""
    names = re.findall(r'name "([^"]+)"', ask("-device", "help"))
    assert "virtio-blk-pci" in names
    found = {
        item["name"]
        for item in _properties_of(names)
        if item["type"] == "str" and not re.match("(ID|Node name) ", item.get("description", ""))
    }
    suspicious = {name for name in found if re.search(r"file|path|dir$|hidraw|evdev|pcap|cdat|sysfs", name)}
    assert {"romfile", "rootdir", "sysfsdev"} <= suspicious
    known = {key.rpartition(":")[2] for key in OPTIONS["device"].keys}
    assert suspicious - known == set()
