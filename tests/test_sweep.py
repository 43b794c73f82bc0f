"""The sweep at a VM's end: what it made in a folder that outlives it gets the folder's label, and nothing else does."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.host import mounts, walk
from confined_qemu.labels import find, label, trees
from confined_qemu.model.context import Context
from confined_qemu.model.errors import LabelError
from confined_qemu.model.facts import Identity
from confined_qemu.model.steps import Sweep
from tests.fakes import VIRT_IMAGE, Labels, install_labels

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.touches_host
GIVEN = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")
OTHERS = Context.parse("system_u:object_r:svirt_image_t:s0:c3,c4")
SHARED = Context.parse("system_u:object_r:svirt_image_t:s0")


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Labels:
    return install_labels(monkeypatch)


@pytest.fixture
def share(tmp_path: Path, labels: Labels) -> str:
    """A share with files of this VM, of another one and of the host, and links out of it."""
    outside = tmp_path / "outside"
    outside.write_text("")
    labels.give(str(outside), GIVEN)
    folder = tmp_path / "share"
    (folder / "mine" / "deeper").mkdir(parents=True)
    for name in ("file", "mine/deeper/file", "theirs", "old"):
        (folder / name).write_text("")
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(folder / "pipe")
    for name in ("file", "mine", "mine/deeper", "mine/deeper/file", "link", "pipe"):
        labels.give(str(folder / name), GIVEN)
    labels.give(str(folder / "theirs"), OTHERS)
    return str(folder)


def step(path: str, *, deep: bool = True) -> Sweep:
    found = os.stat(path)
    return Sweep(path, Identity(found.st_dev, found.st_ino), GIVEN, SHARED, deep)


@pytest.mark.parametrize("deep", [True, False])
def test_what_the_vm_made_gets_the_folders_label(share: str, labels: Labels, deep: bool) -> None:
    label.apply(step(share, deep=deep), lambda _: None)
    label.undo(step(share, deep=deep), lambda _: False)
    for name in ("file", "mine", "link", "pipe"):
        assert labels.of(f"{share}/{name}") == SHARED, name
    for name in ("mine/deeper", "mine/deeper/file"):
        assert labels.of(f"{share}/{name}") == (SHARED if deep else GIVEN), name
    assert labels.of(f"{share}/theirs") == OTHERS
    assert labels.of(f"{share}/old") == VIRT_IMAGE
    assert labels.of(f"{share}/../outside") == GIVEN


@pytest.mark.parametrize("instead", ["another folder", "a link", "nothing", "a file"])
def test_a_folder_is_swept_under_its_new_name_and_another_thing_in_its_place_is_left(
    share: str, labels: Labels, instead: str
) -> None:
    planned = step(share)
    os.rename(share, f"{share}.moved")
    match instead:
        case "another folder":
            os.mkdir(share)
            os.close(os.open(f"{share}/file", os.O_CREAT | os.O_WRONLY))
            labels.give(f"{share}/file", GIVEN)
        case "a link":
            os.symlink(f"{share}.moved", share)
        case "a file":
            os.close(os.open(share, os.O_CREAT | os.O_WRONLY))
    trees.sweep(planned)
    assert labels.of(f"{share}.moved/file") == SHARED
    assert instead != "another folder" or labels.of(f"{share}/file") == GIVEN


@pytest.mark.usefixtures("labels")
def test_a_folder_that_was_made_is_known_by_its_label(share: str, labels: Labels) -> None:
    planned = Sweep(share, None, GIVEN, SHARED, deep=False)
    trees.sweep(planned)
    assert labels.of(f"{share}/file") == GIVEN
    labels.give(share, GIVEN)
    trees.sweep(planned)
    assert labels.of(f"{share}/file") == SHARED


def test_what_is_mounted_in_the_folder_is_left(share: str, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = os.stat(f"{share}/mine").st_ino  # as a bind mount is: the same device, another mount
    numbers = mounts.number_of
    monkeypatch.setattr(mounts, "number_of", lambda fd: -1 if os.fstat(fd).st_ino == mounted else numbers(fd))
    trees.sweep(step(share))
    assert labels.of(f"{share}/file") == SHARED
    assert [labels.of(f"{share}/{name}") for name in ("mine", "mine/deeper/file")] == [GIVEN, GIVEN]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT, errno.EIO])
@pytest.mark.parametrize("where", ["share", "mine"])
def test_a_folder_that_cannot_be_read(share: str, monkeypatch: pytest.MonkeyPatch, code: int, where: str) -> None:
    unreadable = os.stat(share if where == "share" else f"{share}/mine").st_ino
    really = os.open

    def opened(path: str, flags: int, **given: Any) -> int:
        if path.startswith("/proc/self/fd/") and os.stat(path).st_ino == unreadable:
            raise OSError(code, os.strerror(code))
        return really(path, flags, **given)

    monkeypatch.setattr(os, "open", opened)
    if where == "mine" and code != errno.EIO:
        trees.sweep(step(share))  # none that a VM made
        return
    with pytest.raises(LabelError, match="cannot be read"):
        trees.sweep(step(share))


def test_what_is_too_much_at_once_is_done_by_more_of_them(
    share: str, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not the VM's does not count, so that each time gets further, and the last one is to the end."""
    monkeypatch.setattr(walk, "MOST", 4)
    with pytest.raises(LabelError, match="more than 4 entries") as caught:
        trees.sweep(step(share))
    assert "run: confined-qemu recover (it does as many again)" in str(caught.value)
    trees.sweep(step(share))
    assert {labels.of(f"{share}/{name}") for name in ("file", "mine", "mine/deeper/file", "link", "pipe")} == {SHARED}


def test_what_lies_too_deep_is_put_right_by_hand(share: str, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "DEEPEST", 2)
    for _ in range(2):  # and stays so
        with pytest.raises(LabelError, match="more than 2 folders deep") as caught:
            trees.sweep(step(share))
    assert f"run: find {share} -xdev -context {GIVEN} -exec chcon -h {SHARED} {{}} +" in str(caught.value)
    assert f"confined-qemu recover --forget {share}" in str(caught.value)
    assert [labels.of(f"{share}/{name}") for name in ("mine/deeper", "mine/deeper/file")] == [SHARED, GIVEN]
    trees.sweep(step(share), find.Search(forgotten=frozenset({share})))
