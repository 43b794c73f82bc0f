"""Who stands in a VM's way: holders of a static level, and the steps of dead VMs that meet a new one's files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import inodes, processes
from confined_qemu.labels import others, restore, statefolders
from confined_qemu.launch import conflicts, pairs
from confined_qemu.model import paths
from confined_qemu.model.context import Context
from confined_qemu.model.facts import FileKind, LiveProcess, Occupant
from confined_qemu.model.invocation import Invocation, Seclabel, SeclabelType
from confined_qemu.model.lean import replace
from confined_qemu.model.mcs import Level, Window
from confined_qemu.model.steps import Relabel
from tests.worlds import World

if TYPE_CHECKING:
    from pathlib import Path

VM = "system_u:system_r:svirt_t"
IMAGE = Context.parse("system_u:object_r:virt_image_t:s0")
STATIC = Context.parse(f"{VM}:s0:c1,c2,c3")


@pytest.fixture
def registry(tmp_path: Path) -> str:
    return str(tmp_path / paths.PAIRS)


def occupants(
    registry: str, monkeypatch: pytest.MonkeyPatch, live: dict[int, str], names: dict[str, str]
) -> tuple[Occupant, ...]:
    """Return who is in the way of STATIC, where these processes run and these VMs are ours."""
    found = tuple(LiveProcess(pid, Context.parse(text)) for pid, text in live.items())
    monkeypatch.setattr(processes, "holding_categories", lambda: found)
    monkeypatch.setattr(conflicts, "_names", lambda: {Context.parse(text): name for text, name in names.items()})
    invocation = Invocation("x", "qemu", (), seclabel=Seclabel(SeclabelType.STATIC, label=STATIC))
    mine = pairs.Registry(registry)
    try:
        return conflicts.reserved(mine, invocation, World().facts(invocation)).occupants
    finally:
        mine.close()


def test_whoever_runs_in_a_part_of_the_level_is_named(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    live = {
        10: f"{VM}:s0:c1,c2",  # a dynamic VM of ours
        11: f"{VM}:s0:c1,c3",  # of others: libvirt's
        12: f"{VM}:s0:c4,c5",  # another level
        13: f"{VM}:s0:c1,c9",  # reaches beyond it: neither reads the other's files
        14: "system_u:system_r:httpd_t:s0:c1,c2",  # no VM
        15: "system_u:system_r:svirt_t",  # a policy without levels
    }
    found = occupants(registry, monkeypatch, live, {f"{VM}:s0:c1,c2": "a"})
    assert found == (
        Occupant("a", 10, Level.parse("s0:c1,c2")),
        Occupant(None, 11, Level.parse("s0:c1,c3")),
    )


def test_static_vms_may_share_a_level(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = pairs.Registry(registry)
    assert pairs.reserve_level(other, frozenset((1, 2)))
    assert occupants(registry, monkeypatch, {10: f"{VM}:s0:c1,c2"}, {}) == ()
    other.close()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({f"{VM}:s0:c2,c3": "a", f"{VM}:s0:c8,c9": "b"}, Occupant("a", None, Level.parse("s0:c2,c3"))),
        ({f"{VM}:s0:c8,c9": "b", VM: "c"}, Occupant(None, None, Level.parse("s0:c1.c3"))),
    ],
)
def test_a_vm_that_is_on_its_way_has_its_pair_and_no_process(
    registry: str, monkeypatch: pytest.MonkeyPatch, names: dict[str, str], expected: Occupant
) -> None:
    other = pairs.Registry(registry)
    assert pairs.reserve(other, Window(0, (2, 3)), (), lambda _: 0)
    assert occupants(registry, monkeypatch, {}, names) == (expected,)
    other.close()


def test_another_users_journal_is_believed_one_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told:
        """As much of an entry, or of a claim, as is asked for."""

        def __init__(self, context: str) -> None:
            self.context = Context.parse(context)
            self.record = self
            self.entry = self

    monkeypatch.setattr(statefolders, "readable_folders", list)
    monkeypatch.setattr(restore, "own_entries", lambda _: [Told(f"{VM}:s0:c1.c4"), Told(VM)])
    claims = [Told(f"{VM}:s0:{categories}") for categories in ("c5,c6", "c7", "c10.c900")]
    monkeypatch.setattr(others, "claims", lambda _: claims)
    assert conflicts._pending() == [frozenset((1, 2, 3, 4)), frozenset((5, 6))]


def test_a_step_meets_its_file_under_each_name_that_it_has_now(tmp_path: Path) -> None:
    image, link, other = (str(tmp_path / name) for name in ("a.img", "sub/link.img", "b.img"))
    os.mkdir(tmp_path / "sub")
    for path in (image, other):
        with open(path, "wb"):
            pass
    os.link(image, link)
    descriptor = os.open(image, os.O_RDONLY)
    identity = inodes.identity_of(descriptor)
    os.close(descriptor)
    step = Relabel(image, identity, FileKind.REGULAR, 2, IMAGE, IMAGE, IMAGE, exclusive=True)

    def meets(*named: str, trees: frozenset[str] = frozenset(), of: Relabel = step) -> bool:
        mine = {path: os.stat(path).st_ino if os.path.exists(path) else None for path in named}
        return conflicts._meets(of, mine, set(trees))

    assert meets(image)
    assert meets(link)
    assert meets(other, link)
    assert not meets(other)
    assert not meets(str(tmp_path / "missing"))
    assert meets(trees=frozenset((str(tmp_path),)))
    assert not meets(trees=frozenset((str(tmp_path / "sub"),)))
    # in its place lies another file now, and the tree of a VM has nothing of the dead one's
    os.unlink(image)
    os.rename(other, image)
    assert not meets(image)
    assert not meets(trees=frozenset((str(tmp_path),)))
    assert meets(link, of=replace(step, path=link))
    gone = replace(step, path=str(tmp_path / "gone.img"))
    assert not meets(trees=frozenset((str(tmp_path),)), of=gone)
