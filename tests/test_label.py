"""Labels by descriptor: only the file that was planned for is touched, and only our own label is taken back."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import inodes, locks, lsm
from confined_qemu.labels import find, label, turns
from confined_qemu.model import lean
from confined_qemu.model.context import Context
from confined_qemu.model.errors import ConfinedQemuError, LabelError, LsmError
from confined_qemu.model.facts import FileKind, Identity
from confined_qemu.model.steps import Bind, Create, MakeFolder, Relabel
from tests.fakes import DEBIAN, VIRT_IMAGE, Labels, install_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GIVEN = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")
OTHER = Context.parse("system_u:object_r:user_home_t:s0")
CONTENT = DEBIAN.content


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Labels:
    return install_labels(monkeypatch)


@pytest.fixture
def image(tmp_path: Path, labels: Labels) -> str:
    path = str(tmp_path / "disk.img")
    with open(path, "w", encoding="ascii") as file:
        file.write("data")
    labels.give(path, VIRT_IMAGE)
    return path


def identity(path: str) -> Identity:
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return inodes.identity_of(descriptor)
    finally:
        os.close(descriptor)


def test_a_qemu_that_has_an_image_open_is_seen_by_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(512))
    descriptor = os.open(path, os.O_PATH)
    assert not inodes.in_use(descriptor)
    with path.open("rb") as other:  # as QEMU locks what it reads: a byte for each permission, shared
        for byte, seen in ((1, False), (99, False), (100, True), (203, True), (300, False)):
            for kind in (fcntl.F_RDLCK, fcntl.F_UNLCK):
                lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
                fcntl.fcntl(other, fcntl.F_OFD_SETLK, lock)
                assert inodes.in_use(descriptor) is (seen and kind == fcntl.F_RDLCK)
    os.close(descriptor)


def relabel(path: str, before: Context = VIRT_IMAGE, after: Context = GIVEN) -> Relabel:
    found = os.stat(path)
    kind = inodes.kind_of(found.st_mode)
    return Relabel(path, identity(path), kind, found.st_nlink, before, after, before, exclusive=True)


def no_bind(bind: Bind) -> None:
    raise AssertionError(bind)


def nobody(_: Identity) -> bool:
    return False


# ---- relabelling


def test_there_and_back(image: str, labels: Labels) -> None:
    step = relabel(image)
    label.apply(step, no_bind)
    assert labels.of(image) == GIVEN
    label.undo(step, nobody)
    assert labels.of(image) == VIRT_IMAGE


def test_a_label_that_is_there_is_not_set_again(image: str, labels: Labels) -> None:
    label.apply(relabel(image, VIRT_IMAGE, VIRT_IMAGE), no_bind)
    assert not [call for call in labels.log if call.startswith("set_context")]


def swap_for_a_link(path: str) -> None:
    os.rename(path, f"{path}.old")
    os.symlink(f"{path}.old", path)


def replace(path: str) -> None:
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write("other")
    os.rename(f"{path}.new", path)


def hard_link(path: str) -> None:
    os.link(path, f"{path}.link")


def make_folder(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


@pytest.mark.parametrize("change", [swap_for_a_link, replace, hard_link, make_folder, os.unlink])
def test_a_file_that_changed_after_the_plan_is_left_alone(change: object, image: str, labels: Labels) -> None:
    step = relabel(image)
    assert callable(change)
    change(image)
    with pytest.raises(LabelError, match=r"changed during launch|disappeared during launch") as raised:
        label.apply(step, no_bind)
    assert raised.value.where == image
    assert GIVEN not in labels.by_inode.values()
    label.undo(step, nobody)
    assert not [call for call in labels.log if call.startswith("set_context")]


def test_a_label_that_changed_after_the_plan_is_left_alone(image: str, labels: Labels) -> None:
    step = relabel(image)
    labels.give(image, OTHER)
    with pytest.raises(LabelError, match="changed during launch"):
        label.apply(step, no_bind)
    assert labels.of(image) == OTHER


def test_the_kernels_refusal_is_told(image: str, labels: Labels) -> None:
    step = relabel(image)
    labels.at(2)
    with pytest.raises(LsmError, match="injected"):
        label.apply(step, no_bind)
    label.undo(step, nobody)
    assert labels.of(image) == VIRT_IMAGE


def test_every_descriptor_is_closed(image: str, labels: Labels) -> None:
    before = os.listdir("/proc/self/fd")
    step = relabel(image)
    for call in (1, 2):
        labels.at(call)
        with pytest.raises(LsmError):
            label.apply(step, no_bind)
    label.apply(step, no_bind)
    label.undo(step, nobody)
    labels.give(image, GIVEN)
    labels.at(1)
    with pytest.raises(LsmError):
        label.undo(step, nobody)
    swap_for_a_link(image)
    label.undo(step, nobody)
    assert os.listdir("/proc/self/fd") == before


# ---- putting back


@pytest.mark.parametrize("change", [swap_for_a_link, replace, os.unlink, make_folder])
def test_what_was_replaced_keeps_its_label(change: object, image: str, labels: Labels) -> None:
    step = relabel(image)
    label.apply(step, no_bind)
    assert callable(change)
    change(image)
    if os.path.lexists(image):
        labels.give(image, OTHER)
    label.undo(step, nobody)
    assert not os.path.lexists(image) or labels.of(image) == OTHER


def test_a_replacement_is_not_taken_for_the_original_by_its_label(image: str, labels: Labels) -> None:
    step = relabel(image)
    label.apply(step, no_bind)
    os.rename(image, f"{image}.old")
    with open(image, "w", encoding="ascii") as file:
        file.write("new")
    labels.give(image, GIVEN)
    label.undo(step, nobody)
    assert labels.of(image) == GIVEN


def test_a_label_that_somebody_else_gave_stays(image: str, labels: Labels) -> None:
    step = relabel(image)
    label.apply(step, no_bind)
    labels.give(image, OTHER)
    label.undo(step, nobody)
    assert labels.of(image) == OTHER


def test_a_new_hard_link_does_not_keep_the_label_from_going_back(image: str, labels: Labels) -> None:
    step = relabel(image)
    label.apply(step, no_bind)
    hard_link(image)
    label.undo(step, nobody)
    assert labels.of(image) == VIRT_IMAGE


def test_a_file_that_may_no_longer_be_read_is_still_known(image: str, labels: Labels) -> None:
    """The generation is read by opening the file: one that may not be opened now is no other file."""
    step = relabel(image)
    label.apply(step, no_bind)
    unread = Relabel(
        step.path, Identity(step.identity.device, step.identity.inode, None), step.kind, step.links,
        step.before, step.after, step.restore, exclusive=True,
    )  # fmt: skip
    label.undo(unread, nobody)
    assert labels.of(image) == VIRT_IMAGE


def test_a_reused_inode_is_another_file(image: str, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "_generation", lambda *_: 2)  # not every file system tells one
    step = relabel(image)
    label.apply(step, no_bind)
    older = Relabel(
        step.path, Identity(step.identity.device, step.identity.inode, 1), step.kind,
        step.links, step.before, step.after, step.restore, exclusive=True,
    )  # fmt: skip
    label.undo(older, nobody)
    assert labels.of(image) == GIVEN


def test_the_last_holder_puts_back(image: str, labels: Labels) -> None:
    first = relabel(image, VIRT_IMAGE, CONTENT)
    label.apply(first, no_bind)
    label.undo(first, lambda asked: asked == first.identity)
    assert labels.of(image) == CONTENT
    label.undo(first, nobody)
    assert labels.of(image) == VIRT_IMAGE


def test_a_shared_image_keeps_its_label(image: str, labels: Labels) -> None:
    step = relabel(image)
    stays = Relabel(step.path, step.identity, step.kind, 1, step.before, step.after, None, exclusive=False)
    label.apply(stays, no_bind)
    label.undo(stays, nobody)
    assert labels.of(image) == GIVEN


def test_one_failing_does_not_stop_the_others(tmp_path: Path, labels: Labels) -> None:
    paths = [str(tmp_path / name) for name in "abc"]
    for path in paths:
        with open(path, "w", encoding="ascii"):
            labels.give(path, VIRT_IMAGE)
    steps = tuple(relabel(path) for path in paths)
    for step in steps:
        label.apply(step, no_bind)
    labels.at(4)  # the last step is undone first: c reads, reads once more and sets, b reads
    failed = label.undo_all(steps, nobody)
    assert [type(error) for error in failed] == [LsmError]
    assert [labels.of(path) for path in paths] == [VIRT_IMAGE, GIVEN, VIRT_IMAGE]


# ---- files and folders that the launcher makes


@pytest.mark.parametrize(("mode", "masked"), [(0o600, 0o600), (0o666, 0o640)])
def test_a_file_is_made_as_qemu_makes_it_with_its_label(tmp_path: Path, labels: Labels, mode: int, masked: int) -> None:
    path = str(tmp_path / "pid")
    mask = os.umask(0o027)
    try:
        label.apply(Create(path, GIVEN, VIRT_IMAGE, remove=True, mode=mode), no_bind)
    finally:
        os.umask(mask)
    assert labels.of(path) == GIVEN
    assert os.stat(path).st_mode & 0o777 == masked


@pytest.mark.parametrize("remove", [True, False])
def test_a_made_file_ends(tmp_path: Path, labels: Labels, remove: bool) -> None:
    path = str(tmp_path / "log")
    step = Create(path, GIVEN, VIRT_IMAGE, remove=remove)
    label.apply(step, no_bind)
    label.undo(step, nobody)
    assert os.path.exists(path) is not remove
    assert remove or labels.of(path) == VIRT_IMAGE


@pytest.mark.parametrize("what", ["file", "link", "dangling"])
def test_nothing_that_is_there_is_made_or_taken_away(tmp_path: Path, labels: Labels, what: str) -> None:
    path = tmp_path / "log"
    if what == "file":
        path.write_text("mine")
        labels.give(str(path), OTHER)
    else:
        path.symlink_to(tmp_path / "elsewhere")
        if what == "link":
            (tmp_path / "elsewhere").write_text("mine")
    step = Create(str(path), GIVEN, VIRT_IMAGE, remove=True)
    with pytest.raises(LabelError, match="cannot be made"):
        label.apply(step, no_bind)
    label.undo(step, nobody)
    assert os.path.lexists(path)
    assert (tmp_path / "elsewhere").exists() == (what == "link")


def test_a_file_that_took_its_place_is_not_removed(tmp_path: Path, labels: Labels) -> None:
    path = str(tmp_path / "pid")
    step = Create(path, GIVEN, VIRT_IMAGE, remove=True)
    label.apply(step, no_bind)
    os.unlink(path)
    with open(path, "w", encoding="ascii"):
        labels.give(path, OTHER)
    label.undo(step, nobody)
    assert os.path.exists(path)


def test_a_folder_is_made_and_removed_with_all_that_is_in_it(tmp_path: Path, labels: Labels) -> None:
    path = tmp_path / "run" / "vm.c1,c2"
    step = MakeFolder(str(path), GIVEN)
    label.apply(step, no_bind)
    assert labels.of(str(path)) == GIVEN
    assert path.stat().st_mode & 0o777 == 0o700
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (path / "link").symlink_to(outside)
    (path / "below").mkdir()
    (path / "below/file").write_text("x")
    label.undo(step, nobody)
    assert not path.exists()
    assert outside.read_text() == "mine"


@pytest.mark.touches_host
def test_no_depth_and_no_mode_of_what_a_vm_left_stops_its_removal(tmp_path: Path, labels: Labels) -> None:
    """1,500 folders, one in the other: more than Python calls, paths and open descriptors are deep."""
    path = tmp_path / "vm"
    step = MakeFolder(str(path), GIVEN)
    label.apply(step, no_bind)
    here = os.open(path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir(f"/proc/self/fd/{here}/x", 0o700)
        below = os.open(f"/proc/self/fd/{here}/x", os.O_RDONLY)
        os.fchmod(here, 0)
        os.close(here)
        here = below
    os.close(here)
    disk = tmp_path / "disk.img"
    disk.touch()
    labels.give(str(disk), VIRT_IMAGE)
    disk_step = relabel(str(disk))
    label.apply(disk_step, no_bind)
    assert label.undo_all((disk_step, step), nobody) == []
    assert not path.exists()
    assert labels.of(str(disk)) == VIRT_IMAGE


def test_a_folder_of_somebody_else_stays(tmp_path: Path, labels: Labels) -> None:
    path = tmp_path / "vm"
    path.mkdir()
    labels.give(str(path), OTHER)
    step = MakeFolder(str(path), GIVEN)
    with pytest.raises(LabelError, match="cannot be made for the VM"):
        label.apply(step, no_bind)
    label.undo(step, nobody)
    assert path.is_dir()


@pytest.mark.usefixtures("labels")
def test_a_link_in_a_folders_place_is_not_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "vm", tmp_path / "elsewhere"
    step = MakeFolder(str(path), GIVEN)
    label.apply(step, no_bind)
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    label.undo(step, nobody)
    assert elsewhere.is_dir()


def test_a_socket_is_the_launchers_to_bind_and_removed_at_the_end(tmp_path: Path, labels: Labels) -> None:
    path = str(tmp_path / "qmp")
    step = Bind("qmp", path, GIVEN, None)
    heard: list[Bind] = []
    label.apply(step, heard.append)
    assert heard == [step]
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
    labels.give(path, OTHER)
    label.undo(step, nobody)
    assert os.path.lexists(path)
    labels.give(path, GIVEN)
    label.undo(step, nobody)
    assert not os.path.lexists(path)


# ---- identities


def test_kinds(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert inodes.kind_of(os.stat(tmp_path / "fifo").st_mode) is FileKind.FIFO
    assert inodes.kind_of(os.stat(tmp_path).st_mode) is FileKind.DIRECTORY
    assert inodes.kind_of(os.stat("/dev/null").st_mode) is FileKind.CHARACTER


def test_looking_at_a_pipe_does_not_wait_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert identity(str(tmp_path / "fifo")).generation is None


def test_errors_are_ours(image: str, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    step = relabel(image)
    monkeypatch.setattr(os, "open", _refuse)
    with pytest.raises(ConfinedQemuError, match="Permission denied"):
        label.apply(step, no_bind)
    assert label.undo_all((step,), nobody)[0].where == image
    assert labels.of(image) == VIRT_IMAGE


def _refuse(*_: object, **__: object) -> int:
    raise PermissionError(13, "no")


def test_a_device_that_was_unplugged_or_is_another_now_is_nothing_to_put_back(image: str, labels: Labels) -> None:
    """Its node goes with it, and its number is given to the next one."""
    step = lean.replace(relabel(image), kind=FileKind.BLOCK, path="/dev/nothing-of-this-name")
    label.undo(step, lambda _: False)
    labels.give(image, GIVEN)
    mine = identity(image)
    another = lean.replace(step, path=image, identity=lean.replace(mine, inode=mine.inode + 1))
    label.undo(another, lambda _: False)
    assert labels.of(image) == GIVEN


# ---- turns with libvirt, which locks byte 1 of a file while it labels it


@pytest.fixture
def libvirt(image: str) -> Iterator[int]:
    """Open the image as libvirt's daemon does."""
    descriptor = os.open(image, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def test_a_label_changes_only_while_libvirt_is_kept_out(
    image: str, libvirt: int, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_out = []

    def set_context(path: str, context: Context, *, shown: str) -> None:
        held = [byte for byte in range(300) if locks.obstacle(libvirt, locks.EXCLUSIVE, byte) is not None]
        kept_out.append(held)
        labels.set_context(path, context, shown=shown)

    monkeypatch.setattr(lsm, "set_context", set_context)
    step = relabel(image)
    label.apply(step, no_bind)
    assert locks.take(libvirt, locks.EXCLUSIVE, *turns.BYTES)
    locks.give_up(libvirt, *turns.BYTES)
    label.undo(step, nobody)
    assert kept_out == [[1], [1]]
    assert labels.of(image) == VIRT_IMAGE
    assert locks.take(libvirt, locks.EXCLUSIVE, *turns.BYTES)


def test_while_libvirt_is_at_a_file_nothing_changes_and_the_wait_ends(
    image: str, libvirt: int, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locks.take(libvirt, locks.EXCLUSIVE, *turns.BYTES)
    waiting = turns.Waiting(0.0)
    monkeypatch.setattr(turns, "Waiting", lambda: waiting)
    step = relabel(image)
    with pytest.raises(LabelError, match=r"libvirt, or another program") as raised:
        label.apply(step, no_bind)
    assert raised.value.where == image
    assert raised.value.hint == "see who holds it: lslocks, and run again"
    assert labels.of(image) == VIRT_IMAGE
    labels.give(image, GIVEN)
    (failed,) = label.undo_all((step,), nobody, find.Search(waiting=waiting))
    assert "libvirt, or another program" in str(failed)
    assert labels.of(image) == GIVEN
    # what keeps its label is not waited for
    label.apply(relabel(image, GIVEN, GIVEN), no_bind)
    locks.give_up(libvirt, *turns.BYTES)
    assert label.undo_all((step,), nobody, find.Search(waiting=waiting)) == []
    assert labels.of(image) == VIRT_IMAGE


def test_a_turn_is_waited_for(image: str, libvirt: int, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locks.take(libvirt, locks.EXCLUSIVE, *turns.BYTES)
    monkeypatch.setattr(time, "sleep", lambda _: locks.give_up(libvirt, *turns.BYTES))
    label.apply(relabel(image), no_bind)
    assert labels.of(image) == GIVEN


def test_who_never_lets_go_costs_the_wait_once(image: str, libvirt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locks.take(libvirt, locks.EXCLUSIVE, *turns.BYTES)
    clock, slept = [0.0], []

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        slept.append(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    descriptor, waiting = os.open(image, os.O_PATH), turns.Waiting(1.0)
    for most in (1.0, 0.0):
        slept.clear()
        with pytest.raises(LabelError), turns.turn(descriptor, image, waiting):
            pass
        assert sum(slept) == pytest.approx(most, abs=0.05)
    os.close(descriptor)


def test_nothing_but_a_file_is_opened_for_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        descriptor = os.open(path, os.O_PATH)
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", lambda *_: pytest.fail("it is opened"))
            with turns.turn(descriptor, str(path), turns.Waiting(0.0)):
                pass
        os.close(descriptor)
