"""`allow` and `revoke` whole: a VM is launched and given files while it runs, on the host of tests/launches.py."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import lsm, processes
from confined_qemu.labels import journal, label, statefolders, strangers
from confined_qemu.launch import grants
from confined_qemu.model.errors import HostError, JournalError, LabelError
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.record import Grant
from tests.launches import Host, Vm

if TYPE_CHECKING:
    from pathlib import Path

    from confined_qemu.model.context import Context


class Running:
    """A host with one VM, whose process is the test's: its working directory and its owner are really there."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.said: list[str] = []
        self.first = host.file("first.img", bytes(512))
        host.pid = int(os.readlink("/proc/self")) - 1
        self.vm: Vm = host.launch(
            "-name", "vm", "-accel", "tcg", "-drive", f"file={self.first},format=raw,if=virtio", "-display", "none"
        )
        self.work = folder / "work"
        self.work.mkdir()

    def allow(self, path: str, *, readonly: bool = False, form: str | None = "raw") -> str:
        """Call `allow` as the command does."""
        return grants.allow("vm", path, readonly=readonly, form=form, warn=self.said.append)

    def label(self, path: str) -> Context:
        """Return a file's label."""
        return self.host.labels.of(path)

    def grants(self) -> tuple[Grant, ...]:
        """Return what the journal says the VM was given."""
        (entry,) = journal.entries(self.host.journals)
        return entry.record.grants


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    (tmp_path / "host").mkdir()
    made = Host(str(tmp_path / "host"), monkeypatch)
    monkeypatch.setattr(processes, "open_inodes", lambda _: frozenset())
    monkeypatch.chdir(tmp_path)
    return Running(made, tmp_path)


def test_a_file_is_labelled_told_and_taken_back(running: Running) -> None:
    path = running.host.file("second.img", bytes(512))
    before = running.label(path)
    said = running.allow(path)
    given = running.label(path)
    assert given.range == running.vm.context.range
    assert given != before
    assert said == f"vm: {path} is labelled {given}"
    assert [grant.path for grant in running.grants()] == [path]
    assert grants.revoke("vm", path) == f"vm: {path} is taken back"
    assert running.label(path) == before
    assert running.grants() == ()


def test_a_missing_file_is_made_and_goes_again_empty(running: Running) -> None:
    path = running.host.at("new.log")
    assert running.allow(path) == f"vm: {path} is made, and labelled {running.label(path)}"
    assert running.label(path).range == running.vm.context.range
    grants.revoke("vm", path)
    assert not os.path.exists(path)


def test_a_relative_name_is_the_callers_and_qemus_folder_is_entered(running: Running) -> None:
    path = running.host.file("second.img", bytes(512))
    os.chdir(running.host.folder)
    running.allow("second.img")
    assert running.label(path).range == running.vm.context.range
    os.chdir(running.host.folder)
    assert grants.revoke("vm", "second.img") == f"vm: {path} is taken back"


def test_what_all_vms_may_read_needs_no_label_twice(running: Running) -> None:
    path = running.host.file("lists.txt")
    first = running.allow(path, readonly=True)
    assert running.label(path).range != running.vm.context.range
    running.host.labels.give(path, running.label(path))
    assert first.startswith(f"vm: {path} is labelled ")
    assert running.allow(path, readonly=True) == f"vm: {path} may be used as it is"


def test_the_second_of_two_is_kept_when_the_first_is_taken_back(running: Running) -> None:
    paths = [running.host.file(f"{name}.img", bytes(512)) for name in "ab"]
    for path in paths:
        running.allow(path)
    grants.revoke("vm", paths[0])
    assert [grant.path for grant in running.grants()] == [paths[1]]
    assert running.label(paths[1]).range == running.vm.context.range
    running.host.end(running.vm)
    assert running.label(paths[1]).range != running.vm.context.range
    assert running.host.left() == []


def test_what_it_was_started_with_is_not_revoked(running: Running) -> None:
    with pytest.raises(HostError, match="the VM vm was started with it") as raised:
        grants.revoke("vm", running.first)
    assert raised.value.where == running.first
    assert running.label(running.first).range == running.vm.context.range


def test_what_was_never_allowed(running: Running) -> None:
    path = running.host.file("second.img")
    with pytest.raises(HostError, match="the VM vm was not given it by allow") as raised:
        grants.revoke("vm", path)
    assert raised.value.hint == "see: confined-qemu ps"


def test_a_name_of_no_file(running: Running) -> None:
    with pytest.raises(LabelError, match="names no file of the host"):
        running.allow("/dev/fdset/3")


def test_a_layer_is_taken_back_with_its_image(running: Running) -> None:
    """The journal has one grant with two files; the deeper one alone cannot go."""
    paths = [running.host.file(f"{name}.img", bytes(512)) for name in "ab"]
    for path in paths:
        running.allow(path)
    (entry,) = journal.entries(running.host.journals)
    first, second = entry.record.grants
    others = [Grant(running.host.at(name), ()) for name in ("0.img", "z.img")]
    journal.write_grants(entry.path, (others[0], Grant(first.path, (*first.steps, *second.steps)), others[1]))
    with pytest.raises(HostError, match="it was given as a layer of") as raised:
        grants.revoke("vm", paths[1])
    assert raised.value.hint == f"run: confined-qemu revoke vm {paths[0]}"


def test_no_label_is_asked_for_where_selinux_is_off(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
    with pytest.raises(HostError, match="no VM has labels"):
        running.allow(running.host.file("second.img"))


def test_a_dead_vms_label_that_cannot_go_back_is_in_the_way(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal still names the file: whoever is given it would lose the label to that journal's next restore."""
    path = running.host.file("second.img", bytes(512))
    running.host.pid = 100
    dead = running.host.launch(
        "-name", "dead", "-accel", "tcg", "-drive", f"file={path},format=raw", "-display", "none"
    )
    running.host.end(dead, watched=False)
    real = label.undo_all
    fault = LabelError("injected", where=path)
    monkeypatch.setattr(label, "undo_all", lambda steps, *_: [fault for _ in steps])
    with pytest.raises(JournalError, match="cannot be put back") as raised:
        running.allow(path)
    assert raised.value.hint == "run: confined-qemu recover"
    monkeypatch.setattr(label, "undo_all", real)
    running.allow(path)
    assert running.label(path).range == running.vm.context.range


def test_a_vm_that_has_ended_is_named(running: Running) -> None:
    running.host.end(running.vm)
    with pytest.raises(HostError, match="no confined VM of yours named vm runs"):
        running.allow(running.host.file("second.img"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (FileNotFoundError(2, "gone"), "has ended"),
        (PermissionError(13, "no"), "directory cannot be entered"),
    ],
)
def test_qemus_folder_cannot_be_entered(
    running: Running, monkeypatch: pytest.MonkeyPatch, fault: OSError, said: str
) -> None:
    def chdir(_: str) -> None:
        raise fault

    path = running.host.file("second.img")
    before = running.label(path)
    monkeypatch.setattr(os, "chdir", chdir)
    with pytest.raises(HostError, match=said):
        running.allow(path)
    assert running.label(path) == before


def test_the_owners_rights_cannot_be_had(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def become(_: int) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(statefolders, "is_own", lambda _: False)
    monkeypatch.setattr(strangers, "become", become)
    with pytest.raises(HostError, match="cannot change to the VM's user"):
        grants._become_owner(running.host.journals)


@pytest.mark.usefixtures("running")
def test_qemus_user_is_named_where_it_is_not_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    found = grants._find("vm")
    assert grants._user(found) is None
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 4711)
    assert grants._user(found) == str(real)


def test_a_made_file_that_is_gone_is_revoked_all_the_same(running: Running) -> None:
    path = running.host.at("new.log")
    running.allow(path)
    os.unlink(path)
    grants.revoke("vm", path)
    assert running.grants() == ()


def test_nothing_is_taken_back_unless_it_is_known_to_be_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_inodes(_: int) -> frozenset[tuple[int, int]]:
        raise PermissionError(13, "no")

    path = running.host.file("second.img", bytes(512))
    running.allow(path)
    monkeypatch.setattr(processes, "open_inodes", open_inodes)
    with pytest.raises(HostError, match="the open files of the VM cannot be read"):
        grants.revoke("vm", path)
    assert running.label(path).range == running.vm.context.range
