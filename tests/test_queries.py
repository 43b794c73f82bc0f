"""Which command lines start no VM: a mistake in one direction is slow, in the other it is a VM without labels."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.read.qemu.options import OPTIONS, Kind
from confined_qemu.read.qemu.queries import is_query, walk
from confined_qemu.read.qemu.reader import read

QUERIES = """
-version
--version
-h
--help
-hda disk.img -help
-audio-help
-M help
-M ?
-machine pc,help
-M none -accel help
-accel accel=help,thread=single
-M none -netdev help
-netdev type=help
-netdev help,id=x
-cpu help
-cpu ?
-device help
-device ?
-device driver=help
-device e1000,help
-device e1000,?
-display none -S -device ?
-object help
-object memory-backend-file,help
-chardev help
-chardev backend=?
-audiodev help
-audio model=help
-audio none,model=help
-display help
-vga help
-d help
-trace help
-trace enable=help
-drive format=help
-drive file=x,format=?
-drive format=raw,format=help
-L help
-tpmdev help
-action help
-add-fd ?
-audio help
-blockdev help
-boot ?
-compat help
-global help
-iscsi ?
-msg help
-nic help
-overcommit ?
-rtc help
-smbios help
-smp ?
-spice help
-vnc help
""".strip().splitlines()

VMS = """

-S
disk.img
help
-hda help
-append -version
-append help
-name --help
-kernel -h
-k help
-machine type=help
-machine none,help=off
-M pc,accel=help
-cpu help,x
-accel kvm,help
-vga std,help
-drive file=help
-drive format=help,format=raw
-drive help
-device e1000,,help
-device e1000,foo=help
-device {"driver":"help"}
-netdev user,help
-nic help,x=y
-net help
-global help,x=y
-blockdev help,x=y
-smp 1,help
-serial help
-qmp help
-unknown -version
-M none,accel=kvm:tcg -qmp stdio
""".splitlines()[1:]


@pytest.mark.parametrize("line", QUERIES)
def test_queries(line: str) -> None:
    arguments = shlex.split(line)
    assert is_query(arguments)
    found = read("qemu-system-x86_64", arguments)
    assert found.query
    assert found.resources == ()
    assert found.arguments == tuple(arguments)


@pytest.mark.parametrize("line", VMS)
def test_not_queries(line: str) -> None:
    arguments = line.split(" ") if "{" in line else shlex.split(line)
    assert not is_query(arguments)


@pytest.mark.touches_host
def test_no_heavy_module_is_loaded() -> None:
    code = "import sys; before = set(sys.modules); import confined_qemu.read.qemu.queries as _\n"
    code += "print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {
        "re",
        "json",
        "dataclasses",
        "enum",
        "argparse",
        "confined_qemu.read.qemu.options",
    }
    assert "confined_qemu.read.qemu.queries" in done.stdout


@given(st.lists(st.sampled_from(sorted(f"-{name}" for name in OPTIONS)) | st.text(max_size=5), max_size=8))
def test_every_argument_is_an_option_or_the_value_of_the_one_before(arguments: list[str]) -> None:
    heard: list[str] = []
    for index, option, value in walk(arguments):
        assert index == len(heard)
        heard.append(arguments[index])
        if option is not None and value is not None:
            spec = OPTIONS.get(option)
            assert spec is None or spec.kind is not Kind.FLAG
            heard.append(value)
    assert heard == arguments
