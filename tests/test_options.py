"""The table of options: each has what its reader needs, and those of other versions of QEMU are in it."""

from __future__ import annotations

import pytest

from confined_qemu.model.errors import CommandLineError
from confined_qemu.read.qemu.options import OPTIONS, Kind
from confined_qemu.read.qemu.queries import FLAGS
from confined_qemu.read.qemu.reader import READERS, read

LATER = {"run-with", "perfmap", "jitdump", "shim"}
"""Options of 8.x to 10.x."""
EARLIER = {"no-kvm"}
"""Options that QEMU had before 7.2, and that clients still give."""


def test_options_of_other_versions_are_known() -> None:
    assert OPTIONS.keys() >= LATER | EARLIER


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


MARK = "/srv/mark"
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
