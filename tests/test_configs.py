"""Configuration files (`-readconfig`) and `-set`: read as QEMU reads them, and written out where a socket needs it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from confined_qemu.launch import inputs
from confined_qemu.model.errors import CommandLineError, HostError
from confined_qemu.model.invocation import Accel, Invocation
from confined_qemu.read.qemu import configs
from confined_qemu.read.qemu.configs import DEFAULT, OPTION_OF, ConfigGroup, parse
from confined_qemu.read.qemu.options import OPTIONS
from confined_qemu.read.qemu.reader import read
from confined_qemu.read.settings import Settings, UnknownOptions
from confined_qemu.read.spec.devices import Char
from confined_qemu.read.spec.render import invocation
from confined_qemu.read.spec.vm import VM
from tests.messages import is_message

if TYPE_CHECKING:
    from pathlib import Path

QEMU = "qemu-system-x86_64"
SPAWNED = """\
# as systemd-vmspawn writes one
[machine]
  type = "q35"
  accel = "kvm"
  memory-backend = "mem"

[smp-opts]
  cpus = "2"

[memory]
  size = "2G"

[object "mem"]
  qom-type = "memory-backend-memfd"
  size = "2G"

[object "rng0"]
  qom-type = "rng-random"
  filename = "/dev/urandom"

[device "rng-device0"]
  driver = "virtio-rng-pci"
  rng = "rng0"

[drive "ovmf-code"]
  if = "pflash"
  format = "raw"
  file = "/usr/share/OVMF/OVMF_CODE.fd"
  readonly = "on"

[drive "ovmf-vars"]
  if = "pflash"
  format = "raw"
  file = "vars, of it.fd"

[drive "root"]
  if = "none"
  format = "raw"
  file = "root.img"

[device "disk"]
  driver = "virtio-blk-pci"
  drive = "root"

[chardev "console"]
  backend = "stdio"
  mux = "on"
  signal = "off"
  logfile = "console.log"

[mon "hmp"]
  chardev = "console"
"""


def with_files(line: str, **files: str) -> Invocation:
    """Read a command line; `files` are configuration files by name."""
    return read(QEMU, line.split(), config=files.get)


def paths(invocation: Invocation) -> list[str]:
    return [f"{found.path} {found.role} {found.access}" for found in invocation.resources]


def test_a_file_as_a_launcher_of_vms_writes_it() -> None:
    invocation = with_files("-nodefaults -readconfig vm.cfg -kernel k", **{"vm.cfg": SPAWNED})
    assert sorted(paths(invocation)) == [
        "/dev/urandom host_device ro",
        "/usr/share/OVMF/OVMF_CODE.fd firmware ro",
        "console.log log create",
        "k kernel ro",
        "root.img disk rw",
        "vars, of it.fd nvram rw",
        "vm.cfg config ro",
    ]
    assert invocation.accel is Accel.KVM
    assert invocation.arguments == ("-nodefaults", "-readconfig", "vm.cfg", "-kernel", "k")
    assert invocation.given is None


LINES = {
    '[drive "a]b"]\nfile = "x"': [ConfigGroup("drive", 1, "id=a]b,file=x")],
    '\n# c\n[machine]\n\tsmp.cpus\t=  "4"  junk': [ConfigGroup("machine", 3, "smp.cpus=4")],
    '[a]\n[b "c"]\nk ="v,w"\nk = ""': [ConfigGroup("a", 1, ""), ConfigGroup("b", 2, "id=c,k=")],
    '[a]\nk = "{[#"\r\n': [ConfigGroup("a", 1, "k={[#")],
    "": [],
    "# x": [],
    '[a]\nk = "v"': [ConfigGroup("a", 1, "k=v")],
}


@pytest.mark.parametrize("text", LINES)
def test_lines(text: str) -> None:
    assert list(parse(text, "f")) == LINES[text]


WRONG = {
    '[a]\nk="v"': "f:2: not a key",
    "[a]\nk = v": "f:2: not a key",
    '[a]\nk = "v': "f:2: not a key",
    'k = "v"': "f:1: a key before the first",
    "[a": "f:1: not a group",
    '[a "b" "c"]': "f:1: not a group",
    "[a]\n \n": "f:2: not a key",
    '[a]\nk = "' + "v" * 1020 + '"': "f:2: NUL, or a line of 1023 bytes",
    '[a]\nk = "\0"': "f:2: NUL, or a line",
    '[a]\nk,b = "x"': "f:2: not a key",
    '[a "' + "i" * 64 + '"]': "f:1: not a group",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_qemu_would_read_otherwise_than_it_looks_is_refused(text: str) -> None:
    with pytest.raises(CommandLineError) as caught:
        parse(text, "f")
    assert str(caught.value).startswith(WRONG[text])
    assert is_message(str(caught.value))


def test_a_group_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(CommandLineError, match=r"^f:2: unknown group 'new'"):
        with_files("-readconfig f", f="\n[new]\n")
    for option in OPTION_OF.values():
        assert option in OPTIONS


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(CommandLineError, match=r"^f: no such file"):
        with_files("-readconfig f")


@given(st.text() | st.lists(st.sampled_from(["[", "]", '"', "=", " ", "\n", "a", "drive", "\0", "é"])).map("".join))
@example("[drive]\n" * 10_000)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    refusal = ""
    try:
        assert len(parse(text, "f")) <= text.count("[")
    except CommandLineError as error:
        refusal = str(error)
    assert refusal == "" or is_message(refusal)


def test_a_socket_in_a_file_is_made_by_the_launcher_so_the_file_is_written_out() -> None:
    text = '[chardev "c"]\nbackend = "socket"\npath = "a,b"\nserver = "on"\n[machine]\ntype = "q35"\n'
    invocation = with_files("-S -readconfig f -m 64", f=text)
    assert invocation.arguments == (
        "-S", "-chardev", "id=c,backend=socket,fd={c},server=on", "-machine", "type=q35", "-m", "64",
    )  # fmt: skip
    [listener] = invocation.listeners
    assert (listener.path, listener.index) == ("a,b", 2)
    assert invocation.resources == ()
    assert invocation.given == ("-S", "-readconfig", "f", "-m", "64")


def test_qemus_own_file_is_read_first_and_without_being_asked() -> None:
    files = {DEFAULT: '[drive "d"]\nfile = "x"\n'}
    assert paths(with_files("-kernel k", **files)) == ["/etc/qemu/qemu.conf config ro", "x disk rw", "k kernel ro"]
    assert with_files("-kernel k", **files).arguments == ("-kernel", "k")
    assert paths(with_files("-kernel k -no-user-config", **files)) == ["k kernel ro"]
    files = {DEFAULT: '[chardev "c"]\nbackend = "socket"\npath = "p"\nserver = "on"\n'}
    found = with_files("-S", **files)
    assert found.arguments == ("-no-user-config", "-chardev", "id=c,backend=socket,fd={c},server=on", "-S")
    assert [one.index for one in found.listeners] == [2]


SETS = {
    "-drive id=d,file=a -set drive.d.file=b": ["b disk rw"],
    "-drive id=d,file=a -set drive.d.file=b -set drive.d.file=c": ["c disk rw"],
    "-drive id=d,file=a -set drive.d.readonly=on": ["a disk ro"],
    "-drive id=d,file=a -set drive.d.file.driver=blkdebug -set drive.d.file.config=x,y": ["a disk rw", "x,y config ro"],
    "-drive id=d -set drive.d.file=a,b=c": ["a,b=c disk rw"],
    "-chardev file,id=c,path=a -set chardev.c.path=b": ["b chardev create"],
    "-chardev null,id=c -set chardev.c.logfile=b": ["b log create"],
    "-device loader,id=l -set device.l.file=b": ["b kernel ro"],
    "-device x,id=l -set device.l.serial=/b": [],
    "-netdev user,id=n -set netdev.n.tftp=d": ["d share dir"],
    "-readconfig f -set drive.d.file=b": ["b disk rw", "f config ro"],
}


@pytest.mark.parametrize("line", SETS)
def test_what_set_changes_is_what_is_read(line: str) -> None:
    invocation = with_files(line, f='[drive "d"]\nfile = "a"\n')
    found = paths(invocation)
    assert [one for one in SETS[line] if one in found] == SETS[line]
    assert len(found) == len(SETS[line])
    assert invocation.arguments == tuple(line.split())


def test_a_set_that_a_rewritten_option_holds_is_not_said_twice() -> None:
    line = "-chardev socket,id=c,path=a -set chardev.c.server=on -set chardev.c.path=b -device x,id=d -set device.d.k=v"
    invocation = read(QEMU, line.split())
    assert invocation.arguments == (
        "-chardev", "socket,id=c,server=on,fd={c}", "-device", "x,id=d", "-set", "device.d.k=v",
    )  # fmt: skip
    assert [listener.path for listener in invocation.listeners] == ["b"]


WARNED = {
    "-frobnicate x -hda y": ("-frobnicate", "x"),
    "-frobnicate -hda y": ("-frobnicate",),
    "-device new-thing,image=/x -hda y": ("image=", "/x"),
    "-machine new=/x -hda y": ("new=", "/x"),
    "-blockdev raw,node-name=n,new=/x -hda y": ("new=", "/x"),
}


@pytest.mark.parametrize("line", WARNED)
def test_what_is_not_known_can_be_passed_on_with_a_warning(line: str) -> None:
    invocation = read(QEMU, line.split(), unknown=UnknownOptions.WARN)
    assert paths(invocation) == ["y disk rw"]
    assert invocation.arguments == tuple(line.split())
    [remark] = invocation.remarks
    assert all(word in remark for word in WARNED[line])
    with pytest.raises(CommandLineError, match="--unknown-options=warn"):
        read(QEMU, line.split())


def test_sockets_of_a_spec_keep_their_names() -> None:
    extra = ("-chardev", "socket,id=qmp,path=/other,server=on")
    vm = VM("vm", qmp=Char.parse("unix:/q"), qemu_args=extra)
    found = invocation(vm, "/", config={DEFAULT: "[nonsense]\n"}.get)
    assert [(one.name, one.path) for one in found.listeners] == [("qmp", "/q"), ("qmp-2", "/other")]


def test_the_setting_reaches_the_reader() -> None:
    lenient = Settings(unknown_options=UnknownOptions.WARN)
    assert inputs.from_arguments(QEMU, ["-frobnicate"], settings=lenient).remarks
    with pytest.raises(CommandLineError):
        inputs.from_arguments(QEMU, ["-frobnicate"], settings=Settings())


# ---- the file on the host


@pytest.mark.touches_host
def test_files_that_cannot_be_read_twice_or_at_all(tmp_path: Path) -> None:
    good, big, pipe = tmp_path / "good", tmp_path / "big", tmp_path / "pipe"
    good.write_bytes(b'[drive "d"]\nfile = "\xff"\n')
    big.write_bytes(b"\n" * (configs.LARGEST + 1))
    os.mkfifo(pipe)
    assert paths(inputs.from_arguments(QEMU, ["-readconfig", str(good)]))[1] == "\udcff disk rw"
    for path, words in ((big, "larger than"), (pipe, "not a regular file"), (tmp_path, "cannot be read")):
        with pytest.raises(HostError, match=words):
            inputs.from_arguments(QEMU, ["-readconfig", str(path)])
