"""The last VMs that ended: written by whoever ends them, bounded, and read whatever became of the file."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.labels import history, journal
from confined_qemu.model.context import Context
from confined_qemu.model.errors import JournalError
from confined_qemu.model.facts import FileKind, Identity
from confined_qemu.model.pastvm import GivenFile, PastVm
from confined_qemu.model.record import Record
from confined_qemu.model.steps import Relabel
from tests.fakes import given_away
from tests.strategies import hostile

if TYPE_CHECKING:
    from pathlib import Path

PAIR = Context.parse("system_u:system_r:svirt_t:s0:c1,c2")
IMAGE = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")
STEP = Relabel("/x/a\n.img", Identity(1, 7, None), FileKind.REGULAR, 1, IMAGE, IMAGE, None, exclusive=True)


def test_another_users_damaged_folder_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("good", "bad")]
    for folder in folders:
        folder.mkdir(mode=0o700)
        vm(folder)
    os.symlink("/etc/passwd", folders[1] / "history")
    assert len(history.known(given_away(folders, monkeypatch))) == 1


def vm(folder: Path, name: str = "a", pid: int = 5) -> journal.Entry:
    record = Record(name, "boot", pid, 9, "kvm", PAIR, (STEP,))
    path, descriptor = journal.write(str(folder), record)
    os.close(descriptor)
    return journal.Entry(path, record)


def test_a_vm_that_runs_and_then_ended(tmp_path: Path) -> None:
    entry = vm(tmp_path)
    (live,) = history.known([str(tmp_path)])
    assert (live.name, live.context, live.pid, live.end) == ("a", PAIR, 5, None)
    assert live.files == (GivenFile("/x/a\n.img", 7, str(IMAGE)),)
    history.remember(entry)
    journal.remove(entry.path)
    (ended,) = history.known([str(tmp_path)])
    assert ended.end is not None
    assert ended.start <= ended.end
    assert (ended.start, ended.files) == (live.start, live.files)


def test_many_vms_leave_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_LARGEST", 2000)
    for pid in range(1, 101):
        entry = vm(tmp_path, pid=pid)
        history.remember(entry)
        journal.remove(entry.path)
    pids = sorted(vm.pid for vm in history.known([str(tmp_path)]))
    assert pids == list(range(pids[0], 101))
    assert 3 <= len(pids) <= 20
    assert sorted(os.listdir(tmp_path)) == ["history"]


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    entry = vm(tmp_path)
    (tmp_path / "history").mkdir()
    history.remember(entry)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"name": 1}', "[" * 5000, "\xff"])
def test_a_damaged_line_is_passed_over(tmp_path: Path, text: str) -> None:
    entry = vm(tmp_path)
    history.remember(entry)
    journal.remove(entry.path)
    with open(tmp_path / "history", "a", encoding="latin-1") as file:
        file.write(text + "\n")
    assert len(history.known([str(tmp_path)])) == 1


@given(hostile)
def test_any_name_comes_back(name: str) -> None:
    made = PastVm(name, PAIR, 1, 2, 3, (GivenFile(name, 7, name),))
    line = json.dumps(history._encode(made))
    assert "\n" not in line
    assert history._decode(line) == made


@given(st.text())
def test_any_line_is_answered(text: str) -> None:
    history._decode(text)


def test_a_link_and_a_pipe_are_not_followed(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", tmp_path / "history")
    with pytest.raises(JournalError, match="cannot be read"):
        history.known([str(tmp_path)])
    (tmp_path / "history").unlink()
    os.mkfifo(tmp_path / "history")
    assert history.known([str(tmp_path)]) == []
