"""Which files may lie in a folder that becomes a place for images: what users brought there, on every policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import lsm
from confined_qemu.install import adopt, policylabels
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError
from confined_qemu.plan import places
from tests.fakes import DEBIAN, Crash, install_labels

if TYPE_CHECKING:
    from pathlib import Path


def look(monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    monkeypatch.setattr(adopt, "_require_idle", lambda _: None)
    monkeypatch.setattr(lsm, "policy_contexts", lambda: DEBIAN)
    found = policylabels.Labelled(-1, 0, "/srv/vms/a.img", Context.parse(label))
    monkeypatch.setattr(policylabels, "entries", lambda _: [found])
    adopt._look_through("/srv/vms")


@pytest.mark.parametrize(
    "type_", ["user_home_t", "admin_home_t", "virt_home_t", "svirt_home_t", "data_home_t", "cache_home_t", "var_t"]
)
def test_what_a_user_brought_may_lie_there(monkeypatch: pytest.MonkeyPatch, type_: str) -> None:
    look(monkeypatch, f"unconfined_u:object_r:{type_}:s0")


@pytest.mark.parametrize("type_", ["config_home_t", "ssh_home_t", "shell_exec_t", "container_file_t"])
def test_what_is_no_image_may_not(monkeypatch: pytest.MonkeyPatch, type_: str) -> None:
    with pytest.raises(HostError, match=f"not an image: labelled unconfined_u:object_r:{type_}:s0"):
        look(monkeypatch, f"unconfined_u:object_r:{type_}:s0")


# ---- while others write there


def test_what_is_swapped_meanwhile_is_labelled_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link takes a folder's place as soon as it was looked at: what it leads to keeps its label."""
    labels = install_labels(monkeypatch)
    ours, secret = Context.parse("system_u:object_r:virt_image_t:s0"), Context.parse("system_u:object_r:shadow_t:s0")
    brought = Context.parse("unconfined_u:object_r:var_t:s0")
    monkeypatch.setattr(lsm, "policy_contexts", lambda: DEBIAN)
    monkeypatch.setattr(lsm, "customizable_types", frozenset)
    monkeypatch.setattr(lsm, "default_label", lambda _path, _mode: ours)
    folder, elsewhere = tmp_path / "vms", tmp_path / "elsewhere"
    for place, label in ((folder / "in", brought), (elsewhere, secret)):
        place.mkdir(parents=True)
        (place / "file").touch()
        labels.give(str(place), label)
        labels.give(str(place / "file"), label)
    labels.give(str(folder), brought)

    def swap(entry: policylabels.Labelled) -> None:
        adopt._require_image(entry)
        if entry.path == str(folder / "in"):
            (folder / "in").rename(tmp_path / "away")
            (folder / "in").symlink_to(elsewhere)

    policylabels.restore(str(folder), swap)
    assert labels.of(str(elsewhere / "file")) == secret
    assert labels.of(str(elsewhere)) == secret
    assert labels.of(str(tmp_path / "away/file")).type == "virt_image_t", "the inode that was looked at"


def test_a_file_that_came_meanwhile_is_asked_about_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = install_labels(monkeypatch)
    secret = Context.parse("system_u:object_r:shadow_t:s0")
    monkeypatch.setattr(lsm, "policy_contexts", lambda: DEBIAN)
    monkeypatch.setattr(lsm, "customizable_types", frozenset)
    monkeypatch.setattr(lsm, "default_label", lambda _path, _mode: labels.default)
    (tmp_path / "shadow").touch()
    labels.give(str(tmp_path / "shadow"), secret)
    (tmp_path / "vms").mkdir()
    (tmp_path / "shadow").rename(tmp_path / "vms/shadow")
    with pytest.raises(HostError, match="not an image"):
        policylabels.restore(str(tmp_path / "vms"), adopt._require_image)
    assert labels.of(str(tmp_path / "vms/shadow")) == secret


def test_user_and_level_stay_and_so_do_customizable_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = install_labels(monkeypatch)
    monkeypatch.setattr(lsm, "customizable_types", lambda: frozenset({"virt_content_t"}))
    monkeypatch.setattr(lsm, "default_label", lambda _path, _mode: labels.default)
    for name, label in (("a", "unconfined_u:object_r:var_t:s0:c1"), ("b", "system_u:object_r:virt_content_t:s0")):
        (tmp_path / name).touch()
        labels.give(str(tmp_path / name), Context.parse(label))
    (line,) = policylabels.restore(str(tmp_path), lambda _: None)
    assert line.endswith("/a from unconfined_u:object_r:var_t:s0:c1 to unconfined_u:object_r:virt_image_t:s0:c1")
    assert labels.of(str(tmp_path / "b")).type == "virt_content_t"


# ---- an undo that was cut off


def test_undo_goes_on_where_one_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the file context was gone and not all labels were: the next one does the others, a third nothing."""
    labels = install_labels(monkeypatch)
    image, plain = Context.parse("system_u:object_r:virt_image_t:s0"), Context.parse("system_u:object_r:var_t:s0")
    contexts = [f"{places.pattern(str(tmp_path))} all files system_u:object_r:virt_image_t:s0"]

    def semanage(*_: str) -> None:
        contexts.clear()

    for module, name, answer in (
        (adopt, "_folder", lambda folder, _verb: folder), (adopt, "_require_idle", lambda _: None),
        (adopt, "_semanage", semanage), (lsm, "policy_contexts", lambda: DEBIAN),
        (lsm, "customizable_types", frozenset), (lsm, "local_file_contexts", lambda: tuple(contexts)),
        (lsm, "default_label", lambda _path, _mode: image if contexts else plain),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, answer)
    (tmp_path / "a").touch()
    for path in (tmp_path, tmp_path / "a"):
        labels.give(str(path), image)
    labels.at(4, Crash())  # the folder has its label back, the file has not
    with pytest.raises(Crash):
        adopt.undo(str(tmp_path))
    assert contexts == []
    assert labels.of(str(tmp_path / "a")) == image
    assert not adopt.undo(str(tmp_path)).context_changed
    assert labels.of(str(tmp_path / "a")) == plain
    with pytest.raises(HostError, match="no file context of its own"):
        adopt.undo(str(tmp_path))
