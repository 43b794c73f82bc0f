"""`allow` and `revoke` against faults: whatever fails or dies in the middle, the label that stood before comes back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import inodes, processes
from confined_qemu.labels import journal, label, restore, statefolders
from confined_qemu.launch import grants
from confined_qemu.model.errors import HostError, LsmError
from confined_qemu.model.facts import FileKind
from confined_qemu.model.lean import replace
from confined_qemu.model.mcs import Level
from confined_qemu.model.record import Grant, Record
from confined_qemu.model.steps import Create, Relabel
from tests.fakes import DEBIAN, VIRT_IMAGE, Crash, Labels, Processes, install_labels, install_processes

if TYPE_CHECKING:
    from pathlib import Path

PROCESS = DEBIAN.kvm.at(Level(0, frozenset((1, 2))))
IMAGE = DEBIAN.image.at(Level(0, frozenset((1, 2))))


class Scene:
    """A running VM without files, and two files that it may be given."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.labels: Labels = install_labels(patch)
        self.table: Processes = install_processes(patch)
        self.opened: set[tuple[int, int]] = set()
        patch.setattr(processes, "open_inodes", lambda _: frozenset(self.opened))
        self.journals = str(folder / "journal")
        os.mkdir(self.journals)
        patch.setattr(statefolders, "readable_folders", lambda: [self.journals])
        self.files = [str(folder / "x.img"), str(folder / "y\n.img")]
        self.steps = []
        for path in self.files:
            with open(path, "w", encoding="ascii"):
                self.labels.give(path, VIRT_IMAGE)
            descriptor = os.open(path, os.O_PATH)
            identity = inodes.identity_of(descriptor)
            os.close(descriptor)
            self.steps.append(
                Relabel(path, identity, FileKind.REGULAR, 1, VIRT_IMAGE, IMAGE, VIRT_IMAGE, exclusive=True)
            )
        self.new = str(folder / "new.ppm")
        self.create = Create(self.new, IMAGE, VIRT_IMAGE, remove=False, remove_empty=True)
        self.start(7)

    def start(self, pid: int, name: str = "vm") -> str:
        """Start another VM of that name."""
        self.table.ticks[pid] = 1
        path, held = journal.write(
            self.journals, Record(name, processes.boot_id(), pid, 1, "tcg", PROCESS, (), static=True)
        )
        os.close(held)
        return path

    def give(self) -> None:
        """Give the VM all three, as `allow` does."""
        with grants._held(grants._find("vm")) as vm:
            grants._give(vm, self.files[0], (*self.steps, self.create))

    def grants(self) -> tuple[Grant, ...]:
        """Return what the journal says."""
        (entry,) = journal.entries(self.journals)
        return entry.record.grants

    def now(self) -> list[bool]:
        """Tell which files have the VM's label."""
        return [self.labels.of(path) == IMAGE for path in self.files]

    def end(self) -> None:
        """End the VM, and do its watcher's work."""
        self.table.ticks.clear()
        self.labels.faults.clear()
        self.labels.creating_now = None
        for result in restore.recover([self.journals]):
            assert result.failed == ()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_given_and_taken_back(scene: Scene) -> None:
    scene.give()
    assert scene.now() == [True, True]
    assert os.path.exists(scene.new)
    assert grants.revoke("vm", scene.files[0]) == f"vm: {scene.files[0]} is taken back"
    assert scene.now() == [False, False]
    assert not os.path.exists(scene.new)
    assert scene.grants() == ()
    with pytest.raises(HostError, match="was not given it by allow"):
        grants.revoke("vm", scene.files[0])


def test_given_again_its_earlier_layers_are_kept_and_no_other_files(scene: Scene) -> None:
    """A file's grant grows by what it names now; what was given by other names is not its own."""
    with grants._held(grants._find("vm")) as vm:
        grants._give(vm, "/0", (scene.create,))
    with grants._held(grants._find("vm")) as vm:
        grants._give(vm, scene.files[0], (*scene.steps,))
    with grants._held(grants._find("vm")) as vm:
        grants._give(vm, scene.files[0], (replace(scene.steps[0], before=IMAGE),))
    assert [(grant.path, set(grant.steps)) for grant in scene.grants()] == [
        ("/0", {scene.create}),
        (scene.files[0], {replace(scene.steps[0], before=IMAGE), scene.steps[1]}),
    ]


def test_given_and_kept_to_the_end(scene: Scene) -> None:
    scene.give()
    with open(scene.new, "w", encoding="ascii") as file:
        file.write("a screen")
    scene.end()
    assert scene.now() == [False, False]
    assert scene.labels.of(scene.new) == VIRT_IMAGE
    assert sorted(os.listdir(scene.journals)) == ["history", "lock"]


@pytest.mark.parametrize("what", [LsmError("injected"), Crash()], ids=["fails", "dies"])
@pytest.mark.parametrize("call", range(1, 9))
def test_a_fault_anywhere_in_allow(scene: Scene, call: int, what: BaseException) -> None:
    scene.labels.at(call, what)
    try:
        scene.give()
    except LsmError:
        assert scene.now() == [False, False]
        assert not os.path.exists(scene.new)
        assert scene.grants() == ()
    except Crash:
        # the process is gone: whatever it had labelled is in the journal
        scene.labels.creating_now = None
    scene.end()
    assert scene.now() == [False, False]
    assert not os.path.exists(scene.new)


@pytest.mark.parametrize("what", [LsmError("injected"), Crash()], ids=["fails", "dies"])
@pytest.mark.parametrize("call", range(1, 7))
def test_a_fault_anywhere_in_revoke(scene: Scene, call: int, what: BaseException) -> None:
    scene.give()
    scene.labels.at(call, what)
    try:
        grants.revoke("vm", scene.files[0])
    except (LsmError, Crash):
        assert len(scene.grants()) == 1
    scene.end()
    assert scene.now() == [False, False]


def test_a_vm_that_ends_meanwhile_takes_it_along(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    real = label.apply

    def apply(*rest: object) -> None:
        real(*rest)  # type: ignore[arg-type]
        scene.table.ticks.clear()

    monkeypatch.setattr(label, "apply", apply)
    with pytest.raises(HostError, match="has ended"):
        scene.give()
    assert scene.now() == [False, False]
    assert scene.grants() == ()


def test_a_vm_that_has_ended_before(scene: Scene) -> None:
    found = grants._find("vm")
    scene.end()
    with pytest.raises(HostError, match="has ended"), grants._held(found):
        pass


def test_not_while_it_is_open(scene: Scene) -> None:
    scene.give()
    inode = os.stat(scene.files[1])
    scene.opened.add((inode.st_dev, inode.st_ino))
    with pytest.raises(HostError, match="has it open"):
        grants.revoke("7", scene.files[0])
    assert scene.now() == [True, True]


def test_what_was_replaced_is_left_alone(scene: Scene) -> None:
    scene.give()
    os.rename(scene.files[0], f"{scene.files[0]}.old")
    with open(scene.files[0], "w", encoding="ascii"):
        scene.labels.give(scene.files[0], IMAGE)
    grants.revoke("vm", scene.files[0])
    assert scene.now() == [True, False]


def test_two_of_one_name_are_told_apart_by_pid(scene: Scene) -> None:
    scene.start(8)
    with pytest.raises(HostError, match="2 VMs are named vm") as raised:
        grants._find("vm")
    assert raised.value.hint == "name one by its pid: 7, 8"
    assert grants._find("8").pid == 8
    with pytest.raises(HostError, match="no confined VM of yours named 9 runs"):
        grants._find("9")


def test_a_name_is_stronger_than_a_pid(scene: Scene) -> None:
    scene.start(9, name="7")
    assert grants._find("7").pid == 9


def test_which_files_a_process_has_open(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("")
    inode = (path.stat().st_dev, path.stat().st_ino)
    assert inode not in processes.open_inodes(os.getpid())
    with path.open():
        assert inode in processes.open_inodes(os.getpid())
    assert processes.open_inodes(1 << 30) == frozenset()
