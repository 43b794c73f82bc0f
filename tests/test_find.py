"""A file that has another name when its VM ends gets its label back; what cannot be found is told and not forgotten."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import handles
from confined_qemu.labels import find, restore
from tests.fakes import VIRT_IMAGE
from tests.launches import Host

if TYPE_CHECKING:
    from pathlib import Path

    from tests.launches import Vm


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(str(tmp_path), monkeypatch)
    os.mkdir(made.at("elsewhere"))
    made.file("disk.img")
    return made


def started(host: Host) -> Vm:
    """Start a VM with a disk and a log; both are labelled for it alone."""
    disk = ("-drive", f"file={host.at('disk.img')},format=raw,if=virtio")
    vm = host.launch(*disk, "-serial", f"file:{host.at('log')}")
    for name in ("disk.img", "log"):
        assert host.labels.of(host.at(name)).range == vm.context.range
    return vm


def failures(host: Host, *gone: str) -> list[str]:
    """Run `recover`; return what could not be done."""
    return [str(error) for done in restore.recover([host.journals], frozenset(gone)) for error in done.failed]


# ---- with its watcher, which has held it since the start


@pytest.mark.parametrize("name", ["disk.img", "log"])
@pytest.mark.parametrize("place", ["other", "elsewhere/other"])
def test_the_watcher_knows_a_renamed_file(host: Host, name: str, place: str) -> None:
    vm = started(host)
    os.rename(host.at(name), host.at(place))
    host.end(vm)
    assert host.labels.of(host.at(place)) == VIRT_IMAGE
    assert host.left() == []


@pytest.mark.parametrize("name", ["disk.img", "log"])
def test_the_watcher_knows_a_file_that_another_replaced(host: Host, name: str) -> None:
    vm = started(host)
    os.rename(host.at(name), host.at("old"))
    given = host.labels.of(host.at("old"))
    host.file(name, b"new")
    host.labels.give(host.at(name), given)  # whoever copies a file with its label
    host.end(vm)
    assert host.labels.of(host.at("old")) == VIRT_IMAGE
    assert host.left() == []


def test_the_watcher_knows_that_a_file_is_gone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "opened", lambda *_: None)  # nobody but root is told
    vm = started(host)
    for name in ("disk.img", "log"):
        os.unlink(host.at(name))
    host.end(vm)
    assert host.left() == []


# ---- without it


@pytest.mark.parametrize("name", ["disk.img", "log"])
def test_what_was_renamed_in_its_folder_is_found(host: Host, name: str) -> None:
    host.end(started(host), watched=False)
    os.rename(host.at(name), host.at("other"))
    assert failures(host) == []
    assert host.labels.of(host.at("other")) == VIRT_IMAGE
    assert host.left() == []


def test_what_is_elsewhere_is_found_by_its_handle(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.end(started(host), watched=False)
    os.rename(host.at("disk.img"), host.at("elsewhere/other"))
    monkeypatch.setattr(handles, "opened", lambda *_: find.at(host.at("elsewhere/other")))
    assert failures(host) == []
    assert host.labels.of(host.at("elsewhere/other")) == VIRT_IMAGE


def test_what_is_not_found_is_told_and_kept_until_it_is_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "opened", lambda *_: None)
    host.end(started(host), watched=False)
    os.rename(host.at("disk.img"), host.at("elsewhere/other"))
    for _ in range(2):
        (said,) = failures(host)
        assert said.startswith(f"{host.at('disk.img')}: was renamed or removed; inode ")
        assert f"confined-qemu recover --forget {host.at('disk.img')}" in said
        assert host.left() != []
    os.rename(host.at("elsewhere/other"), host.at("disk.img"))
    assert failures(host) == []
    assert host.labels.of(host.at("disk.img")) == VIRT_IMAGE
    assert host.left() == []


def test_a_person_may_say_that_it_is_gone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "opened", lambda *_: None)
    host.end(started(host), watched=False)
    os.unlink(host.at("disk.img"))
    assert failures(host, host.at("other")) != []
    assert failures(host, host.at("disk.img")) == []
    assert host.left() == []


def test_after_a_boot_a_folder_that_is_not_there_says_nothing_of_its_files(host: Host) -> None:
    """Its file system may not be mounted yet: only what is at the path itself tells that it is."""
    os.rename(host.at("disk.img"), host.at("elsewhere/disk.img"))
    vm = host.launch("-drive", f"file={host.at('elsewhere/disk.img')},format=raw,if=virtio")
    host.end(vm, watched=False)
    host.table.boot = "another"
    os.rename(host.at("elsewhere"), host.at("unmounted"))
    assert len(failures(host)) == 1
    os.rename(host.at("unmounted"), host.at("elsewhere"))
    assert failures(host) == []
    assert host.labels.of(host.at("elsewhere/disk.img")) == VIRT_IMAGE


# ---- the next VM


def test_a_new_vm_on_a_renamed_image_finds_what_a_dead_one_left(host: Host) -> None:
    host.end(started(host), watched=False)
    os.rename(host.at("disk.img"), host.at("other.img"))
    os.unlink(host.at("log"))
    vm = host.launch("-drive", f"file={host.at('other.img')},format=raw,if=virtio")
    host.end(vm)
    assert host.labels.of(host.at("other.img")) == VIRT_IMAGE
    assert host.left() == []


def test_a_file_that_is_not_found_stops_no_vm_on_another_at_its_path(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "opened", lambda *_: None)
    host.end(started(host), watched=False)
    shutil.move(host.at("disk.img"), host.at("elsewhere/disk.img"))
    os.unlink(host.at("log"))
    host.file("disk.img", b"another")
    host.end(started(host))
    assert host.labels.of(host.at("disk.img")) == VIRT_IMAGE
    assert len(failures(host)) == 1


def test_the_pair_of_a_file_that_is_not_put_back_is_nobodys(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from confined_qemu.launch import conflicts

    host.end(vm := started(host), watched=False)
    host.file("other.img")
    assert vm.context.range is not None
    categories = sorted(vm.context.range.low.categories)
    tried: list[int] = []

    def same_again(size: int) -> int:
        """Draw the dead VM's pair first (it is number `at` of all), then the next one."""
        first, second = categories
        at = sum(1023 - row for row in range(first)) + second - first - 1
        tried.append((at + len(tried)) % size)
        return tried[-1]

    monkeypatch.setattr(conflicts, "_any_below", same_again)
    other = host.launch("-drive", f"file={host.at('other.img')},format=raw,if=virtio")
    assert len(tried) == 2
    assert other.context.range != vm.context.range
    host.end(other)


# ---- a launch


def test_what_changed_after_the_plan_is_told_before_anything_is_journalled(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    from confined_qemu.launch import execute
    from confined_qemu.model.errors import LabelError

    accepted = execute.accepted

    def swap(*arguments: object) -> object:
        plan = accepted(*arguments)  # type: ignore[type-var, arg-type]
        os.rename(host.at("disk.img"), host.at("old"))
        host.file("disk.img", b"another")
        return plan

    monkeypatch.setattr(execute, "accepted", swap)
    with pytest.raises(LabelError, match="changed during launch"):
        started(host)
    assert host.left() == []
    assert host.labels.of(host.at("old")) == VIRT_IMAGE
