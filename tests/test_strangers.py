"""Whatever another user writes into a journal: root survives it, believes only what is so, and does not obey it."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.cli import command, ps
from confined_qemu.host import inodes, lsm, processes, selinuxfs
from confined_qemu.install import install, shim
from confined_qemu.labels import journal, others, restore, statefolders, strangers
from confined_qemu.model import paths
from confined_qemu.model.context import Context
from confined_qemu.model.errors import printable
from confined_qemu.model.facts import FileKind, Identity, SelinuxMode, believed
from confined_qemu.model.mcs import Level
from confined_qemu.model.record import Grant, Record, encode, encode_grants
from confined_qemu.model.steps import (
    Bind,
    Create,
    JournalStep,
    KeepFolder,
    LabelTree,
    MakeFolder,
    Relabel,
    Sweep,
)
from tests import strategies
from tests.fakes import DEBIAN, VIRT_IMAGE, Labels, Processes, install_labels, install_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MINE, THEIRS = DEBIAN.kvm.at(Level(0, frozenset((1, 2)))), DEBIAN.kvm.at(Level(0, frozenset((3, 4))))
ALONE = DEBIAN.kvm.at(Level(0, frozenset((5, 6))))
"""What no drawn record runs in."""
STRANGER = os.getuid() or 4711


class Hosted:
    """A state folder in which root has a folder and a stranger another; root follows it without a fork."""

    def __init__(self, base: str, patch: pytest.MonkeyPatch) -> None:
        self.base = base
        self.labels: Labels = install_labels(patch)
        self.table: Processes = install_processes(patch)
        self.users: dict[int, int] = {}
        """The user of a process, where it is not the one who asks."""
        patch.setattr(paths, "STATE", os.path.join(base, "state"))
        patch.setattr(lsm, "policy_contexts", lambda: DEBIAN)
        patch.setattr(selinuxfs, "vm_domains", lambda: frozenset({"svirt_t"}))
        patch.setattr(processes, "run_by", self._run_by)
        patch.setattr(strangers, "follow", self._follow)
        self.patch = patch
        self.root = os.path.join(base, "root")  # its own by not being a number, as the tests are any user's
        self.theirs = os.path.join(base, "state", str(STRANGER))
        for folder in (os.path.join(base, "state"), self.root, self.theirs):
            os.mkdir(folder, 0o700)
        self.folders = [self.root, self.theirs]
        patch.setattr(statefolders, "readable_folders", lambda: list(self.folders))
        patch.setattr(statefolders, "is_own", lambda folder: (folder == self.theirs) is (os.geteuid() == -STRANGER))
        patch.setattr(statefolders, "owner_of", lambda folder: STRANGER if folder == self.theirs else 0)
        patch.setattr(statefolders, "_require_own", self._require_own)

    def _require_own(self, path: str, _found: os.stat_result, *, reading: bool) -> None:
        assert statefolders.is_own(path) or reading, f"uid {os.geteuid()} is at work in {path}"

    @contextmanager
    def stranger(self) -> Iterator[None]:
        """Be the stranger inside of the block."""
        before = os.geteuid
        self.patch.setattr(os, "geteuid", lambda: -STRANGER)
        try:
            yield
        finally:
            self.patch.setattr(os, "geteuid", before)

    def _follow(
        self, folders: Iterable[str], work: Callable[[str], Iterator[dict[str, Any]]], _: float
    ) -> list[strangers.StrangersAnswer]:
        found = []
        for folder in folders:
            with self.stranger():
                rows = [json.loads(json.dumps(row)) for row in work(folder)]
            found.append(strangers.StrangersAnswer(folder, tuple(rows), None))
        return found

    def _run_by(self, wanted: Iterable[tuple[Context, int]]) -> dict[tuple[Context, int], int]:
        running = {(context, self.users.get(pid, 0)): pid for pid, context in self.table.contexts.items()}
        return {key: running[key] for key in wanted if key in running}

    def image(self, name: str = "a.iso", label: Context = VIRT_IMAGE) -> str:
        path = os.path.join(self.base, name)
        with open(path, "w", encoding="ascii"):
            self.labels.give(path, label)
        return path

    def relabel(self, path: str, after: Context, **changes: Any) -> Relabel:
        descriptor = os.open(path, os.O_PATH)
        identity = inodes.identity_of(descriptor)
        os.close(descriptor)
        fields: dict[str, Any] = {"before": VIRT_IMAGE, "restore": VIRT_IMAGE, "exclusive": False} | changes
        return Relabel(path, identity, FileKind.REGULAR, 1, after=after, **fields)

    def vm(self, folder: str, pid: int, context: Context, *steps: JournalStep, name: str = "vm") -> str:
        record = Record(name, processes.boot_id(), pid, 1, "tcg", context, steps)
        if folder == self.theirs:
            with self.stranger():
                path, held = journal.write(folder, record)
        else:
            path, held = journal.write(folder, record)
        os.close(held)
        return path

    def runs(self, pid: int, context: Context, uid: int) -> None:
        self.table.ticks[pid], self.table.contexts[pid], self.users[pid] = 1, context, uid

    def ends(self, pid: int) -> None:
        del self.table.ticks[pid], self.table.contexts[pid], self.users[pid]


@pytest.fixture
def hosted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosted:
    return Hosted(str(tmp_path), monkeypatch)


# ---- claims


@pytest.mark.parametrize("lie", ["no process", "another's process", "another domain", "another label", "unreadable"])
def test_a_claim_that_is_not_so_does_not_keep_a_label(
    hosted: Hosted, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stranger's journal names root's file and a live pid."""
    image = hosted.image(label=DEBIAN.content)
    path = hosted.vm(hosted.root, 7, MINE, hosted.relabel(image, DEBIAN.content))
    context, uid, label = THEIRS, STRANGER, DEBIAN.content
    match lie:
        case "another's process":
            uid = STRANGER + 1
        case "another domain":
            context = Context.parse(str(THEIRS).replace("svirt_t", "unconfined_t"))
        case "another label":
            label = VIRT_IMAGE
        case "unreadable":
            monkeypatch.setattr(os, "access", lambda *_: False)
    hosted.vm(hosted.theirs, 8, context, hosted.relabel(image, label))
    if lie != "no process":
        hosted.runs(8, context, uid)
    hosted.table.ticks[8] = 1
    result = restore.restore(path)
    assert result is not None
    assert (result.failed, result.pending) == ((), ())
    assert hosted.labels.of(image) == VIRT_IMAGE
    assert not os.path.exists(path)


def test_a_claim_on_what_is_mine_alone_does_not_keep_its_label(hosted: Hosted) -> None:
    given = Context("system_u", "object_r", "svirt_image_t", MINE.range)
    image = hosted.image(label=given)
    path = hosted.vm(hosted.root, 7, MINE, hosted.relabel(image, given, exclusive=True))
    hosted.vm(hosted.theirs, 8, MINE, hosted.relabel(image, given, exclusive=True))
    hosted.runs(8, MINE, STRANGER)
    assert restore.restore(path) is not None
    assert hosted.labels.of(image) == VIRT_IMAGE


def test_a_label_that_another_user_uses_waits_for_that(hosted: Hosted) -> None:
    image = hosted.image(label=DEBIAN.content)
    path = hosted.vm(hosted.root, 7, MINE, hosted.relabel(image, DEBIAN.content))
    hosted.vm(hosted.theirs, 8, THEIRS, hosted.relabel(image, DEBIAN.content, restore=None))
    hosted.runs(8, THEIRS, STRANGER)
    result = restore.restore(path)
    assert result is not None
    (pending,) = result.pending
    assert f"the VM vm of uid {STRANGER} (pid 8)" in str(pending)
    assert result.failed == ()
    assert hosted.labels.of(image) == DEBIAN.content
    assert os.path.exists(path), "pending, not done"
    hosted.ends(8)
    (mine,) = [one for one in restore.recover(hosted.folders) if one.path == path]
    assert (mine.failed, mine.pending) == ((), ())
    assert hosted.labels.of(image) == VIRT_IMAGE


def test_the_end_of_who_shared_it_puts_back_what_waited(hosted: Hosted) -> None:
    """The stranger's VM labelled it and ended first: its journal alone knows the label that stood before."""
    before = Context.parse("system_u:object_r:user_home_t:s0")
    image = hosted.image(label=DEBIAN.content)
    theirs = hosted.vm(hosted.theirs, 8, THEIRS, hosted.relabel(image, DEBIAN.content, before=before, restore=before))
    mine = hosted.vm(
        hosted.root, 7, MINE, hosted.relabel(image, DEBIAN.content, restore=DEBIAN.content),
        hosted.relabel(hosted.image("other.iso", DEBIAN.content), DEBIAN.content),
    )  # fmt: skip
    assert restore.restore(mine) is not None
    assert hosted.labels.of(image) == before
    assert not os.path.exists(theirs)


def test_the_label_before_is_nobodys_elses_word(hosted: Hosted) -> None:
    evil = Context.parse("system_u:object_r:shadow_t:s0")
    image = hosted.image(label=DEBIAN.content)
    hosted.vm(hosted.theirs, 8, THEIRS, hosted.relabel(image, DEBIAN.content, restore=evil))
    hosted.runs(8, THEIRS, STRANGER)
    ((holder,),) = restore.holders(hosted.folders).values()
    assert (holder.name, holder.pid, holder.original, holder.claimed) == ("vm", 8, None, DEBIAN.content)
    assert believed((holder,), DEBIAN.content) == (holder,)
    assert believed((holder,), VIRT_IMAGE) == ()


@pytest.mark.parametrize("label", [VIRT_IMAGE, Context.parse("system_u:object_r:svirt_image_t:s0:c7,c9")])
def test_who_claims_a_label_that_no_vm_of_theirs_gets_holds_nothing(hosted: Hosted, label: Context) -> None:
    image = hosted.image(label=label)
    hosted.vm(hosted.theirs, 8, THEIRS, hosted.relabel(image, label, exclusive=True))
    hosted.runs(8, THEIRS, STRANGER)
    assert restore.holders(hosted.folders) == {}


def test_nothing_is_written_in_another_users_folder(hosted: Hosted) -> None:
    """A tree that both have waits; its notes are handed to nobody else."""
    tree = os.path.join(hosted.base, "tree")
    os.mkdir(tree)
    hosted.labels.give(tree, DEBIAN.content)
    descriptor = os.open(tree, os.O_PATH)
    identity = inodes.identity_of(descriptor)
    os.close(descriptor)
    step = LabelTree(tree, identity, VIRT_IMAGE, DEBIAN.content, exclusive=False, number=0, count=1)
    path = hosted.vm(hosted.root, 7, MINE, step)
    hosted.vm(hosted.theirs, 8, THEIRS, step)
    hosted.runs(8, THEIRS, STRANGER)
    before = sorted(os.listdir(hosted.theirs))
    result = restore.restore(path)
    assert result is not None
    assert len(result.pending) == 1
    assert sorted(os.listdir(hosted.theirs)) == before


# ---- anything that is a journal

_number = st.integers(0, (1 << 64) - 1)
_paths = strategies.paths | st.sampled_from(
    ["/", "relative/x", "/dev/null", "/nowhere/x", "/proc/self/mem", "/proc/1/root"]
)
_contexts = strategies.contexts | st.sampled_from([DEBIAN.content, VIRT_IMAGE, MINE, THEIRS])
_maybe = st.none() | _contexts
_identities = st.builds(Identity, _number, _number, st.none() | _number)
_steps: st.SearchStrategy[JournalStep] = st.one_of(
    st.builds(
        Relabel,
        _paths,
        _identities,
        st.sampled_from(list(FileKind)),
        _number,
        _contexts,
        _contexts,
        _maybe,
        st.booleans(),
    ),
    st.builds(Create, _paths, _contexts, _contexts, st.booleans(), st.booleans(), st.integers(0, 0o7777)),
    st.builds(MakeFolder, _paths, _contexts),
    st.builds(Bind, strategies.hostile, _paths, _maybe, _maybe, st.none() | _paths, st.booleans()),
    st.builds(KeepFolder, _paths, _contexts, _contexts),
    st.builds(Sweep, _paths, st.none() | _identities, _contexts, _contexts, st.booleans()),
    st.builds(LabelTree, _paths, _identities, _contexts, _contexts, st.booleans(), _number, _number),
)
_several = st.lists(_steps, max_size=4).map(tuple)
_records = st.builds(
    Record,
    strategies.hostile | strategies.stray,
    st.sampled_from(["this-boot", "another"]),
    st.integers(1, 1 << 22),
    _number,
    st.from_regex("[ -~]{0,64}", fullmatch=True),
    _contexts,
    _several,
    st.booleans(),
    st.lists(st.builds(Grant, _paths, _several), max_size=2).map(tuple),
)


@given(record=_records, alive=st.booleans())
def test_root_survives_whatever_a_journal_may_say(
    tmp_path_factory: pytest.TempPathFactory, record: Record, alive: bool
) -> None:
    """In the folder of a stranger, whom root follows, and in root's own."""
    for stranger in (True, False):
        with (
            pytest.MonkeyPatch.context() as patch,
            tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as base,
        ):
            hosted = Hosted(base, patch)
            patch.setattr(lsm, "mode", lambda: SelinuxMode.ENFORCING)
            folder = hosted.theirs if stranger else hosted.root
            _write(folder, record)
            if alive:
                hosted.runs(record.pid, record.context, STRANGER if stranger else 0)
                hosted.table.ticks[record.pid] = record.start_ticks
            mine = hosted.image("mine.iso", DEBIAN.content)
            own = hosted.vm(hosted.root, 1 << 21, ALONE, hosted.relabel(mine, DEBIAN.content))
            restore.holders(hosted.folders)
            assert all(line.isprintable() for line in ps.table(ps.live()))
            done = restore.recover(hosted.folders)
            for result in done:
                assert all(is_clean(error) for error in (*result.failed, *result.pending))
                assert printable(result.name).isprintable()
            assert not os.path.exists(own)
            assert hosted.labels.of(mine) == VIRT_IMAGE
            assert others.claims(hosted.folders) is not None


def is_clean(error: Exception) -> bool:
    """Tell whether a message is lines that a terminal shows and nothing that it obeys."""
    return all(line.isprintable() for line in str(error).split("\n"))


def _write(folder: str, record: Record) -> None:
    name = os.path.join(folder, f"1.1{journal.SUFFIX}")
    with open(name, "w", encoding="ascii") as file:
        json.dump(encode(record), file)
    if record.grants:
        with open(name.replace(".json", ".allowed"), "w", encoding="ascii") as file:
            json.dump(encode_grants(record.grants), file)


# ---- `policy remove`


@pytest.fixture
def removed(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let root run `policy remove`; what is called to change the host is noted instead."""
    done: list[str] = []
    monkeypatch.setattr(statefolders, "all_folders", lambda: list(hosted.folders))
    monkeypatch.setattr(install, "require_root", lambda _: None)
    monkeypatch.setattr(install, "_semodule", lambda *words: done.append(str(words[-1])))
    monkeypatch.setattr(install, "_helpers", list)
    monkeypatch.setattr(shim, "is_system", lambda: False)
    for name in ("RECOVER_WANTED", "RECOVER_UNIT", "MODULE", "LAUNCH_SCRIPT", "DENIALS_SCRIPT", "RUNTIME"):
        monkeypatch.setattr(paths, name, os.path.join(hosted.base, "none", name))
    return done


def damage(folder: str) -> str:
    path = os.path.join(folder, f"1.1.boot{journal.SUFFIX}")
    with open(path, "w", encoding="ascii") as file:
        file.write("{")
    return path


def test_a_strangers_bad_entry_does_not_stop_policy_remove(
    hosted: Hosted, removed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad, other = damage(hosted.theirs), os.path.join(paths.STATE, paths.PAIRS)
    with open(other, "w", encoding="ascii"):
        pass
    assert command.main(["policy", "remove"]) == 0
    said = capsys.readouterr()
    assert removed == ["confined_qemu"]
    assert bad in said.err
    # what it may have meant stays, and nothing else does
    assert os.path.exists(bad)
    assert os.listdir(paths.STATE) == [os.path.basename(hosted.theirs)]
    assert f"{hosted.theirs} is kept" in said.out


def test_ones_own_bad_entry_stops_policy_remove(
    hosted: Hosted, removed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = damage(hosted.root)
    assert command.main(["policy", "remove"]) == 125
    said = capsys.readouterr()
    assert bad in said.err
    assert "these labels are to be put back first" in said.err
    assert removed == []
    os.unlink(bad)
    assert command.main(["policy", "remove"]) == 0
    assert removed == ["confined_qemu"]
    assert not os.path.exists(paths.STATE)
