"""The tables of QEMU's options, and what is written for QEMU, against the QEMU that is installed.

An option, a key or a device that is new there shows up here.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.model.commas import escape
from confined_qemu.model.errors import CommandLineError
from confined_qemu.read.qemu.configs import OPTION_OF, parse
from confined_qemu.read.qemu.options import OPTIONS, Kind
from confined_qemu.read.qemu.queries import FLAGS
from confined_qemu.read.qemu.reader import read
from tests.test_options import EARLIER, LATER, MARK
from tests.test_qemu_keys import known
from tests.test_queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QEMU = "qemu-system-x86_64"


def ask(*arguments: str) -> str:
    done = subprocess.run([QEMU, *arguments], capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


def test_every_option_that_qemu_prints_is_in_the_table() -> None:
    printed = {
        name
        for line in ask("-help").splitlines()
        if (found := re.match(r"--?([A-Za-z][\w-]*(?:(?:/| or )-[\w-]+)*)", line))
        for name in re.split(r"(?:/| or )-", found[1])
    }
    assert {"hda", "hdb", "h", "help", "preconfig", "drive", "object"} <= printed
    assert printed - OPTIONS.keys() == set()


def test_the_table_knows_which_options_take_a_value() -> None:
    def takes_value(name: str) -> bool | None:
        # QEMU looks at every option's name before it looks at any value (`lookup_opt`)
        said = ask(f"-{name}") if name not in FLAGS else ask(f"-{name}", "-not-an-option")
        if "requires an argument" in said:
            return True
        return None if f"-{name}: invalid option" in said else False

    names = sorted(OPTIONS.keys() - LATER - EARLIER)
    with ThreadPoolExecutor() as pool:
        answers = dict(zip(names, pool.map(takes_value, names), strict=True))
    assert answers == {name: OPTIONS[name].kind is not Kind.FLAG for name in names}


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


# ---- the schema of QMP: what `-object`, `-netdev`, `-chardev`, `-blockdev`, `-display` and `-audiodev` take

_SUSPICIOUS = re.compile(
    r"file|path|dir$|sock|dev|log|conf|script|helper|key|tftp|smb|rendernode|addr|server|^(in|out)$"
)
_HARMLESS = {
    "blockdev": "gluster:path key-secret nfs:path nvme:device ssh:path",
    "chardev": "chardev udp:path",
    "display": "addr audiodev",
    "netdev": "addr bootfile chardev devname localaddr macaddr netdev smbserver tftp-server-name",
    "object": "addr chardev devid indev input-barrier:server keyid netdev notify_dev outdev x-vfio-user-server:device",
}
"""Members that are named like files and are none: ids, addresses, names on a server. A D-Bus address (`addr`) is taken
apart before it is one; what stands alone is refused as soon as it looks like a path, so that nothing is missed."""
_ENTRIES = {
    "blockdev": ("blockdev-add", "arg-type"),
    "chardev": ("chardev-add", "arg-type"),
    "netdev": ("netdev_add", "arg-type"),
    "object": ("object-add", "arg-type"),
    "display": ("query-display-options", "ret-type"),
    "audiodev": ("query-audiodevs", "ret-type"),
}
"""The commands whose arguments, or answers, have the option's type; not every QEMU has each."""


def _schema() -> dict[str, dict[str, Any]]:
    commands: list[dict[str, Any]] = [{"execute": "qmp_capabilities"}, {"execute": "query-qmp-schema"}]
    with subprocess.Popen(
        [QEMU, "-M", "none", "-display", "none", "-nodefaults", "-S", "-qmp", "stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write("".join(json.dumps(command) + "\n" for command in commands))
        qemu.stdin.flush()
        # not `quit` with the rest: it may end QEMU before the long answer is out
        answers = (json.loads(line) for line in qemu.stdout)
        found = next({item["name"]: item for item in one["return"]} for one in answers if one.get("return"))
        qemu.kill()
    return found


def _strings(schema: dict[str, dict[str, Any]], name: str, above: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield an object for each member of type str, at any depth, with MARK in it and the variants that lead there."""
    found = schema[name]
    if name in above:
        return
    inside = (*above, name)
    if found["meta-type"] == "array":
        yield from _strings(schema, found["element-type"], above)
    for member in found.get("members", ()) if found["meta-type"] != "enum" else ():
        if found["meta-type"] == "alternate":
            yield from _strings(schema, member["type"], inside)
        elif member["type"] == "str":
            yield {member["name"]: MARK}
        elif found["meta-type"] == "object":
            yield from ({member["name"]: one} for one in _strings(schema, member["type"], inside))
    for variant in found.get("variants", ()):
        yield from ({found["tag"]: variant["case"], **one} for one in _strings(schema, variant["type"], inside))


def _member(value: dict[str, Any], driver: str = "") -> tuple[str, str]:
    """Return the member that is MARK, and the innermost but one variant that it is in: a driver, a type of backend."""
    for key, inner in value.items():
        if inner == MARK:
            return driver, key
        if isinstance(inner, dict):
            outer = value.get("driver") or value.get("qom-type") or (value["type"] if "data" in value else "")
            return _member(inner, driver or outer or "")
    raise AssertionError(value)


def _is_known(option: str, value: dict[str, Any]) -> bool:
    driver, member = _member(value)
    driver = driver or value.get("driver") or value.get("qom-type") or value.get("type") or ""
    if {member, f"{driver}:{member}"} & set(_HARMLESS.get(option, "").split()):
        return True
    try:
        found = read("qemu", [f"-{option}", json.dumps(value)])
    except CommandLineError:
        return False
    paths = {one.path for one in found.resources} | {one.path for one in found.listeners}
    return any(path.startswith(MARK) for path in paths)


def test_every_member_of_the_schema_that_may_be_a_file_is_known() -> None:
    """A new option of a newer QEMU shows up here: a file of the plan, or one more harmless word."""
    schema = _schema()
    entries = {option: (name, kind) for option, (name, kind) in _ENTRIES.items() if name in schema}
    values = [(option, one) for option, (name, kind) in entries.items() for one in _strings(schema, schema[name][kind])]
    suspicious = [(option, one) for option, one in values if _SUSPICIOUS.search(_member(one)[1])]
    assert {"filename", "logfile", "mem-path", "rendernode", "sock"} <= {_member(one)[1] for _, one in suspicious}
    assert [(option, json.dumps(one)) for option, one in suspicious if not _is_known(option, one)] == []


# ---- keys, questions, lists and configuration files


def test_every_text_of_every_list_of_the_installed_qemu_is_known() -> None:
    """The same of what QEMU says of its own lists of keys (`query-command-line-options`)."""
    with subprocess.Popen(
        [QEMU, "-M", "none", "-display", "none", "-nodefaults", "-S", "-qmp", "stdio"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as qemu:  # fmt: skip
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write('{"execute": "qmp_capabilities"}{"execute": "query-command-line-options"}')
        qemu.stdin.flush()
        answer = next(one["return"] for one in map(json.loads, qemu.stdout) if one.get("return"))
        qemu.kill()
    lists = {one["option"]: one["parameters"] for one in answer}
    assert {"drive", "machine", "boot-opts"} <= lists.keys()
    texts = {key["name"] for keys in lists.values() for key in keys if key["type"] == "string"}
    assert texts - known("text") - known("property") == set()


@pytest.mark.parametrize("line", QUERIES)
def test_qemu_ends_by_itself_and_makes_no_machine(line: str) -> None:
    """The rule of the module: True is certain. A VM would sit there, paused, until the time is up."""
    words = ["-nodefaults", "-display", "none", "-S", *shlex.split(line)]
    done = subprocess.run([QEMU, *words], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20)
    assert done.stdout + done.stderr != b""
    assert done.returncode in {0, 1}


@pytest.mark.parametrize("name", ["a,b", ",a", "a,", ",,", "a,,,b", "a,format=qcow2", "a\nb", "a=b", "\udcff,\udcfe"])
def test_qemu_opens_the_file_that_was_meant(name: str, tmp_path: Path) -> None:
    image = tmp_path / name
    image.write_bytes(bytes(512))
    options = f"driver=raw,file.driver=file,file.filename={escape(str(image))}"
    command = ["qemu-img", "info", "--output=json", "--image-opts", options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("written_out", [False, True])
def test_qemu_takes_the_file_and_what_it_is_written_out_to(tmp_path: Path, *, written_out: bool) -> None:
    text = """\
[machine]
type = "q35"
[smp-opts]
cpus = "2"
[memory]
size = "64M"
[object "rng0"]
qom-type = "rng-random"
filename = "/dev/urandom"
[device "rng-device0"]
driver = "virtio-rng-pci"
rng = "rng0"
[drive "root"]
if = "none"
format = "raw"
file = "r,r.img"
[device "disk"]
driver = "virtio-blk-pci"
drive = "root"
[chardev "console"]
backend = "stdio"
logfile = "console.log"
[mon "hmp"]
chardev = "console"
"""
    (tmp_path / "r,r.img").write_bytes(bytes(4096))
    (tmp_path / "vm.cfg").write_text(text)
    arguments = ["-display", "none", "-S", "-readconfig", "vm.cfg"]
    if written_out:
        groups = parse(text, "vm.cfg")
        arguments[-2:] = [word for group in groups for word in (f"-{OPTION_OF[group.name]}", group.value)]
    done = subprocess.run(
        [QEMU, "-nodefaults", *arguments],
        input="info block\ninfo chardev\nquit\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "root (#block" in done.stdout
    assert "r,r.img (raw)" in done.stdout
