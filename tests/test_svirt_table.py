"""What is labelled how: every use of a file that a command line can name has its rule, and a path cannot hide one."""

from __future__ import annotations

import posixpath
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.model import hostpaths, labelrules
from confined_qemu.model.facts import FileKind
from confined_qemu.model.labelrules import TABLE, End, Place
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.read.qemu.options import OPTIONS
from tests.strategies import hostile, stray

USES = sorted(
    {(use.role, use.access) for option in OPTIONS.values() for use in (option.use, *option.keys.values()) if use}
)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what)
def test_each_row_says_what_why_and_who_says_so(row: labelrules.Row) -> None:
    for text in (row.what, row.why, row.source):
        assert text
        assert not text.endswith(".")
        assert "|" not in text
    assert (row.end is End.NOTHING) is (row.sharing is Sharing.UNLABELLED)
    assert (row.end is End.STAYS) is (row.sharing is Sharing.SHARED)


def test_no_row_is_hidden_by_another() -> None:
    for row in TABLE:
        asked = [
            (role, access, place, kind)
            for role in row.roles
            for access in row.accesses
            for place in row.places
            for kind in row.kinds
        ]
        assert any(
            labelrules.row(role, access, place, shareable=row.shareable, kind=kind) is row
            for role, access, place, kind in asked
        ), row.what


@pytest.mark.parametrize("place", Place)
def test_each_use_has_a_rule(place: Place) -> None:
    for role, access in USES:
        directory_in_dev = access is Access.DIRECTORY and place is Place.DEVICE
        assert labelrules.row(role, access, place) is not None or directory_in_dev


@pytest.mark.parametrize("place", [Place.DESCRIPTOR, Place.KERNEL])
def test_what_is_every_processs_is_never_relabelled(place: Place) -> None:
    for role, access in product(Role, Access):
        assert labelrules.sharing(role, access, place, shareable=True) is Sharing.UNLABELLED


@pytest.mark.parametrize("place", sorted(set(Place) - {Place.OWN_DEVICE}))
def test_no_other_role_relabels_a_character_device(place: Place) -> None:
    for role, access in product(set(Role) - labelrules.OWN_DEVICES - {Role.EXTRA, Role.MEMORY}, Access):
        assert FileKind.CHARACTER not in labelrules.kinds(role, access, place)


@pytest.mark.parametrize("access", Access)
def test_a_device_of_one_vm_is_private_whatever_it_is_used_for_and_a_shared_one_never(access: Access) -> None:
    for role in Role:
        own = labelrules.row(role, access, Place.OWN_DEVICE, kind=FileKind.CHARACTER)
        shared = labelrules.row(role, access, Place.SHARED_DEVICE, kind=FileKind.CHARACTER)
        assert own is not None
        assert own.sharing is Sharing.PRIVATE
        assert shared is not None
        assert shared.sharing is Sharing.UNLABELLED


# ---- places

PLACES = {
    "/dev/sda": Place.DEVICE,
    "/dev/../dev/sda": Place.DEVICE,
    "//dev//./sda": Place.DEVICE,
    "/srv/../dev/sda": Place.DEVICE,
    "/dev/mqueue/x": Place.ELSEWHERE,
    **dict.fromkeys(
        (
            "/dev/dax0.0",
            "/dev/kvmfr0",
            "/dev/hidraw3",
            "/dev/sg1",
            "/dev/bsg/0:0:0:0",
            "/dev/ng0n1",
            "/dev/tpmrm0",
            "/dev/bus/usb/001/002",
            "/dev/input/event7",
            "/dev/vfio/12",
            "/dev/vfio/noiommu-3",
            "/dev/vfio/devices/vfio0",
            "/dev/vhost-vdpa-0",
            "/dev/tap7",
            "/dev/uio0",
        ),
        Place.OWN_DEVICE,
    ),
    **dict.fromkeys(
        (
            "/dev/net/tun",
            "/dev/vhost-net",
            "/dev/vhost-vsock",
            "/dev/vhost-scsi",
            "/dev/vfio/vfio",
            "/dev/iommu",
            "/dev/sgx_vepc",
            "/dev/sgx_provision",
            "/dev/sev",
            "/dev/udmabuf",
            "/dev/dri/renderD128",
            "/dev/snd/controlC0",
            "/dev/dsp",
            "/dev/dsp1",
            "/dev/kvm",
            "/dev/pts/3",
            "/dev/hwrng",
        ),
        Place.SHARED_DEVICE,
    ),
    **dict.fromkeys(("/dev/sgx", "/dev/input", "/dev/ttyS0", "/dev/daxes", "/dev/vhost", "/dev/fuse"), Place.DEVICE),
    "/dev/mqueue/../sda": Place.DEVICE,
    "/dev/hugepages": Place.ELSEWHERE,
    "/dev/./null": Place.KERNEL,
    "/dev/sda/../null": Place.KERNEL,
    "/sys/x": Place.KERNEL,
    "/dev/fd/../sda": Place.DEVICE,
    "/dev/fd/3": Place.DESCRIPTOR,
    "/proc/self/fd/3": Place.DESCRIPTOR,
    "/usr/share/x": Place.SYSTEM,
    "/usr/../home/x": Place.ELSEWHERE,
    "/device": Place.ELSEWHERE,
    "dev/sda": Place.ELSEWHERE,
}


@pytest.mark.parametrize("path", PLACES)
def test_places(path: str) -> None:
    assert hostpaths.place(path) is PLACES[path]


PARTS = st.lists(st.sampled_from(["..", ".", "", "dev", "sda", "srv", "usr", "proc", "fd", "3", "null", "shm"]))


@given(PARTS.map(lambda parts: "/" + "/".join(parts)))
def test_a_roundabout_path_leads_where_its_plain_form_does(path: str) -> None:
    plain = posixpath.normpath(path)
    assert hostpaths.place(path) is hostpaths.place(plain[1:] if plain.startswith("//") else plain)


@given(hostile | stray, st.sampled_from(list(Role)), st.sampled_from(list(Access)))
def test_no_text_breaks_it_or_makes_a_device_of_what_is_none(path: str, role: Role, access: Access) -> None:
    found = hostpaths.resource(path, role, access, "test")
    assert found is None or found.path == path
    if found is not None and hostpaths.place(path) is Place.KERNEL:
        assert found.sharing is Sharing.UNLABELLED


# ---- what the file turned out to be


@pytest.mark.parametrize(
    ("asked", "real", "kind", "sharing"),
    [
        (("/srv/x", Role.DISK, Access.READ_WRITE), "/dev/sda", FileKind.BLOCK, Sharing.PRIVATE),
        (("/srv/x", Role.LOG, Access.CREATE), "/dev/ttyS0", FileKind.CHARACTER, Sharing.UNLABELLED),
        (("/srv/x", Role.LOG, Access.CREATE), "/dev/null", FileKind.CHARACTER, Sharing.UNLABELLED),
        (("/srv/x", Role.KERNEL, Access.READ), "/usr/k", FileKind.REGULAR, Sharing.UNLABELLED),
        (("/dev/x", Role.LOG, Access.CREATE), "/srv/x", FileKind.REGULAR, Sharing.PRIVATE),
        (("/dev/my-kbd", Role.EVDEV, Access.READ_WRITE), "/dev/input/event3", FileKind.CHARACTER, Sharing.PRIVATE),
        (("/dev/my-kbd", Role.EVDEV, Access.READ_WRITE), "/dev/null", FileKind.CHARACTER, Sharing.UNLABELLED),
        (("/dev/tun", Role.HOST_DEVICE, Access.READ_WRITE), "/srv/tun", FileKind.CHARACTER, Sharing.UNLABELLED),
        (("/sys/bus/x/iommu_group", Role.VFIO, Access.READ_WRITE), "/dev/vfio/7", FileKind.CHARACTER, Sharing.PRIVATE),
        (("/proc/self/fd/3", Role.LOG, Access.CREATE), "/srv/x", FileKind.REGULAR, Sharing.UNLABELLED),
        (("/srv/x", Role.DISK, Access.READ), "/dev/sg1", FileKind.CHARACTER, Sharing.PRIVATE),
        (("/dev/usbkey", Role.EXTRA, Access.READ_WRITE), "/dev/bus/usb/001/002", FileKind.CHARACTER, Sharing.PRIVATE),
        (("/dev/ttyUSB0", Role.EXTRA, Access.READ_WRITE), "/dev/ttyUSB0", FileKind.CHARACTER, Sharing.PRIVATE),
        (("/dev/net/tun", Role.EXTRA, Access.READ_WRITE), "/dev/net/tun", FileKind.CHARACTER, Sharing.UNLABELLED),
        (("/srv/dax", Role.MEMORY, Access.READ_WRITE), "/dev/dax0.0", FileKind.CHARACTER, Sharing.PRIVATE),
        (
            ("/sys/bus/usb/devices/port=1", Role.USB, Access.READ_WRITE),
            "/dev/bus/usb/001/002",
            FileKind.CHARACTER,
            Sharing.PRIVATE,
        ),
        (("/mnt/huge", Role.MEMORY, Access.CREATE), "/mnt/huge", FileKind.DIRECTORY, Sharing.UNLABELLED),
        (("/mnt/huge", Role.MEMORY, Access.CREATE), "/mnt/huge", FileKind.REGULAR, Sharing.PRIVATE),
        (("/srv/x", Role.MEMORY, Access.CREATE), "/srv/x", FileKind.MISSING, Sharing.PRIVATE),
    ],
)
def test_settled(asked: tuple[str, Role, Access], real: str, kind: FileKind, sharing: Sharing) -> None:
    found = hostpaths.resource(*asked, "test")
    assert found is not None
    assert hostpaths.settled(found, real, kind).sharing is sharing


def test_a_sharing_of_the_callers_own_stays() -> None:
    asked = Resource("/srv/x", Role.DISK, Access.READ_WRITE, Sharing.UNLABELLED, "test")
    assert hostpaths.settled(asked, "/dev/sda", FileKind.BLOCK) is asked
