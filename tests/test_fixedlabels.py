"""Files that cannot be labelled where they lie, and folders that can be made places for images."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.host import mounts
from confined_qemu.model import policynames
from confined_qemu.model.context import Context
from confined_qemu.model.facts import FileFacts, FileKind, Mount
from confined_qemu.model.invocation import Invocation, Seclabel
from confined_qemu.model.plan import Outcome
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.model.steps import Relabel
from confined_qemu.plan import fixedlabels, places
from confined_qemu.plan.files import FilePlanner, Wanted
from tests.fakes import DEBIAN, Policy
from tests.strategies import hostile, stray
from tests.worlds import PAIR, World

PROCESS = DEBIAN.kvm.at(PAIR.level())
NFS = "system_u:object_r:nfs_t:s0"
ON_NFS = {"type": "nfs4", "target": "/mnt/nfs", "source": "server:/vms", "labels": False}
DENIED = [["svirt_t", "nfs_t", "file", "open read write"]]
IMAGE = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")

# ---- /proc/self/mountinfo

TABLE = (
    "22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw,seclabel\n"
    "119 22 0:36 / /mnt/a\\040b\\012c\\134 rw,relatime shared:56 - nfs4 127.0.0.1:/ rw,vers=4.2\n"
    "120 22 254:0 /srv /mnt/bound ro,relatime shared:57 master:3 - ext4 /dev/vda rw,seclabel\n"
    '121 22 0:40 / /mnt/ctx rw - tmpfs none ro,context="system_u:object_r:svirt_image_t:s0:c1,c2",size=1k\n'
    "122 22 0:41 /deep /mnt/deep rw - nfs4 server:/vms/deep rw\n"
    "123 22 0:42 / /mnt/x rw\n"
)


@pytest.mark.parametrize(
    ("number", "mount"),
    [
        (22, Mount("ext4", "/", "/dev/vda", labels=True)),
        (119, Mount("nfs4", "/mnt/a b\nc\\", "127.0.0.1:/", labels=False)),
        (120, Mount("ext4", "/mnt/bound", "/dev/vda", labels=True, read_only=True, whole=False)),
        (
            121,
            Mount(
                "tmpfs",
                "/mnt/ctx",
                "none",
                labels=False,
                read_only=True,
                context="system_u:object_r:svirt_image_t:s0:c1,c2",
            ),
        ),
        (122, Mount("nfs4", "/mnt/deep", "server:/vms/deep", labels=False)),
        (123, None),
        (2, None),
        (12, None),
    ],
)
def test_a_mount_is_found_by_its_number(number: int, mount: Mount | None) -> None:
    assert mounts.find(TABLE, number) == mount


def escaped(text: str) -> str:
    return re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", text)


@given(hostile | stray, hostile | stray, st.lists(st.sampled_from(["shared:1", "master:2", "unbindable"])))
def test_any_name_comes_back(target: str, source: str, optional: list[str]) -> None:
    fields = ["7", "1", "0:9", "/", escaped(target), "rw", *optional, "-", "fuse.x", escaped(source), "rw,seclabel"]
    text = f"{TABLE}{' '.join(fields)}\n{TABLE}"
    assert mounts.find(text, 7) == Mount("fuse.x", target, source, labels=True)


@given(st.text(max_size=200), st.integers(0, 9))
def test_no_text_is_too_strange(text: str, number: int) -> None:
    mounts.find(text, number)
    mounts.find(f"{number} {text}", number)


# ---- what may be used as it is


def decide(
    world: World, sharing: Sharing = Sharing.PRIVATE, access: Access = Access.READ_WRITE, **said: Any
) -> Outcome:
    asked = Resource("a.img", Role.DISK, access, sharing, "disk", relabel=said.pop("relabel", None))
    world.files["a.img"] = {"label": NFS, "mount": ON_NFS} | said
    facts = world.facts(invocation := Invocation("vm", "qemu", (), (asked,), seclabel=Seclabel()))
    return FilePlanner(invocation, facts, world.rules(), PROCESS).decide(Wanted(asked, facts.files["a.img"]))


def test_what_the_vm_may_use_is_left_alone_held_and_told() -> None:
    found = decide(World(booleans={"virt_use_nfs": True}))
    assert (found.context, found.restore, found.refusals, found.denials) == (None, None, (), ())
    (step,) = found.steps
    assert isinstance(step, Relabel)
    assert (step.before, step.after, step.restore, step.exclusive) == (step.before, step.before, None, True)
    (line,) = found.warnings
    assert line.endswith("SELinux does not separate it from other VMs, as virt_use_nfs is on")


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        ({}, "(which takes no labels): SELinux does not separate it from other VMs"),
        ({"context": NFS}, f"(mounted with context={NFS}): SELinux does not separate it from other VMs"),
    ],
)
def test_a_boolean_that_is_off_is_not_why_others_may_use_it(mount: dict[str, Any], why: str) -> None:
    (line,) = decide(World(booleans={"virt_use_nfs": False}), mount=ON_NFS | mount).warnings
    assert line.endswith(why)


def test_its_second_user_is_refused_by_name() -> None:
    found = decide(World(holders={"a.img": [["other", 77, True, None]]}))
    (line,) = found.refusals
    assert "in use by the VM other (pid 77)" in line


@pytest.mark.parametrize("sharing", [Sharing.CONTENT, Sharing.SHARED])
def test_what_is_shared_on_purpose_is_held_with_others_and_needs_no_warning(sharing: Sharing) -> None:
    found = decide(World(holders={"a.img": [["other", 77, False, None]]}), sharing, Access.READ)
    assert found.refusals == found.denials == found.warnings == ()
    assert [step.exclusive for step in found.steps if isinstance(step, Relabel)] == [False] * len(found.steps)


@pytest.mark.parametrize(
    ("booleans", "words"),
    [
        ({"virt_use_nfs": False}, "\0run: setsebool -P virt_use_nfs on"),
        ({}, "umount /mnt/nfs && mount -t nfs4 -o context=system_u:object_r:svirt_image_t:s0 server:/vms /mnt/nfs, or"),
        ({"virt_use_nfs": True}, "\0run: umount /mnt/nfs && mount -t nfs4 -o context="),
    ],
)
@pytest.mark.parametrize("relabel", [None, False])
def test_what_lets_it(booleans: dict[str, bool], words: str, relabel: bool | None) -> None:
    found = decide(World(denied=DENIED, booleans=booleans), relabel=relabel)
    assert found.refusals == ()
    (line,) = found.denials
    assert words in line
    assert "/srv/vm/a.img (disk)" in line
    assert NFS in line


@pytest.mark.parametrize(("type_name", "boolean"), policynames.OPENING.items())
def test_each_type_that_a_boolean_opens_has_its_own(type_name: str, boolean: str) -> None:
    booleans = dict.fromkeys(policynames.OPENING.values(), False)
    label = Context.parse(f"system_u:object_r:{type_name}:s0")
    mount = Mount("x", "/mnt", "y", labels=False)
    words = f"run: setsebool -P {boolean} on"
    if boolean == "virt_use_usb":
        words += " (it gives VMs the host's USB devices too)"
    assert fixedlabels.mend(mount, label, IMAGE, Policy(booleans=booleans)) == words


def test_a_file_to_make_is_made_by_qemu_where_it_may() -> None:
    world = World(booleans={"virt_use_nfs": True})
    made = decide(world, access=Access.CREATE, kind="missing", folder_label=NFS)
    assert (made.steps, made.refusals, made.denials) == ((), (), ())
    world = World(denied=[["svirt_t", "nfs_t", "dir", "add_name"]], booleans={"virt_use_nfs": False})
    (line,) = decide(world, access=Access.CREATE, kind="missing", folder_label=NFS).denials
    assert line.endswith("run: setsebool -P virt_use_nfs on")


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"type": "ext4", "labels": True}, "attach it read-only, or run: mount -o remount,rw /mnt/nfs"),
        ({"type": "ext4", "labels": True, "whole": False}, "run: mount -o remount,bind,rw /mnt/nfs"),
        ({"type": "squashfs"}, "copy it to a file system that can be written"),
    ],
)
def test_a_disk_that_is_written_on_a_read_only_mount(mount: dict[str, Any], words: str) -> None:
    found = decide(World(), mount=ON_NFS | mount | {"read_only": True})
    (line,) = found.refusals
    assert words in line
    assert found.steps == ()


def test_what_is_read_there_is_fine_when_the_vm_may() -> None:
    mount = ON_NFS | {"type": "ext4", "labels": True, "read_only": True}
    found = decide(World(), Sharing.CONTENT, Access.READ, mount=mount)
    assert found.refusals == found.denials == ()
    denied = decide(World(), Sharing.CONTENT, Access.READ, mount=mount, label="system_u:object_r:virt_image_t:s0")
    assert "-o ro,context=system_u:object_r:virt_content_t:s0 server:/vms" in denied.denials[0]


def test_a_bound_folder_and_the_kernels_own_file_systems_have_no_line_to_paste() -> None:
    label = Context.parse(NFS)
    for kind, is_whole in (("vfat", False), ("proc", True), ("tmpfs", True)):
        mount = Mount(kind, "/mnt/a b", "/dev/sda1", labels=False, whole=is_whole)
        assert fixedlabels.mend(mount, label, IMAGE, Policy()) == "copy it to a file system with labels"
    whole = Mount("vfat", "/mnt/a b", "/dev/sda1", labels=False)
    assert "run: umount '/mnt/a b' && mount -t vfat" in fixedlabels.mend(whole, label, IMAGE, Policy())


def test_a_label_of_the_vms_own_separates_and_needs_no_warning() -> None:
    mount = Mount("tmpfs", "/mnt", "none", labels=False, context=str(IMAGE))
    found = FileFacts("/mnt/a", "/mnt/a", FileKind.REGULAR, label=IMAGE, mount=mount)
    asked = Resource("/mnt/a", Role.DISK, Access.READ, Sharing.PRIVATE, "disk")
    assert fixedlabels.judge(asked, found, IMAGE, PROCESS, Policy(levels=False)) == Outcome()


# ---- places that may be adopted


@pytest.mark.parametrize(
    "folder", ["/srv/vms", "/builds", "/builds/x/y", "/opt/vms", "/mnt/disk", "/home/u/vms", "/var/vms"]
)
def test_places(folder: str) -> None:
    assert places.problem(folder) is None
    assert places.mend(f"{folder}/a b.img", "default_t") == f"run: confined-qemu policy adopt {folder}"


@pytest.mark.parametrize(
    "folder",
    [
        *("/", "/etc", "/etc/x", "/usr", "/usr/local/x", "/var", "/home", "/home/u", "/root", "/dev/x", "/proc/1"),
        *("/run/x", "/srv", "/mnt", "/tmp/x", "/var/tmp", "/boot", "/srv/a\nb", "/srv/\u202ea"),  # noqa: S108 - names
    ],
)
def test_no_places(folder: str) -> None:
    assert places.problem(folder) is not None
    assert places.mend(os.path.join(folder, "a.img"), "default_t").endswith("run: confined-qemu policy adopt /srv/vms")


def test_a_type_that_means_something_is_left_alone() -> None:
    assert places.mend("/srv/vms/a.img", "httpd_sys_content_t").startswith("copy it to a folder of its own")
    assert places.mend("/srv/a b/a.img", "var_t") == "run: confined-qemu policy adopt '/srv/a b'"


@given(hostile | stray, hostile | stray)
def test_a_pattern_means_its_folder_and_nothing_else(name: str, other: str) -> None:
    pattern = places.pattern(f"/srv/{name}")
    assert pattern.isascii()
    assert not re.search(r"\s", pattern)
    folder, another = (f"/srv/{text}".encode("utf-8", "surrogateescape") for text in (name, other))
    expression = re.compile(pattern.encode())
    assert expression.fullmatch(folder)
    assert expression.fullmatch(folder + b"/a.img")
    assert not expression.fullmatch(folder + b"x")
    assert bool(expression.fullmatch(another)) is (another == folder or another.startswith(folder + b"/"))


def test_a_plain_folder_reads_plainly() -> None:
    assert places.pattern("/srv/vms") == "/srv/vms(/.*)?"
    assert places.pattern("/srv/c++ [x]") == r"/srv/c\+\+[\x20]\[x[\x5d](/.*)?"
