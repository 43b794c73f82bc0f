"""A tree's labels: noted before they change, and put back after a crash at any call; nothing outside is touched."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.host import walk
from confined_qemu.labels import find, notes, trees
from confined_qemu.model.context import Context
from confined_qemu.model.errors import JournalError, LabelError, LsmError
from confined_qemu.model.facts import FileFacts, FileKind, FolderFacts, Identity
from confined_qemu.model.steps import LabelTree
from confined_qemu.plan import trees as treeplan
from tests.fakes import VIRT_IMAGE, Crash, Labels, install_labels

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.touches_host
GIVEN = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")
OTHERS = Context.parse("system_u:object_r:svirt_image_t:s0:c3,c4")
SHARED = Context.parse("unconfined_u:object_r:svirt_image_t:s0")
HOME = Context.parse("unconfined_u:object_r:user_home_t:s0")
ODD = b"new\nline \xff"


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Labels:
    monkeypatch.setattr(trees, "BATCH", 3)
    return install_labels(monkeypatch)


@pytest.fixture
def tree(tmp_path: Path, labels: Labels) -> str:
    """A tree with labels of two kinds, links out of it, a pipe, other names, and a name that is no text."""
    path = tmp_path / "tree"
    (path / "a" / "b").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.write_text("")
    for name in ("one", "two", "a/three", "a/b/four"):
        (path / name).write_text("")
    with open(os.path.join(os.fsencode(path), ODD), "w", encoding="ascii"):
        pass
    (path / "link").symlink_to(outside)
    (path / "folder").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(path / "pipe")
    os.link(path / "one", tmp_path / "another")
    for name in ("a", "a/b", "a/b/four"):
        labels.give(str(path / name), HOME)
    return str(path)


def every(tree: str) -> list[str]:
    return [tree, *(os.path.join(at, name) for at, folders, files in os.walk(tree) for name in (*folders, *files))]


def all_labels(tree: str, labels: Labels) -> dict[str, Context]:
    return {path: labels.of(path) for path in every(tree)}


def step(tree: str, given: Context = GIVEN) -> LabelTree:
    found = os.stat(tree)
    return LabelTree(tree, Identity(found.st_dev, found.st_ino), VIRT_IMAGE, given, True, 0, len(every(tree)))  # noqa: FBT003 - a field


def untold(*_: object) -> None:
    """Take no notice of progress."""


def nobody(_: Identity) -> bool:
    return False


def test_all_is_labelled_but_what_has_other_names(tree: str, labels: Labels, tmp_path: Path) -> None:
    before = all_labels(tree, labels)
    told: list[tuple[str, int, int]] = []
    trees.give(step(tree), str(tmp_path / "notes"), (), lambda *how: told.append(how))
    kept = {f"{tree}/one", f"{tree}/pipe"}
    assert {path for path, label in all_labels(tree, labels).items() if label != GIVEN} == kept
    assert labels.of(str(tmp_path / "outside")) == labels.of(str(tmp_path)) == VIRT_IMAGE
    assert told[-1] == (tree, len(before), len(before))
    assert len(told) > 1
    trees.undo(step(tree), [str(tmp_path / "notes")], nobody)
    assert all_labels(tree, labels) == before


def test_a_crash_at_any_call_ends_with_the_labels_of_before(tree: str, labels: Labels, tmp_path: Path) -> None:
    """Both on the way there and on the way back."""
    before = all_labels(tree, labels)
    where = str(tmp_path / "notes")
    for call in range(1, 200):
        labels.faults.clear()
        labels.at(call, Crash())
        try:
            trees.give(step(tree), where, (), untold)
            trees.undo(step(tree), [where], nobody)
        except Crash:
            labels.faults.clear()
            trees.undo(step(tree), [where], nobody)
            assert all_labels(tree, labels) == before, call
            os.unlink(where) if os.path.exists(where) else None
        else:
            break
    else:
        pytest.fail("it never came through")


def test_what_was_made_meanwhile_gets_its_folders_label(tree: str, labels: Labels, tmp_path: Path) -> None:
    where = str(tmp_path / "notes")
    trees.give(step(tree), where, (), untold)
    made = {"by-vm": GIVEN, "a/b/by-vm": GIVEN, "a/by-host": SHARED, "a/moved-in": VIRT_IMAGE, "a/anothers": OTHERS}
    for name, label in made.items():
        with open(f"{tree}/{name}", "w", encoding="ascii"):
            labels.give(f"{tree}/{name}", label)
    labels.give(f"{tree}/two", HOME)  # by the user, meanwhile
    os.unlink(f"{tree}/a/three")
    trees.undo(step(tree), [where], nobody)
    assert labels.of(f"{tree}/by-vm") == VIRT_IMAGE
    assert labels.of(f"{tree}/a/b/by-vm").type == "user_home_t"
    assert labels.of(f"{tree}/a/by-host") == HOME
    assert labels.of(f"{tree}/a/moved-in") == VIRT_IMAGE
    assert labels.of(f"{tree}/a/anothers") == OTHERS
    assert labels.of(f"{tree}/two") == HOME


def test_what_has_a_step_of_its_own_is_left_alone(tree: str, labels: Labels, tmp_path: Path) -> None:
    where, found = str(tmp_path / "notes"), os.stat(f"{tree}/two")
    trees.give(step(tree), where, {(found.st_dev, found.st_ino)}, untold)
    assert labels.of(f"{tree}/two") == VIRT_IMAGE
    labels.give(f"{tree}/two", GIVEN)
    trees.undo(step(tree), [where], lambda identity: identity.inode == found.st_ino)
    assert labels.of(f"{tree}/two") == GIVEN
    assert labels.of(tree) == VIRT_IMAGE


def test_notes_come_first(tree: str, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No label changes that is not on disk; a full disk changes none of its batch, and the rest goes back."""
    before, where = all_labels(tree, labels), str(tmp_path / "notes")
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        known = notes.read([where])
        changed = [path for path, label in all_labels(tree, labels).items() if label != before[path]]
        assert all(os.lstat(path).st_ino in known for path in changed)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "full")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JournalError, match="No space left on device, so they were put back"):
        trees.give(step(tree), where, (), untold)
    trees.undo(step(tree), [where], nobody)
    assert all_labels(tree, labels) == before


@pytest.mark.parametrize("instead", ["another folder", "a link", "nothing"])
def test_another_tree_in_its_place_is_not_labelled(tree: str, labels: Labels, tmp_path: Path, instead: str) -> None:
    planned = step(tree)
    os.rename(tree, f"{tree}.moved")
    if instead == "another folder":
        os.mkdir(tree)
    elif instead == "a link":
        os.symlink(f"{tree}.moved", tree)
    with pytest.raises(LabelError, match="disappeared during launch\n  run again"):
        trees.give(planned, str(tmp_path / "notes"), (), untold)
    trees.undo(planned, [str(tmp_path / "notes")], nobody)
    assert labels.of(f"{tree}.moved/two") == VIRT_IMAGE


def test_a_link_that_is_put_in_a_folders_place_leads_nowhere(
    tree: str, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = labels.context_of

    def swap(path: str | int) -> Context | None:
        if not os.path.islink(f"{tree}/a") and os.readlink(str(path)) == f"{tree}/a":
            os.rename(f"{tree}/a", str(tmp_path / "elsewhere"))
            os.symlink(tmp_path, f"{tree}/a")
        return real(path)

    monkeypatch.setattr("confined_qemu.host.lsm.context_of", swap)
    trees.give(step(tree), str(tmp_path / "notes"), (), untold)
    assert os.path.islink(f"{tree}/a")
    assert labels.of(str(tmp_path / "outside")) == labels.of(str(tmp_path)) == VIRT_IMAGE


def test_another_vms_file_stops_it(tree: str, labels: Labels, tmp_path: Path) -> None:
    labels.give(f"{tree}/a/three", OTHERS)
    with pytest.raises(LabelError, match="labelled for another VM meanwhile"):
        trees.give(step(tree), str(tmp_path / "notes"), (), untold)


def test_it_is_bounded(tree: str, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MOST", 3)
    with pytest.raises(LabelError, match="more than 3 entries"):
        trees.give(step(tree), str(tmp_path / "notes"), (), untold)
    monkeypatch.setattr(walk, "MOST", 100)
    monkeypatch.setattr(walk, "DEEPEST", 2)
    with pytest.raises(LabelError, match="cannot be read"):
        trees.give(step(tree), str(tmp_path / "notes"), (), untold)
    assert labels.of(f"{tree}/a/b/four") == HOME


def test_what_was_made_too_deep_is_put_right_by_hand(
    tree: str, labels: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(tmp_path / "notes")
    trees.give(step(tree), where, (), untold)
    monkeypatch.setattr(walk, "DEEPEST", 1)
    with pytest.raises(LabelError, match="more than 1 folders deep") as caught:
        trees.undo(step(tree), [where], nobody)
    assert f"run: find {tree} -xdev -context {GIVEN} -exec chcon -h " in str(caught.value)
    assert (labels.of(f"{tree}/a/b") == GIVEN, labels.of(tree) == GIVEN) == (True, False)
    trees.undo(step(tree), [where], nobody, find.Search(forgotten=frozenset({tree})))


def test_one_that_cannot_be_put_back_does_not_stop_the_others(tree: str, labels: Labels, tmp_path: Path) -> None:
    where = str(tmp_path / "notes")
    trees.give(step(tree), where, (), untold)
    labels.at(4, LsmError("refused"))
    with pytest.raises(LsmError, match="refused"):
        trees.undo(step(tree), [where], nobody)
    assert [path for path in every(tree) if labels.of(path) == GIVEN] != []
    trees.undo(step(tree), [where], nobody)
    assert [path for path in every(tree) if labels.of(path) == GIVEN] == []


# ---- notes


@given(st.lists(st.tuples(st.integers(0, 1 << 64), st.none() | st.integers(0, 1 << 32)), unique_by=lambda row: row[0]))
def test_notes_read_back(rows: list[tuple[int, int | None]]) -> None:
    written = [notes.Note(inode, generation, HOME) for inode, generation in rows]
    assert [notes.Note.parse(note.encode().removesuffix("\n")) for note in written] == written


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_that_a_crash_cut_off_is_none(tmp_path: Path, cut: int) -> None:
    where = str(tmp_path / "notes")
    notes.append(where, [notes.Note(1, 2, HOME), notes.Note(3, None, HOME)])
    os.truncate(where, os.path.getsize(where) - cut)
    assert set(notes.read([where])) == ({1} if cut < len("3 - ") + len(str(HOME)) + 2 else set())


@pytest.mark.parametrize("text", ["1\n", "x - a:b:c:s0\n", "1 - nonsense\n", "\xff\n"])
def test_what_are_no_notes_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "notes").write_text(text, encoding="latin-1")
    with pytest.raises(JournalError, match="does not hold the labels of a tree"):
        notes.read([str(tmp_path / "notes")])
    assert notes.read([str(tmp_path / "missing")]) == {}


def test_an_inode_of_another_generation_is_another_file() -> None:
    note = notes.Note(5, 7, HOME)
    assert note.is_of(Identity(1, 5, 7))
    assert note.is_of(Identity(1, 5, None))
    assert not note.is_of(Identity(1, 5, 8))


# ---- what is never labelled

NEVER = """
/ /usr /usr/local/x /etc /etc/x /home /home/anna /root /var /var/tmp /boot /lib /lib64/x /proc/1 /run/x /srv /tmp
/var/lib /var/lib/dpkg /var/lib/confined-qemu/0 /var/lib/libvirt/images
""".split()  # noqa: SIM905 - a table
MAY_BE = "/home/anna/work /root/work /srv/x /tmp/x /var/tmp/x /var/lib/libvirt/images/x /usrx/y".split()  # noqa: SIM905


@pytest.mark.parametrize("path", NEVER)
def test_never(path: str) -> None:
    assert treeplan.never(path) is not None


@pytest.mark.parametrize("path", MAY_BE)
def test_may_be(path: str) -> None:
    folder = FileFacts(path, path, FileKind.DIRECTORY)
    assert treeplan.never(path) is None
    assert treeplan.never(path, FolderFacts(folder)) is None
    assert treeplan.never(path, FolderFacts(folder, mount=True)) == "it is the root of a mount"
    assert treeplan.never(path, FolderFacts(folder, homes=(f"{path}/x",))) == f"a home lies in it ({path}/x)"


def test_what_had_the_shared_label_before_keeps_it(tree: str, labels: Labels, tmp_path: Path) -> None:
    """Two VMs share a tree for reading: the second finds the first one's label, and that is nobody's own."""
    labels.give(f"{tree}/two", SHARED)
    before = all_labels(tree, labels)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    for where in (first, second):
        trees.give(step(tree, SHARED), where, (), untold)
    assert labels.of(f"{tree}/a/three") == labels.of(f"{tree}/two") == SHARED
    trees.undo(step(tree, SHARED), [second, first], nobody)
    assert all_labels(tree, labels) == before
