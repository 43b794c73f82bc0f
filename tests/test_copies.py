"""A file that a VM may not read where it lies is copied for it: the usual one is the host's own kernel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.host import lsm
from confined_qemu.labels import copies as making
from confined_qemu.model.context import Context
from confined_qemu.model.errors import LabelError
from confined_qemu.model.facts import Identity
from confined_qemu.model.lean import replace
from confined_qemu.model.plan import Plan
from confined_qemu.model.steps import Copy, MakeFolder, Relabel
from confined_qemu.plan import copies
from confined_qemu.plan.planner import plan as make_plan
from confined_qemu.read.qemu.reader import read
from tests.worlds import PAIR, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KERNEL, INITRD = "/boot/vmlinuz-6.1", "/boot/initrd.img-6.1"
BOOT = "system_u:object_r:boot_t:s0"
LABEL = f"system_u:object_r:svirt_image_t:{PAIR.level()}"
FOLDER = "/var/tmp/confined-qemu.qemu.c101-c202"  # noqa: S108 - text only
CLOSED = [
    *([kind, "boot_t", "file", "open read map"] for kind in ("svirt_t", "svirt_tcg_t")),
    ["confined_qemu_t", "boot_t", "file", "relabelfrom relabelto"],
]
VFAT = {"type": "vfat", "target": "/mnt", "source": "/dev/sdb1", "labels": False}


def planned(line: str, files: dict[str, dict[str, Any]], denied: list[list[Any]] | None = None, **more: Any) -> Plan:
    invocation = replace(read("qemu-system-x86_64", line.split()), **more)
    world = World(files=files, denied=denied or CLOSED)
    return make_plan(invocation, world.facts(invocation), world.rules())


def boot(size: int = 10) -> dict[str, Any]:
    return {"label": BOOT, "size": size, "mode": 0o644, "owner": 0}


def test_the_hosts_own_kernel_boots_from_a_copy() -> None:
    plan = planned(f"-m 1G -kernel {KERNEL} -append root=/dev/sda -initrd {INITRD}", {KERNEL: boot(), INITRD: boot(20)})
    assert plan.refusals == ()
    folder = MakeFolder(FOLDER, Context.parse(LABEL))
    found = [step for step in plan.steps if isinstance(step, Copy | MakeFolder | Relabel)]
    assert found[0] == folder
    assert [(step.source, step.path, step.size, str(step.context)) for step in found if isinstance(step, Copy)] == [
        (KERNEL, f"{FOLDER}/copy-0", 10, LABEL),
        (INITRD, f"{FOLDER}/copy-1", 20, LABEL),
    ]
    assert len(found) == 3
    assert " ".join(plan.arguments) == (f"-m 1G -kernel {FOLDER}/copy-0 -append root=/dev/sda -initrd {FOLDER}/copy-1")
    assert plan.given == ("-m", "1G", "-kernel", KERNEL, "-append", "root=/dev/sda", "-initrd", INITRD)
    assert plan.temporary is None
    shown = {one.path: (str(one.resource.sharing), one.context and str(one.context)) for one in plan.resources}
    assert shown == {
        KERNEL: ("content", None),
        INITRD: ("content", None),
        f"{FOLDER}/copy-0": ("private", LABEL),
        f"{FOLDER}/copy-1": ("private", LABEL),
    }
    text = plan.describe()
    assert f"copy     {KERNEL}: 10 bytes to {FOLDER}/copy-0: {LABEL}, removed at the end" in text
    assert "\ngiven    /usr/bin/qemu-system-x86_64 -m 1G -kernel /boot/vmlinuz-6.1" in text


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("-cdrom /mnt/a", "-cdrom @"),
        ("-drive file=/mnt/a,media=cdrom,format=raw,if=none", "-drive file=@,media=cdrom,format=raw,if=none"),
        ("-drive if=pflash,format=raw,readonly=on,file=/mnt/a", "-drive if=pflash,format=raw,readonly=on,file=@"),
        ("-machine q35,firmware=/mnt/a", "-machine q35,firmware=@"),
        ("-option-rom /mnt/a", "-option-rom @"),
        ("-bios /mnt/a", "-bios @"),
        ("-device virtio-net-pci,romfile=/mnt/a,id=x,,y", "-device virtio-net-pci,romfile=@,id=x,,y"),
        ("-kernel /mnt/a -initrd /mnt/a", "-kernel @ -initrd @"),
        ("-acpitable file=/mnt/a", "-acpitable file=@"),
        ("-fw_cfg opt/x,file=/mnt/a", "-fw_cfg opt/x,file=@"),
    ],
)
def test_whatever_is_only_read_and_cannot_be_labelled_is_copied(line: str, after: str) -> None:
    closed = [[kind, "dosfs_t", "file", "open read map"] for kind in ("svirt_t", "svirt_tcg_t")]
    file = {"label": "system_u:object_r:dosfs_t:s0", "mount": VFAT, "size": 5}
    plan = planned(line, {"/mnt/a": file}, closed)
    assert plan.refusals == ()
    assert " ".join(plan.arguments) == after.replace("@", f"{FOLDER}/copy-0")
    assert len([step for step in plan.steps if isinstance(step, Copy)]) == 1


NO_COPY: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a disk that is written": (f"-drive file={KERNEL},format=raw", {}, {}),
    "a qcow2 image, whose header names others": (f"-drive file={KERNEL},format=qcow2,readonly=on", {}, {}),
    "more than fits": (f"-kernel {KERNEL}", {"size": copies.LARGEST + 1}, {}),
    "another user's QEMU": (f"-kernel {KERNEL}", {}, {"user": "nobody"}),
    "a name within JSON": (f'-device {{"driver":"virtio-net-pci","romfile":"{KERNEL}"}}', {}, {}),
    "a name that -set gives": (f"-device virtio-net-pci,id=n -set device.n.romfile={KERNEL}", {}, {}),
    "a secret": (f"-object secret,id=s,file={KERNEL}", {}, {}),
}


@pytest.mark.parametrize("what", NO_COPY)
def test_what_is_not_copied_is_refused_as_before(what: str) -> None:
    line, said, more = NO_COPY[what]
    plan = planned(line, {KERNEL: boot() | said}, **more)
    assert len(plan.refusals) == 1, what
    assert not [step for step in plan.steps if isinstance(step, Copy)]
    assert plan.arguments == tuple(line.split())
    assert ("copies may have 1024 MiB together" in plan.refusals[0]) == (what == "more than fits")


def test_all_copies_of_a_vm_share_one_limit() -> None:
    plan = planned(f"-kernel {KERNEL} -initrd {INITRD}", {KERNEL: boot(copies.LARGEST), INITRD: boot(1)})
    assert len(plan.refusals) == 1
    assert plan.refusals[0].startswith(f"{INITRD} (-initrd)")


def test_what_the_launcher_itself_may_not_read_is_refused() -> None:
    closed = [*CLOSED[:-1], ["confined_qemu_t", "boot_t", "file", "open read relabelfrom"]]
    plan = planned(f"-kernel {KERNEL}", {KERNEL: boot()}, closed)
    assert len(plan.refusals) == 1


def test_what_a_vm_may_read_is_not_copied() -> None:
    plan = planned(f"-kernel {KERNEL}", {KERNEL: {"label": "system_u:object_r:usr_t:s0"}})
    assert plan.arguments == ("-kernel", KERNEL)
    assert plan.given is None


# ---- making one


@pytest.fixture
def step(tmp_path: Path, labels: Callable[[], None]) -> Copy:
    labels()
    source = tmp_path / "kernel"
    source.write_bytes(b"linux" * 1000)
    found = source.stat()
    return Copy(f"{tmp_path}/copy-0", str(source), Identity(found.st_dev, found.st_ino), 5000, Context.parse(LABEL))


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Files are made without a label, as here there is no SELinux."""
    from contextlib import nullcontext

    return lambda: monkeypatch.setattr(lsm, "creating", lambda _context: nullcontext())


def test_a_copy_is_the_same_and_its_owners_alone(step: Copy) -> None:
    making.make(step)
    with open(step.path, "rb") as file:
        assert file.read() == b"linux" * 1000
    assert os.stat(step.path).st_mode & 0o777 == 0o600


def test_another_file_in_its_place_is_not_copied(step: Copy) -> None:
    os.rename(step.source, f"{step.source}.old")
    with open(step.source, "wb") as file:
        file.write(b"evil" * 1250)
    with pytest.raises(LabelError, match="changed during launch"):
        making.make(step)
    assert not os.path.exists(step.path)


@pytest.mark.parametrize("size", [4999, 5001, 0])
def test_a_file_that_grows_or_shrinks_meanwhile_is_told(step: Copy, size: int) -> None:
    with pytest.raises(LabelError, match="changed while it was copied"):
        making.make(replace(step, size=size))


def test_a_link_or_a_file_that_is_there_is_left_alone(step: Copy) -> None:
    os.symlink("/etc/passwd", step.path)
    with pytest.raises(LabelError, match="cannot be copied for the VM"):
        making.make(step)
    os.rename(step.source, f"{step.source}.old")
    os.symlink(f"{step.source}.old", step.source)
    with pytest.raises(LabelError, match="cannot be read for a copy"):
        making.make(step)
