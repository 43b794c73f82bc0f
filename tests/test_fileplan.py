"""What happens to one file: relabelled, made, left alone or refused; and what it goes back to."""

from __future__ import annotations

from typing import Any

import pytest

from confined_qemu.model.context import Context
from confined_qemu.model.invocation import Invocation, Seclabel
from confined_qemu.model.lean import replace
from confined_qemu.model.plan import Outcome
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.model.steps import Create, Relabel
from confined_qemu.plan.files import FilePlanner, Wanted, clash, merge
from tests.fakes import DEBIAN, VIRT_IMAGE
from tests.worlds import PAIR, World

PROCESS = DEBIAN.kvm.at(PAIR.level())
PRIVATE = "system_u:object_r:svirt_image_t:s0:c101,c202"
SHARED = "system_u:object_r:svirt_image_t:s0"
CONTENT = "system_u:object_r:virt_content_t:s0"
IMAGE = "system_u:object_r:virt_image_t:s0"


def resource(sharing: Sharing = Sharing.PRIVATE, access: Access = Access.READ_WRITE, **more: Any) -> Resource:
    return Resource("a.img", more.pop("role", Role.DISK), access, sharing, "disk", **more)


def decide(
    asked: Resource,
    world: World | None = None,
    *,
    seclabel: Seclabel | None = None,
    user: str | None = None,
    **said: Any,
) -> Outcome:
    world = world or World()
    world.files["a.img"] = said
    invocation = Invocation("vm", "qemu", (), (asked,), seclabel=seclabel or Seclabel(), user=user)
    facts = world.facts(invocation)
    planner = FilePlanner(invocation, facts, world.rules(), PROCESS)
    return planner.decide(Wanted(asked, facts.files["a.img"]))


def shown(outcome: Outcome) -> tuple[str | None, str | None]:
    assert outcome.refusals == outcome.denials == ()
    return tuple(None if c is None else str(c) for c in (outcome.context, outcome.restore))  # type: ignore[return-value]


READ = Access.READ


@pytest.mark.parametrize(
    ("asked", "label", "given", "restored"),
    [
        (resource(), IMAGE, PRIVATE, IMAGE),
        (resource(), "system_u:object_r:user_home_t:s0", PRIVATE, "system_u:object_r:user_home_t:s0"),
        (resource(), "system_u:object_r:svirt_image_t:s0:c7,c8", PRIVATE, IMAGE),
        (resource(), SHARED, PRIVATE, SHARED),
        (resource(), CONTENT, PRIVATE, CONTENT),
        (resource(Sharing.SHARED), IMAGE, SHARED, None),
        (resource(Sharing.CONTENT, READ), IMAGE, CONTENT, IMAGE),
        (resource(Sharing.CONTENT, READ), CONTENT, None, None),
        (resource(Sharing.CONTENT, READ), "system_u:object_r:usr_t:s0", None, None),
        (resource(Sharing.CONTENT, READ), "system_u:object_r:svirt_image_t:s0:c7,c8", CONTENT, IMAGE),
        (resource(Sharing.UNLABELLED), CONTENT, None, None),
        (resource(relabel=False), SHARED, None, None),
        (resource(label=Context.parse(SHARED)), IMAGE, SHARED, IMAGE),
        (resource(label=Context.parse(SHARED), relabel=False), IMAGE, SHARED, IMAGE),
    ],
)
def test_labels(asked: Resource, label: str, given: str | None, restored: str | None) -> None:
    assert shown(decide(asked, label=label)) == (given, restored)


def test_a_vm_that_relabels_nothing() -> None:
    kept = Seclabel(relabel=False)
    assert shown(decide(resource(), seclabel=kept, label=SHARED)) == (None, None)
    assert decide(resource(), seclabel=kept).denials != ()
    assert shown(decide(resource(relabel=True), seclabel=kept)) == (PRIVATE, IMAGE)


@pytest.mark.parametrize(
    ("default", "restored"),
    [
        (IMAGE, IMAGE),
        ("system_u:object_r:xen_image_t:s0", "system_u:object_r:xen_image_t:s0"),
        ("system_u:object_r:default_t:s0", IMAGE),
        ("system_u:object_r:svirt_image_t:s0", IMAGE),
        (None, IMAGE),
    ],
)
def test_a_dead_vms_label_is_no_ones_original(default: str | None, restored: str) -> None:
    found = decide(resource(), label="system_u:object_r:svirt_image_t:s0:c7,c8", default=default)
    assert shown(found) == (PRIVATE, restored)


def test_the_step_names_the_inode_and_who_may_share_it() -> None:
    (step,) = decide(resource(), real="/other/a.img", links=1).steps
    assert isinstance(step, Relabel)
    assert step.path == "/other/a.img"
    assert step.exclusive
    (step,) = decide(resource(Sharing.CONTENT, READ)).steps
    assert isinstance(step, Relabel)
    assert not step.exclusive


# ---- files that are not there


def test_a_log_is_made_and_stays_with_the_folders_label() -> None:
    found = decide(resource(access=Access.CREATE, role=Role.LOG))
    (step,) = found.steps
    assert step == Create("/srv/vm/a.img", Context.parse(PRIVATE), VIRT_IMAGE, remove=False)
    assert shown(found) == (PRIVATE, IMAGE)


def test_a_pidfile_is_made_and_removed() -> None:
    found = decide(resource(access=Access.CREATE, role=Role.PIDFILE))
    assert found.steps[0].describe().endswith("removed at the end")
    assert shown(found) == (PRIVATE, None)


def test_guest_memory_is_made_as_qemu_makes_it() -> None:
    (step,) = decide(resource(access=Access.CREATE, role=Role.MEMORY)).steps
    assert isinstance(step, Create)
    assert step.mode == 0o644


def test_no_folder_for_it() -> None:
    found = decide(resource(access=Access.CREATE), folder_label="system_u:object_r:etc_t:s0")
    assert "may not create files in a folder of type etc_t" in found.denials[0]


@pytest.mark.parametrize("access", [Access.READ, Access.READ_WRITE, Access.DIRECTORY, Access.WRITE])
def test_a_file_that_must_be_there(access: Access) -> None:
    assert decide(resource(access=access), kind="missing").refusals == ("/srv/vm/a.img (disk): no such file",)


def test_a_missing_socket_is_qemus_to_complain_about() -> None:
    assert decide(resource(Sharing.UNLABELLED, Access.CONNECT), kind="missing") == Outcome()


# ---- refusals

HERE = "/srv/vm/a.img (disk): "


@pytest.mark.parametrize("kind", ["dir", "chr_file", "sock_file", "fifo_file"])
def test_what_is_no_image(kind: str) -> None:
    assert "cannot be used as disk" in decide(resource(), kind=kind).refusals[0]


@pytest.mark.parametrize("kind", ["file", "blk_file"])
def test_what_may_be_one(kind: str) -> None:
    assert shown(decide(resource(), kind=kind)) == (PRIVATE, IMAGE)


@pytest.mark.parametrize(
    ("role", "access", "kind"),
    [(Role.CHARDEV, Access.READ_WRITE, "fifo_file"), (Role.USB, Access.READ_WRITE, "chr_file")],
)
def test_what_else_gets_a_label(role: Role, access: Access, kind: str) -> None:
    assert shown(decide(resource(access=access, role=role), kind=kind)) == (PRIVATE, IMAGE)


@pytest.mark.parametrize(
    ("asked", "said", "words"),
    [
        (resource(), {"links": 3}, "it has 3 hard links, "),
        (resource(), {"label": "u:object_r:shadow_t:s0"}, "relabel files of type shadow_t\0copy it"),
        (resource(label=Context.parse("u:object_r:shadow_t:s0")), {}, "the launcher may not give it the label"),
        (resource(), {"owner": 1000}, "it belongs to uid 1000 with mode 0600"),
        (resource(), {"owner": 1000, "mode": 0o644}, "it belongs to uid 1000 with mode 0644"),
        (resource(relabel=False), {}, "may not open and read and write what is labelled"),
        (resource(relabel=False), {}, "run: chcon -t svirt_image_t /srv/vm/a.img && chcon -l s0 /srv/vm/a.img"),
        (resource(Sharing.UNLABELLED), {"kind": "chr_file", "label": "u:object_r:x_t:s1"}, "is not relabelled"),
    ],
)
def test_denials(asked: Resource, said: dict[str, Any], words: str) -> None:
    world = World(denied=[["svirt_t", "x_t", "chr_file", "read"]])
    found = decide(asked, world, **said)
    assert found.refusals == ()
    assert len(found.denials) == 1
    assert found.denials[0].startswith(HERE)
    assert words in found.denials[0]


@pytest.mark.parametrize(
    ("access", "said"),
    [
        (Access.READ_WRITE, {"owner": 1000, "mode": 0o666}),
        (Access.READ, {"owner": 1000, "mode": 0o604}),
        (Access.READ_WRITE, {"owner": 1000, "mode": 0o660, "group": 0}),
        (Access.READ_WRITE, {"owner": 0, "mode": 0o600}),
    ],
)
def test_modes_that_let_root_in(access: Access, said: dict[str, Any]) -> None:
    assert decide(resource(access=access), **said).denials == ()


def test_with_a_user_the_mode_is_that_users_business() -> None:
    assert decide(resource(), user="alice", owner=1000).denials == ()


def test_a_user_relabels_only_their_own() -> None:
    found = decide(resource(), World(uid=1000), owner=0)
    assert "belongs to uid 0, and only its owner or root may relabel it" in found.denials[0]
    assert decide(resource(), World(uid=1000), owner=1000).denials == ()


def test_a_problem_of_the_path_is_told() -> None:
    assert decide(resource(), problem="its symbolic links form a loop").refusals == (
        f"{HERE}its symbolic links form a loop",
    )


def test_a_file_system_without_labels() -> None:
    assert "has no SELinux labels" in decide(resource(), label=None).refusals[0]
    assert shown(decide(resource(), World(policy=None), label=None)) == (PRIVATE, IMAGE)


# ---- other VMs

READER: list[Any] = ["reader", 5, False, IMAGE]
WRITER: list[Any] = ["writer", 6, True, IMAGE]


@pytest.mark.parametrize(
    ("asked", "holder", "refused"),
    [
        (resource(), WRITER, True),
        (resource(), READER, True),
        (resource(Sharing.CONTENT, READ), WRITER, True),
        (resource(Sharing.CONTENT, READ), READER, False),
        (resource(Sharing.SHARED), WRITER, True),
        (resource(Sharing.SHARED), READER, False),
    ],
)
def test_who_may_use_it_beside_another(asked: Resource, holder: list[Any], refused: bool) -> None:
    found = decide(asked, World(holders={"a.img": [holder]}), label=CONTENT)
    assert bool(found.refusals) is refused
    assert not refused or f"in use by the VM {holder[0]} (pid {holder[1]})" in found.refusals[0]


def test_a_second_reader_knows_the_label_from_the_first() -> None:
    found = decide(resource(Sharing.CONTENT, READ), World(holders={"a.img": [READER]}), label=CONTENT)
    assert shown(found) == (CONTENT, IMAGE)


def test_somebody_elses_vm_is_seen_by_its_level() -> None:
    world = World(live={"815": "system_u:system_r:svirt_t:s0:c7,c8"})
    found = decide(resource(), world, label="system_u:object_r:svirt_image_t:s0:c7,c8")
    assert "labelled for the running process 815" in found.refusals[0]
    assert decide(resource(), world, label="system_u:object_r:svirt_image_t:s0:c7,c9").refusals == ()


def test_an_initrd_is_mapped() -> None:
    world = World(denied=[["svirt_t", "usr_t", "file", "map"]])
    usr = "system_u:object_r:usr_t:s0"
    assert shown(decide(resource(Sharing.CONTENT, READ, role=Role.KERNEL), world, label=usr)) == (None, None)
    denied = decide(resource(Sharing.CONTENT, READ, role=Role.INITRD), world, label=usr).denials
    assert "the launcher may not relabel files of type usr_t" in denied[0]


# ---- folders for memory

HUGE = "system_u:object_r:hugetlbfs_t:s0"
MEMORY = resource(Sharing.UNLABELLED, Access.CREATE, role=Role.MEMORY)


def test_a_folder_for_memory_that_the_policy_opens_is_used_as_it_is() -> None:
    assert decide(MEMORY, kind="dir", label=HUGE) == Outcome()


@pytest.mark.parametrize(
    "denied", [["svirt_t", "hugetlbfs_t", "dir", "add_name"], ["svirt_t", "svirt_image_t", "file", "create"]]
)
def test_a_folder_for_memory_that_the_policy_does_not_open(denied: list[str]) -> None:
    found = decide(MEMORY, World(denied=[denied]), kind="dir", label=HUGE)
    assert "name a file in it (mem-path=/srv/vm/a.img/NAME), or use memory-backend-memfd" in found.denials[0]


def test_what_a_boolean_of_the_policy_opens() -> None:
    asked = resource(Sharing.UNLABELLED, Access.WRITE, role=Role.TPM)
    denied = [["svirt_t", "sysfs_t", "file", "write"]]
    off = World(denied=denied, booleans={"virt_use_sysfs": False})
    sysfs = "system_u:object_r:sysfs_t:s0"
    assert decide(asked, off, label=sysfs).denials[0].endswith("\0run: setsebool -P virt_use_sysfs on")
    assert "setsebool" not in decide(asked, World(denied=denied), label=sysfs).denials[0]


# ---- devices

NO_DISKS = [["confined_qemu_t", "fixed_disk_device_t", "blk_file", "relabelfrom"]]
DISK = "system_u:object_r:fixed_disk_device_t:s0"
BLOCK = "confined_qemu_use_block_devices"


def test_a_block_device_is_a_disk() -> None:
    assert shown(decide(resource(), kind="blk_file", label=DISK)) == (PRIVATE, DISK)
    assert shown(decide(resource(Sharing.CONTENT, READ), kind="blk_file", label=CONTENT)) == (None, None)


@pytest.mark.parametrize(
    ("booleans", "words"),
    [
        ({BLOCK: False}, f"the launcher may not relabel a block device\0run: setsebool -P {BLOCK} on"),
        ({BLOCK: True}, "the launcher may not relabel a block device of type fixed_disk_device_t"),
        ({}, "the launcher may not relabel a block device of type fixed_disk_device_t"),
    ],
)
def test_what_opens_block_devices_to_the_launcher(booleans: dict[str, bool], words: str) -> None:
    found = decide(resource(), World(denied=NO_DISKS, booleans=booleans), kind="blk_file", label=DISK)
    assert found.denials == (f"{HERE}{words}",)


def test_a_device_in_use_is_refused_by_name() -> None:
    used = "its partition sdb1 is mounted on /srv\0run: umount /srv"
    assert decide(resource(), kind="blk_file", label=DISK, used=used).refusals == (HERE + used,)


@pytest.mark.parametrize(("overlaps", "refused"), [([8], True), ([9, 8], True), ([9], False)])
def test_a_device_that_another_vm_has_under_another_name_or_in_part(overlaps: list[int], refused: bool) -> None:
    world = World(holders={"block:8": [WRITER]})
    found = decide(resource(), world, kind="blk_file", label=DISK, devices=overlaps)
    assert bool(found.refusals) is refused
    assert not refused or "in use by the VM writer (pid 6)" in found.refusals[0]


# ---- one file, asked for twice


@pytest.mark.parametrize(
    ("one", "other", "stronger"),
    [
        (Sharing.UNLABELLED, Sharing.CONTENT, Sharing.CONTENT),
        (Sharing.CONTENT, Sharing.PRIVATE, Sharing.PRIVATE),
        (Sharing.PRIVATE, Sharing.SHARED, Sharing.SHARED),
    ],
)
def test_the_stronger_use_decides(one: Sharing, other: Sharing, stronger: Sharing) -> None:
    world = World()
    wanted = [Wanted(resource(sharing), world.file(resource(sharing))) for sharing in (one, other)]
    assert merge(None, wanted[0]) is wanted[0]
    for first, second in (wanted, wanted[::-1]):
        assert merge(first, second).resource.sharing is stronger


# ---- what an image's header names


def layer(access: Access = READ, **more: Any) -> Resource:
    sharing = Sharing.CONTENT if access is READ else Sharing.PRIVATE
    role = Role.BACKING if access is READ else Role.DATA_FILE
    return resource(sharing, access, role=role, named_by="top.qcow2", **more)


def test_what_is_readable_is_kept_and_held() -> None:
    for asked in (layer(), resource(Sharing.CONTENT, READ)):
        (step,) = decide(asked, label=CONTENT).steps
        assert isinstance(step, Relabel)
        assert str(step.before) == str(step.after) == str(step.restore) == CONTENT
        assert not step.exclusive


@pytest.mark.parametrize(
    ("asked", "namer", "owner", "mode", "refused"),
    [
        (layer(), 0, 1000, 0o600, False),
        (layer(), 1000, 1000, 0o600, False),
        (layer(), 1000, 0, 0o644, False),
        (layer(), 1000, 0, 0o600, True),
        (layer(), 1000, 1001, 0o600, True),
        (layer(Access.READ_WRITE), 1000, 1000, 0o600, False),
        (layer(Access.READ_WRITE), 1000, 0, 0o644, True),
        (layer(Access.READ_WRITE), 1000, 0, 0o666, False),
        (resource(Sharing.CONTENT, READ), 1000, 0, 0o600, False),
    ],
)
def test_a_header_names_what_its_images_owner_may_open(
    asked: Resource, namer: int, owner: int, mode: int, *, refused: bool
) -> None:
    world = World(files={"top.qcow2": {"owner": namer}, "a.img": {"owner": owner, "mode": mode, "group": 7}})
    top = Resource("top.qcow2", Role.DISK, Access.READ_WRITE, Sharing.PRIVATE, "disks[0].file", "qcow2")
    invocation = Invocation("vm", "qemu", (), (top, asked))
    facts = world.facts(invocation)
    outcome = FilePlanner(invocation, facts, world.rules(), PROCESS).decide(Wanted(asked, facts.files["a.img"]))
    assert any("and that user may not open it" in line for line in outcome.refusals) is refused


def test_a_missing_layer_is_not_a_typing_error() -> None:
    (line,) = decide(layer(), kind="missing").refusals
    assert "no such file: the header of top.qcow2 names it\0do not" in line
    (line,) = decide(layer(Access.READ_WRITE), kind="missing").refusals
    assert "starts relative names at its own working directory" in line


def test_nobody_is_told_to_open_a_systems_file_to_a_vm() -> None:
    denied = [["svirt_t", "shadow_t", "file", "open read"]]
    for asked in (layer(), layer(Access.READ_WRITE), resource(Sharing.UNLABELLED, READ, named_by="top.qcow2")):
        outcome = decide(asked, World(denied=denied), label="system_u:object_r:shadow_t:s0")
        (line,) = outcome.denials
        assert "chcon" not in line
        assert "the header of top.qcow2" in line


def test_one_vm_does_not_write_what_it_builds_on() -> None:
    found = World().file(layer())
    mine, base, data = (Wanted(one, found) for one in (resource(), layer(), layer(Access.READ_WRITE)))
    assert clash(None, base) is None
    assert clash(base, base) is None
    assert clash(mine, mine) is None
    for first, second in ((mine, base), (base, mine), (data, data), (base, data)):
        assert "give each its own file" in (clash(first, second) or "")


# ---- what QEMU does without, and what is every VM's


def test_what_qemu_does_without_is_no_reason_to_refuse() -> None:
    node = replace(resource(Sharing.UNLABELLED, role=Role.HOST_DEVICE), optional=True)
    closed = World(denied=[[kind, "sound_device_t", "chr_file", "open read write"] for kind in ("svirt_t",)])
    said: dict[str, Any] = {"kind": "chr_file", "label": "system_u:object_r:sound_device_t:s0"}
    outcome = decide(node, closed, **said)
    assert outcome.refusals == outcome.denials == ()
    [warning] = outcome.warnings
    assert "may not open and read and write" in warning
    assert "and QEMU goes on without it" in warning
    assert decide(replace(node, optional=False), closed, **said).denials != ()
    for problem in (None, "no such file or folder"):
        assert decide(node, kind="missing", problem=problem) == Outcome()
    assert decide(replace(node, optional=False), kind="missing").refusals != ()


@pytest.mark.parametrize(
    "name", ["/usr/share/OVMF/OVMF_VARS.fd", "/usr/share/edk2/ovmf/OVMF_VARS.qcow2", "/etc/vars.fd"]
)
def test_the_systems_own_variables_of_firmware_are_copied_and_never_written(name: str) -> None:
    outcome = decide(resource(role=Role.NVRAM), real=name)
    [line] = outcome.refusals
    assert f"use a copy for this VM (cp {name} ./VARS.fd), or readonly=on if it is the firmware's code" in line
    assert "policy adopt" not in line
    assert decide(resource(role=Role.NVRAM), real="/srv/vms/VARS.fd").refusals == ()


@pytest.mark.parametrize("role", [Role.DISK, Role.BACKING, Role.NVRAM])
def test_a_character_device_is_a_disk_only_where_it_is_one(role: Role) -> None:
    asked = resource(role=role)
    assert decide(asked, kind="chr_file", real="/dev/fuse").refusals != ()
    assert decide(asked, kind="chr_file", real="/dev/net/tun").refusals != ()
    assert str(decide(asked, kind="chr_file", real="/dev/sg1").context) == PRIVATE
    assert str(decide(asked, kind="chr_file", real="/dev/ng0n1").context) == PRIVATE
