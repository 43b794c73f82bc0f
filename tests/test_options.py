"""The table of options against the installed QEMU, so that an option which is new there shows up here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.model.errors import CommandLineError
from confined_qemu.read.qemu.options import OPTIONS, Kind
from confined_qemu.read.qemu.queries import FLAGS
from confined_qemu.read.qemu.reader import read
from confined_qemu.read.qemu.special import READERS

if TYPE_CHECKING:
    from collections.abc import Iterator

QEMU = shutil.which("qemu-system-x86_64") or ""
needs_qemu = pytest.mark.skipif(not QEMU, reason="qemu-system-x86_64 is not installed")

_LATER = {"run-with", "perfmap", "jitdump", "shim"}
"""Options of 8.x to 10.x."""
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
MARK = "/srv/mark"
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


@pytest.mark.touches_host
@needs_qemu
def test_every_member_of_the_schema_that_may_be_a_file_is_known() -> None:
    """A new option of a newer QEMU shows up here: a file of the plan, or one more harmless word."""
    schema = _schema()
    entries = {option: (name, kind) for option, (name, kind) in _ENTRIES.items() if name in schema}
    values = [(option, one) for option, (name, kind) in entries.items() for one in _strings(schema, schema[name][kind])]
    suspicious = [(option, one) for option, one in values if _SUSPICIOUS.search(_member(one)[1])]
    assert {"filename", "logfile", "mem-path", "rendernode", "sock"} <= {_member(one)[1] for _, one in suspicious}
    assert [(option, json.dumps(one)) for option, one in suspicious if not _is_known(option, one)] == []


LATER_KEYS = {
    # some of QEMU 8.0 to 10.1, as a person types them; every key of 7.2, 10.0 and 10.2 is in `test_qemu_keys`
    "-accel kvm,device={}": "9.0",
    "-accel kvm,rapl=on,rapl-helper-socket={}": "9.1",
    "-blockdev io_uring,filename={},node-name=n": "8.1",
    "-blockdev nvme-io_uring,path={},node-name=n": "8.1",
    "-blockdev virtio-blk-vhost-user,path={},node-name=n": "8.1",
    "-blockdev virtio-blk-vhost-vdpa,path={},node-name=n": "8.1",
    "-blockdev luks,file.driver=file,file.filename=x,header.driver=file,header.filename={}": "9.0",
    "-chardev file,id=c,path=x,input-path={}": "8.1",
    "-chardev pty,id=c,path={}": "9.2",
    "-device vhost-vdpa-device-pci,vhostdev={}": "8.0",
    "-device virtio-gpu-rutabaga,wayland-socket-path={}": "8.2",
    "-device uefi-vars-x64,jsonfile={}": "10.0",
    "-device cxl-type3,cdat={}": "8.1",
    "-incoming file:{}": "8.2",
    "-netdev passt,id=n,path={}": "10.1",
    "-netdev af-xdp,id=n,ifname=e,map-path={}": "10.1",
    "-object sev-snp-guest,id=s,sev-device={}": "9.1",
    "-object igvm-cfg,id=i,file={}": "10.1",
    "-object tdx-guest,id=t,quote-generation-socket.type=unix,quote-generation-socket.path={}": "10.1",
    "-run-with chroot={}": "8.1",
    "-shim {}": "9.1",
}
"""What later versions than this machine's added that names a file, and the version."""


@pytest.mark.parametrize("line", LATER_KEYS)
def test_a_later_versions_files_are_found_or_refused(line: str) -> None:
    said = ""
    try:
        found = read("qemu", line.format(MARK).split())
        said = " ".join([*(one.path for one in found.resources), *(one.path for one in found.listeners)])
    except CommandLineError as error:
        said = str(error)
    assert MARK in said
