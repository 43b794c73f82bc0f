"""Hostile command lines: each path that was put in is found again byte for byte, and nothing else happens to them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import assume, example, given
from hypothesis import strategies as st

from confined_qemu.model import hostpaths
from confined_qemu.model.commas import escape
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.invocation import Invocation
from confined_qemu.model.resource import Role
from confined_qemu.read.qemu.options import OPTIONS, Kind
from confined_qemu.read.qemu.queries import is_query
from confined_qemu.read.qemu.reader import read
from tests.strategies import hostile, paths

if TYPE_CHECKING:
    from collections.abc import Callable

QEMU = "qemu-system-x86_64"


class Way(NamedTuple):
    """One way to name a file. `put` returns the arguments; `fits` tells which paths can be written so."""

    role: Role
    put: Callable[[str], list[str]]
    fits: Callable[[str], bool] = bool


def _whole(option: str) -> Callable[[str], list[str]]:
    return lambda path: [f"-{option}", path]


def _keyed(option: str, before: str) -> Callable[[str], list[str]]:
    return lambda path: [f"-{option}", f"{before}{escape(path)}"]


def _json(option: str, before: str, document: Callable[[str], Any], *, twice: bool = False) -> Way:
    def put(path: str) -> list[str]:
        text = json.dumps(document(path), ensure_ascii=False)
        return [f"-{option}", before + (escape(text) if twice else text)]

    return Way(Role.DISK, put)


def _no_protocol(path: str) -> bool:
    return ":" not in path.partition("/")[0]


def _literal_ways() -> list[Way]:
    def fits(option: str) -> Callable[[str], bool]:
        match option:
            case "D":
                return lambda path: "%" not in path
            case _:
                return bool

    return [
        Way(option.use.role, _whole(name), fits(name))
        for name, option in OPTIONS.items()
        if option.kind is Kind.PATH and option.use is not None and name != "readconfig"
    ]


def _key_ways() -> list[Way]:
    ways = []
    for name, option in OPTIONS.items():
        for key, use in option.keys.items():
            if use.role is Role.VFIO:  # what is opened is found in sysfs
                continue
            driver, _, last = key.rpartition(":")
            before = f"{option.implied}={driver}," if driver and option.implied is not None else ""
            many = use.many
            fits: Callable[[str], bool] = bool
            if many is not None:
                fits = lambda path, many=many: many not in path  # type: ignore[misc] # noqa: E731 - bound now
            elif last.endswith("script"):
                fits = lambda path: path != "no"  # noqa: E731 - beside the others
            if name in {"fsdev", "virtfs"} and last == "path":
                before = f"{option.implied}=local,"
            ways.append(Way(use.role, _keyed(name, f"{before}{last}="), fits))
    return ways


_FILE = {"driver": "file"}
WAYS = [
    *_literal_ways(),
    *_key_ways(),
    *(
        Way(Role.FLOPPY if option in {"fda", "fdb"} else Role.DISK, _whole(option), _no_protocol)
        for option in ("hda", "hdb", "hdc", "hdd", "fda", "fdb", "sd", "mtdblock")
    ),
    Way(Role.CDROM, _whole("cdrom"), _no_protocol),
    Way(Role.NVRAM, _whole("pflash"), _no_protocol),
    Way(Role.DISK, lambda path: [path], lambda path: not path.startswith("-") and _no_protocol(path)),
    Way(Role.INITRD, _whole("initrd"), lambda path: "," not in path),
    Way(Role.DISK, _keyed("drive", "file="), _no_protocol),
    Way(Role.DISK, _keyed("drive", "file=file:")),
    Way(Role.DISK, _keyed("drive", "format=raw,if=none,id=x,file=host_device:")),
    Way(Role.DISK, _keyed("drive", "driver=raw,file.driver=file,file.filename=")),
    Way(Role.DISK, _keyed("drive", "driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename=")),
    Way(Role.BACKING, _keyed("drive", "file=x,format=qcow2,backing.driver=raw,backing.file.filename=")),
    Way(Role.DATA_FILE, _keyed("drive", "file=x,format=qcow2,data-file.driver=file,data-file.filename=")),
    Way(Role.CONFIG, _keyed("drive", "driver=blkdebug,image.driver=file,image.filename=x,config=")),
    Way(Role.DISK, _keyed("drive", "file=blkdebug:c:"), _no_protocol),
    Way(Role.DISK, _keyed("drive", "file=blkverify:r:"), _no_protocol),
    Way(Role.SHARE, _keyed("drive", "file=fat:rw:"), lambda path: ":" not in path),
    Way(Role.SHARE, _keyed("blockdev", "driver=vvfat,dir=")),
    Way(Role.SOCKET, _keyed("drive", "file=nbd:unix:"), lambda path: ":exportname=" not in path),
    Way(Role.SOCKET, _keyed("drive", "driver=nbd,server.type=unix,server.path=")),
    Way(Role.DISK, _keyed("blockdev", "driver=file,node-name=n,filename=")),
    Way(Role.DISK, _keyed("blockdev", "qcow2,file.driver=file,file.filename=")),
    _json("blockdev", "", lambda path: {"driver": "raw", "file": _FILE | {"filename": path}}),
    _json("blockdev", "", lambda path: {"driver": "quorum", "children": [_FILE | {"filename": path}]}),
    _json("hda", "json:", lambda path: {"driver": "raw", "file": _FILE | {"filename": path}}),
    _json("drive", "file=json:", lambda path: {"driver": "raw", "file": _FILE | {"filename": path}}, twice=True),
    Way(Role.CHARDEV, _keyed("chardev", "file,id=c,path=")),
    Way(Role.LOG, _keyed("chardev", "null,id=c,logfile=")),
    Way(Role.SOCKET, _keyed("chardev", "socket,id=c,server=on,path=")),
    Way(Role.SOCKET, _keyed("chardev", "socket,id=c,path=")),
    Way(Role.CHARDEV, lambda path: ["-serial", f"file:{path}"]),
    Way(Role.CHARDEV, lambda path: ["-serial", f"mon:file:{path}"]),
    Way(Role.SOCKET, _keyed("qmp", "unix:"), lambda path: "=" not in path.partition(",")[0]),
    Way(Role.SOCKET, _keyed("vnc", "unix:"), lambda path: "=" not in path.partition(",")[0]),
    Way(Role.SOCKET, _keyed("vnc", "vnc=unix:")),
    Way(Role.SOCKET, _keyed("spice", "unix=on,addr=")),
    Way(Role.SOCKET, _keyed("netdev", "stream,id=n,server=on,addr.type=unix,addr.path=")),
    Way(Role.SOCKET, _keyed("netdev", "dgram,id=n,local.type=unix,local.path=")),
    Way(Role.SOCKET, lambda path: ["-incoming", f"unix:{path}"]),
    Way(Role.STATE, lambda path: ["-incoming", f"file:{path}"], lambda path: ",offset=" not in path),
    Way(Role.OPTION_ROM, lambda path: ["-global", f"virtio-net-pci.romfile={path}"]),
]


def found(invocation: Invocation) -> list[tuple[str, Role]]:
    return [(one.path, one.role) for one in invocation.resources] + [
        (one.path, Role.SOCKET) for one in invocation.listeners
    ]


@given(path=paths)
@example(path="a,b=c")
@example(path="../a,,b//c \n%d=\udcff ")
def test_a_path_is_found_as_it_was_put_in(path: str) -> None:
    assume(not hostpaths.descriptor_set(path))
    for way in WAYS:
        arguments = way.put(path)
        if way.fits(path) and not is_query(arguments):
            assert (path, way.role) in found(read(QEMU, arguments)), arguments


@given(picks=st.lists(st.tuples(st.sampled_from(WAYS), paths), min_size=2, max_size=8))
def test_many_options_do_not_disturb_each_other(picks: list[tuple[Way, str]]) -> None:
    arguments = [word for way, path in picks if way.fits(path) for word in way.put(path)]
    got = read(QEMU, arguments)
    if not got.listeners:
        assert got.arguments == tuple(arguments)
    for listener in got.listeners:
        assert got.arguments[listener.index] == f"{listener.before}{{{listener.name}}}{listener.after}"
    kept = [word for index, word in enumerate(got.arguments) if index not in {one.index for one in got.listeners}]
    # what stays is in order, and nothing is put in but the character device of an old option
    rest = iter(arguments)
    added = {"-chardev", "-mon", *(f"chardev:{one.name}" for one in got.listeners)}
    assert all(word in rest or word in added for word in kept if word not in added)


_WORDS = st.one_of(
    st.sampled_from([f"-{name}" for name in OPTIONS] + ["--", "-", "-no-such-option", ""]),
    hostile,
    paths,
    st.builds(
        "{}{}".format,
        st.sampled_from(
            [
                "file=",
                "driver=",
                "json:",
                "{",
                '{"driver":"raw","file":',
                "fat:",
                "nbd:unix:",
                "blkdebug:",
                "rbd:p/i:conf=",
                "socket,path=",
                "unix:",
                "file:",
                "mon:",
                "user,guestfwd=tcp:1.2.3.4:5-",
                "memory-backend-file,mem-path=",
                "[",
                "node-name=x,file=",
                "children.0.",
                "backing=",
                "vnc=unix:",
                "gluster+unix://h/v?socket=",
            ]
        ),
        hostile,
    ),
)


@given(arguments=st.lists(_WORDS, max_size=12))
def test_nothing_but_a_command_line_error(arguments: list[str]) -> None:
    try:
        got = read(QEMU, arguments)
    except CommandLineError:
        return
    if not got.listeners:
        assert got.arguments == tuple(arguments)
    assert all(one.path != "" for one in got.resources)


@given(depth=st.integers(1, 200), path=hostile)
@example(depth=3000, path="a")
@example(depth=100_000, path="a")
def test_nodes_in_nodes_end(depth: int, path: str) -> None:
    text = '{"driver":"raw","file":' * depth + json.dumps({"driver": "file", "filename": path}) + "}" * depth
    try:
        got = read(QEMU, ["-blockdev", text])
    except CommandLineError:
        assert depth > 20
    else:
        assert [one.path for one in got.resources] == [path]
    dotted = "".join(["file."] * depth)
    try:
        got = read(QEMU, ["-drive", f"driver=raw,{dotted}filename={escape(path)}"])
    except CommandLineError:
        assert depth > 20


def _many(count: int) -> list[str]:
    kinds: list[Callable[[int], list[str]]] = [
        lambda n: ["-drive", f"file=/srv/{n},,x.img,format=raw,if=none,id=d{n}"],
        lambda n: ["-device", f"virtio-blk-pci,drive=d{n}"],
        lambda n: ["-blockdev", f"driver=file,filename=/srv/{n},node-name=n{n}"],
        lambda n: ["-blockdev", f"driver=raw,file=n{n - 1},node-name=r{n}"],
        lambda n: ["-chardev", f"socket,id=confined-serial{n},path=/run/{n},server=on,wait=off"],
        lambda n: ["-serial", f"unix:/run/s{n},server,nowait"],
        lambda n: ["-fw_cfg", f"name=opt/{n},file=/srv/{n}"],
        lambda n: ["-kernel", f"/boot/{n}"],
        lambda n: ["-global", f"virtio-net-pci.romfile=/srv/{n}"],
        lambda n: [f"/srv/{n}.img"],
    ]
    return [word for n in range(count) for word in kinds[n % len(kinds)](n)]


def _operations(arguments: list[str]) -> int:
    """Return how many calls it takes to read them."""
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(step)
    try:
        read(QEMU, arguments)
    finally:
        sys.setprofile(before)
    return count


def test_ten_thousand_options_take_ten_times_the_work_of_a_thousand() -> None:
    few, many = _many(1000), _many(10_000)
    assert len(read(QEMU, many).resources) > 5000
    assert _operations(many) < 11 * _operations(few)
