"""What a launch does for each file and each layer, counted: twice as many take twice as much and no more."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import probe
from confined_qemu.launch import conflicts
from confined_qemu.model.invocation import Invocation
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from integration.guestlib import passing
from tests.launches import Host

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import FrameType

pytestmark = pytest.mark.touches_host
PACKAGE = "confined_qemu"


def counted(folder: Path, files: int) -> tuple[Counter[str], Counter[str]]:
    """Launch a VM with so many disks and end it; return what was asked of the kernel, and which functions of ours ran.

    How often a generator goes on counts too, so that a loop in a loop shows.
    """
    folder.mkdir()
    ran: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(PACKAGE):
            ran[f"{module}.{frame.f_code.co_qualname}"] += 1

    with pytest.MonkeyPatch.context() as patch:
        host = Host(str(folder), patch)
        patch.setattr(conflicts, "_any_below", lambda _: 0)  # by chance, pairs lie in several files of the registry
        words = []
        for number in range(files):
            words += ["-drive", f"if=none,id=d{number},format=raw,file={host.file(f'{number}.img')}"]
        host.labels.log.clear()
        host.doors.log.clear()
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            host.end(host.launch(*words))
        finally:
            sys.setprofile(before)
        assert host.left() == []
        return Counter([*(line.partition(" ")[0] for line in host.labels.log), *host.doors.log]), ran


def test_each_file_takes_the_same(tmp_path: Path) -> None:
    counted(tmp_path / "first", 1)  # what is imported late is there afterwards
    few, more, many = (counted(tmp_path / str(files), files) for files in (1, 21, 41))
    asked = more[0] - few[0]
    assert asked == many[0] - more[0]
    # at the launch and at the end: two labels are set, and what is at the path is looked at before and after
    assert asked == {"set_context": 40, "context_of": 80, "open": 180, "dup": 20}
    assert more[1] - few[1] == many[1] - more[1]


@pytest.mark.parametrize("layers", [1, 10, 50])
def test_each_layer_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    asked: list[str] = []

    def run(command: Sequence[str], *_: object) -> str:
        asked.append(command[-1])
        number = int(command[-1].rpartition("/")[2].partition(".")[0])
        below = {"backing-filename": f"{number - 1}.qcow2", "backing-filename-format": "qcow2"} if number else {}
        return json.dumps({"filename": command[-1], "format": "qcow2", **below})

    monkeypatch.setattr(probe, "run", run)
    for number in range(layers):
        (tmp_path / f"{number}.qcow2").touch()
    top = str(tmp_path / f"{layers - 1}.qcow2")
    disk = Resource(top, Role.DISK, Access.READ_WRITE, Sharing.PRIVATE, "disk", "qcow2")
    found = probe.follow(Invocation("x", "qemu", (), (disk,)), confined=False)
    assert found.problems == ()
    assert len(found.resources) == layers
    assert len(asked) == len(set(asked)) == layers


@pytest.mark.parametrize(("what", "most"), [("spec", (24, 63)), ("-drive", (20, 57))])
def test_a_disk_passes_few_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, most: tuple[int, int]
) -> None:
    """See `python3 -m integration.guestlib.passing` for the way that it takes; a shorter one is easier to follow."""
    monkeypatch.chdir(tmp_path)
    found = passing.counted(passing.ways(str(tmp_path))[what])
    assert found[0] <= most[0]
    assert found[1] <= most[1]
