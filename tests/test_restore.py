"""However VMs, watchers and the host end: once `recover` has run, every file has the label that stood before."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from confined_qemu.host import cgroups, filesystems, inodes, locks, processes
from confined_qemu.labels import journal, label, restore
from confined_qemu.model.context import Context
from confined_qemu.model.errors import ConfinedQemuError, JournalError, LsmError
from confined_qemu.model.facts import FileKind
from confined_qemu.model.lean import replace
from confined_qemu.model.mcs import Level
from confined_qemu.model.record import Record
from confined_qemu.model.resource import Sharing
from confined_qemu.model.steps import Bind, Create, JournalStep, MakeFolder, OwnGroup, Relabel
from tests import launches
from tests.examples import examples
from tests.fakes import DEBIAN, VIRT_IMAGE, Crash, Labels, install_labels, install_processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHER = Context.parse("system_u:object_r:user_home_t:s0")
FILES = ("a", "b")


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> Labels:
    return install_labels(monkeypatch)


# ---- one VM


def one_vm(folder: Path, labels: Labels, *, pid: int = 7, shared: bool = False) -> tuple[str, list[str]]:
    """Journal and apply a VM of two disks and a pidfile; return the journal and the disks."""
    context = DEBIAN.kvm.at(Level(0, frozenset((1, pid))))
    image = Context("system_u", "object_r", "svirt_image_t", context.range)
    disks = [str(folder / name) for name in ("x.img", "y.img")]
    steps: list[JournalStep] = [MakeFolder(str(folder / "run"), image)]
    for disk in disks:
        with open(disk, "w", encoding="ascii"):
            labels.give(disk, VIRT_IMAGE)
        descriptor = os.open(disk, os.O_PATH)
        identity = inodes.identity_of(descriptor)
        os.close(descriptor)
        steps.append(Relabel(disk, identity, FileKind.REGULAR, 1, VIRT_IMAGE, image, VIRT_IMAGE, exclusive=True))
    steps.append(Create(str(folder / "pid"), image, VIRT_IMAGE, remove=True))
    own = folder / "journal"
    own.mkdir()
    path, held = journal.write(
        str(own), Record("vm", processes.boot_id(), pid, 1, "tcg", context, tuple(steps), shared)
    )
    os.close(held)
    for step in steps:
        label.apply(step, _no_bind)
    return path, disks


def _no_bind(bind: Bind) -> None:
    raise AssertionError(bind)


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no process live."""
    install_processes(monkeypatch)


@pytest.mark.usefixtures("gone")
def test_all_is_undone_and_the_journal_goes(tmp_path: Path, labels: Labels) -> None:
    path, disks = one_vm(tmp_path, labels)
    result = restore.restore(path)
    assert result is not None
    assert result.failed == ()
    assert [labels.of(disk) for disk in disks] == [VIRT_IMAGE] * 2
    assert sorted(os.listdir(tmp_path)) == ["journal", "x.img", "y.img"]
    assert sorted(os.listdir(tmp_path / "journal")) == ["history", "lock"]
    assert restore.restore(path) is None


@pytest.mark.usefixtures("gone")
def test_labels_are_on_disk_before_the_journal_goes(
    tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disks = one_vm(tmp_path, labels)
    seen = []

    def syncfs(descriptor: int) -> None:
        assert os.fstat(descriptor).st_dev == tmp_path.stat().st_dev
        seen.append(([labels.of(disk) for disk in disks], os.path.exists(path)))
        if len(seen) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(filesystems, "syncfs", syncfs)
    failed = restore.restore(path)
    assert failed is not None
    assert "cannot be synced" in str(failed.failed[0])
    assert os.path.exists(path), "what is not on disk is not forgotten"
    # the second time nothing changes any more, and it is synced all the same or was never lost
    labels.give(disks[0], label_given(path, disks[0]))
    done = restore.restore(path)
    assert done is not None
    assert done.failed == ()
    assert not os.path.exists(path)
    assert seen == [([VIRT_IMAGE] * 2, True)] * 2


def label_given(path: str, disk: str) -> Context:
    """Return the label that the journal says a disk was given."""
    record = journal.read(path)
    assert record is not None
    return next(step.after for step in record.steps if isinstance(step, Relabel) and step.path == disk)


def test_what_failed_is_tried_again(tmp_path: Path, labels: Labels) -> None:
    path, disks = one_vm(tmp_path, labels)
    labels.at(2)  # the pidfile's label is read, then the last disk's
    result = restore.restore(path)
    assert result is not None
    assert [type(error) for error in result.failed] == [LsmError]
    assert sorted(str(labels.of(disk)) != str(VIRT_IMAGE) for disk in disks) == [False, True]
    assert restore.recover([os.path.dirname(path)])[0].failed == ()
    assert [labels.of(disk) for disk in disks] == [VIRT_IMAGE] * 2


def test_a_running_vm_is_left_alone(tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    table = install_processes(monkeypatch)
    table.ticks[7] = 1
    path, _ = one_vm(tmp_path, labels)
    entry = journal.entries(os.path.dirname(path))[0]
    assert restore.state_of(entry) is restore.State.LIVE
    assert restore.recover([os.path.dirname(path)]) == []
    held = journal.take(path, wait=False)
    assert held is not None
    del table.ticks[7]
    assert restore.state_of(entry) is restore.State.ENDING
    os.close(held)
    assert restore.state_of(entry) is restore.State.PENDING


@pytest.mark.parametrize("what", ["pid-reused", "boot", "zombie"])
def test_another_process_is_not_the_vm(
    tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    table = install_processes(monkeypatch)
    table.ticks[7] = 1
    path, _ = one_vm(tmp_path, labels)
    entry = journal.entries(os.path.dirname(path))[0]
    assert restore.pid_of(entry) == 7
    match what:
        case "pid-reused":
            table.ticks[7] = 2
        case "boot":
            table.boot = "another"
        case _:
            monkeypatch.setattr(processes, "has_ended", lambda _: True)
    assert restore.pid_of(entry) is None


@pytest.mark.parametrize("boot", ["this-boot", "another"])
def test_a_disk_that_is_mounted_anew_may_have_another_number(
    tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    """Without a generation only another boot explains it: on the same one it is another disk's file."""
    table = install_processes(monkeypatch)
    told = iter(range(5, 9))
    generations = {str(tmp_path / name): next(told) for name in ("x.img", "y.img")}
    here = boot == "this-boot"
    monkeypatch.setattr(
        inodes,
        "_generation",
        lambda number, _: generations.get(os.readlink(f"/proc/self/fd/{number}")) if here else None,
    )
    path, disks = one_vm(tmp_path, labels)
    with open(path, encoding="ascii") as file:
        text = file.read()
    device = os.stat(disks[0]).st_dev
    other = text.replace(f'"device": {device}', f'"device": {device + 1}')
    with open(path, "w", encoding="ascii") as file:
        file.write(re.sub('"generation": [0-9]+', '"generation": null', other))
    restore.recover([os.path.dirname(path)])
    assert labels.of(disks[0]) != VIRT_IMAGE
    with open(path, "w", encoding="ascii") as file:
        file.write(other)
    table.boot = boot
    restore.recover([os.path.dirname(path)])
    assert [labels.of(disk) for disk in disks] == [VIRT_IMAGE] * 2


@pytest.mark.parametrize("boot", ["this-boot", "another"])
def test_a_control_group_is_removed_and_after_another_boot_is_another_vms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    table = install_processes(monkeypatch)
    monkeypatch.setattr(cgroups, "GROUPS", str(tmp_path / "groups"))
    group = tmp_path / "groups/x.scope/confined-qemu-7"
    group.mkdir(parents=True)
    (tmp_path / "vms").mkdir()
    step = OwnGroup(str(group), kills=True)
    path, held = journal.write(
        str(tmp_path / "vms"), Record("vm", processes.boot_id(), 7, 1, "kvm", DEBIAN.kvm, (step,))
    )
    os.close(held)
    table.boot = boot if boot == "another" else table.boot
    (done,) = restore.recover([os.path.dirname(path)])
    assert done.failed == ()
    assert group.exists() is (boot == "another")
    assert not os.path.exists(path)


@pytest.mark.usefixtures("gone")
def test_a_damaged_journal_does_not_stop_the_others(tmp_path: Path, labels: Labels) -> None:
    path, disks = one_vm(tmp_path, labels)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / f"1.1{journal.SUFFIX}").write_text("{", encoding="ascii")
    first, second = restore.recover([str(bad), os.path.dirname(path)])
    assert [type(error) for error in first.failed] == [JournalError]
    assert "is not a journal" in str(first.failed[0])
    assert second.failed == ()
    assert [labels.of(disk) for disk in disks] == [VIRT_IMAGE] * 2


def test_a_daemon_is_the_vm(tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    table = install_processes(monkeypatch)
    path, _ = one_vm(tmp_path, labels)
    entry = journal.entries(os.path.dirname(path))[0]
    table.contexts[99] = entry.record.context
    assert restore.pid_of(entry) == 99


def test_holders_are_the_live_vms_and_their_files(
    tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = install_processes(monkeypatch)
    path, _ = one_vm(tmp_path, labels)
    folder = os.path.dirname(path)
    assert restore.holders([folder]) == {}
    table.ticks[7] = 1
    found = restore.holders([folder])
    assert restore.holders([folder], without=path) == {}
    assert restore.holders([folder], without=f"{path}.other") == found
    assert len(found) == 2
    assert {(h.name, h.pid, h.exclusive, h.original) for hs in found.values() for h in hs} == {
        ("vm", 7, True, VIRT_IMAGE)
    }


def test_what_waits_for_another_vm_keeps_its_journal(
    tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other keeps its disk's label and will not put one back: nobody else would."""
    table = install_processes(monkeypatch)
    path, disks = one_vm(tmp_path, labels)
    record = journal.read(path)
    assert record is not None
    given = next(step for step in record.steps if isinstance(step, Relabel))
    kept = replace(given, before=given.after, restore=None, exclusive=False)
    table.ticks[8] = 1
    context = DEBIAN.kvm.at(Level(0, frozenset((3, 4))))
    other = Record("other", processes.boot_id(), 8, 1, "tcg", context, (kept,))
    os.close(journal.write(os.path.dirname(path), other)[1])
    result = restore.restore(path)
    assert result is not None
    assert result.failed == ()
    assert [str(error) for error in result.pending] == [
        f"{disks[0]}: is still used by the VM other, and keeps its label until that ends\n"
        "  run then: confined-qemu recover"
    ]
    assert journal.read(path) is not None
    assert labels.of(disks[0]) == given.after
    del table.ticks[8]
    assert {result.failed + result.pending for result in restore.recover([os.path.dirname(path)])} == {()}
    assert labels.of(disks[0]) == VIRT_IMAGE
    assert journal.read(path) is None


@pytest.mark.usefixtures("gone")
@pytest.mark.parametrize("static", [True, False])
def test_a_renamed_log_is_looked_for_by_a_label_that_only_one_vm_can_have(
    tmp_path: Path, labels: Labels, *, static: bool
) -> None:
    context = Context("system_u", "object_r", "svirt_image_t", DEBIAN.kvm.at(Level(0, frozenset((1, 7)))).range)
    log = Create(str(tmp_path / "log"), context, VIRT_IMAGE, remove=False)
    (tmp_path / "journal").mkdir()
    record = Record("vm", processes.boot_id(), 7, 1, "tcg", DEBIAN.kvm, (log,), static)
    path, held = journal.write(str(tmp_path / "journal"), record)
    os.close(held)
    label.apply(log, _no_bind)
    rotated = str(tmp_path / "log.1")
    os.rename(log.path, rotated)
    assert labels.of(rotated) == context
    assert restore.restore(path) is not None
    assert labels.of(rotated) == (context if static else VIRT_IMAGE)


# ---- many VMs, and every way to end


Fault = tuple[int, bool]
"""The number of the call to SELinux that goes wrong, and whether it ends the process too."""
FAULTS = st.none() | st.tuples(st.integers(1, 16), st.booleans())


@dataclass
class Live:
    """A VM that runs, and which of its files others have touched."""

    vm: launches.Vm
    path: str
    private: tuple[str, ...]
    disturbed: set[str] = field(default_factory=set)


class Host(RuleBasedStateMachine):
    """A host on which VMs start, end and crash at any call to SELinux, and where people relabel and replace files."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.place = tempfile.TemporaryDirectory(dir=base)
        self.host = launches.Host(self.place.name, self.patch)
        self.labels, self.table, self.folder = self.host.labels, self.host.table, self.host.journals
        self.own = set(os.listdir(self.place.name))
        self.good: dict[str, set[Context]] = {}
        for name in FILES:
            self.new_file(self.at(name), VIRT_IMAGE)
        self.live: list[Live] = []

    def at(self, name: str) -> str:
        return os.path.join(self.place.name, name)

    def new_file(self, path: str, context: Context) -> None:
        with open(f"{path}.new", "w", encoding="ascii"):
            self.labels.give(f"{path}.new", context)
        os.rename(f"{path}.new", path)
        self.good[path] = {context}

    # ---- launching

    @rule(
        wanted=st.dictionaries(st.sampled_from(FILES), st.sampled_from([Sharing.PRIVATE, Sharing.CONTENT]), min_size=1),
        log=st.booleans(),
        fault=FAULTS,
    )
    def start(self, wanted: dict[str, Sharing], log: bool, fault: Fault | None) -> None:
        """Start a VM; `fault` is the call that fails, and whether it ends the launcher too."""
        arguments = [
            word
            for name, sharing in wanted.items()
            for word in ("-drive", f"file={self.at(name)},format=raw{',readonly=on' * (sharing is Sharing.CONTENT)}")
        ]
        if log:
            number = self.host.pid + 1
            qmp = f"unix:{self.at(f'qmp{number}')},server=on,wait=off"
            arguments += ["-pidfile", self.at(f"pid{number}"), "-qmp", qmp]
        if fault is not None:
            self.labels.at(fault[0], Crash() if fault[1] else None)
        try:
            vm = self.host.launch(*arguments)
        except (ConfinedQemuError, Crash) as error:
            self.settled()
            self.host.end_companions(watched=not isinstance(error, Crash))
            return
        self.settled()
        private = tuple(self.at(name) for name, sharing in wanted.items() if sharing is Sharing.PRIVATE)
        self.live.append(Live(vm, os.path.join(self.folder, f"{vm.pid}.1.{self.table.boot}{journal.SUFFIX}"), private))

    def settled(self) -> None:
        """Let nothing more go wrong."""
        self.labels.faults.clear()
        self.labels.creating_now = None

    # ---- ending

    @rule(sharing=st.sampled_from([Sharing.PRIVATE, Sharing.CONTENT]))
    def start_well(self, sharing: Sharing) -> None:
        """Start a VM of one disk, without anything going wrong."""
        self.start({"a": sharing}, log=False, fault=None)

    @precondition(lambda self: bool(self.live))
    @rule(number=st.integers(0, 9), fault=FAULTS, watched=st.booleans())
    def end(self, number: int, fault: Fault | None, watched: bool) -> None:
        """End a VM; its watcher puts back, or fails, or is killed meanwhile or before."""
        live = self.live.pop(number % len(self.live))
        if watched and fault is not None:
            self.labels.at(fault[0], Crash() if fault[1] else None)
        with suppress(Crash):
            self.host.end(live.vm, watched=watched)
        self.settled()

    @rule()
    def power_cut(self) -> None:
        """Start the host anew: every process is gone, journals and labels stay."""
        for live in self.live:
            self.host.end(live.vm, watched=False)
        self.live.clear()
        self.table.boot += "'"

    @rule()
    def recover(self) -> None:
        """Check, after `recover`, all that is held."""
        for result in restore.recover([self.folder]):
            assert result.failed == ()
        used = {step.path for entry in journal.entries(self.folder) for step in entry.record.steps}
        for path, good in self.good.items():
            if path not in used:
                assert self.labels.of(path) in good, (os.path.basename(path), str(self.labels.of(path)))
        living = {f"{kind}{live.vm.pid}" for live in self.live for kind in ("pid", "qmp")}
        assert set(os.listdir(self.place.name)) <= {*self.own, *FILES, *living}
        assert len(os.listdir(self.at("runtime"))) <= len(self.live)
        assert len(journal.entries(self.folder)) == len(self.live)

    # ---- other people

    @rule(name=st.sampled_from(FILES))
    def relabel(self, name: str) -> None:
        """Label a file as an administrator would. The next VM may know the old label from another that uses it."""
        path = self.at(name)
        used = any(step.path == path for entry in journal.entries(self.folder) for step in entry.record.steps)
        self.labels.give(path, OTHER)
        self.good[path] = {OTHER, *(self.good[path] if used else ())}
        for live in self.live:
            live.disturbed.add(path)

    @rule(name=st.sampled_from(FILES))
    def replace(self, name: str) -> None:
        """Put another file in the place of one."""
        path = self.at(name)
        self.new_file(path, VIRT_IMAGE)
        for live in self.live:
            live.disturbed.add(path)

    # ---- always

    @invariant()
    def images_are_their_vms(self) -> None:
        """Hold each private image to the pair of the one VM that has it."""
        for live in self.live:
            for path in set(live.private) - live.disturbed:
                assert self.labels.of(path).range == live.vm.context.range

    def teardown(self) -> None:
        """End everything, and look a last time."""
        self.power_cut()
        self.recover()
        self.patch.undo()
        self.place.cleanup()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(str(tmp_path))
    yield made
    made.teardown()


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "error"])
@pytest.mark.parametrize("call", range(2, 15))
def test_a_launch_that_ends_at_any_call(host: Host, call: int, crash: bool) -> None:
    host.start({"a": Sharing.PRIVATE, "b": Sharing.CONTENT}, log=True, fault=(call, crash))
    assert host.live == []
    host.recover()


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "error"])
@pytest.mark.parametrize("call", range(1, 7))
def test_a_watcher_that_ends_at_any_call(host: Host, call: int, crash: bool) -> None:
    host.start({"a": Sharing.PRIVATE, "b": Sharing.CONTENT}, log=True, fault=None)
    host.end(0, fault=(call, crash), watched=True)
    assert len(journal.entries(host.folder)) == 1
    host.recover()


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("watched", [True, False])
def test_readers_share_and_the_last_one_puts_back(host: Host, first: int, watched: bool) -> None:
    host.start_well(Sharing.CONTENT)
    host.start_well(Sharing.CONTENT)
    assert len(host.live) == 2
    host.end(first, fault=None, watched=watched)
    host.recover()
    assert host.labels.of(host.at("a")) == DEBIAN.content
    host.end(0, fault=None, watched=watched)
    host.recover()
    assert host.labels.of(host.at("a")) == VIRT_IMAGE


@pytest.mark.parametrize("resume", [True, False])
def test_the_end_of_a_vm_puts_back_what_a_dead_one_left_on_its_files(host: Host, resume: bool) -> None:
    host.start_well(Sharing.CONTENT)
    host.start_well(Sharing.CONTENT)
    first, second = (live.path for live in host.live)
    host.end(0, fault=None, watched=False)
    host.end(0, fault=None, watched=False)
    assert restore.restore(second, resume=resume) is not None
    assert [entry.path for entry in journal.entries(host.folder)] == ([] if resume else [first])


def test_nobody_reads_what_another_writes(host: Host) -> None:
    for first, second in ((Sharing.PRIVATE, Sharing.CONTENT), (Sharing.CONTENT, Sharing.PRIVATE)):
        host.start_well(first)
        host.start_well(second)
        assert len(host.live) == 1
        host.end(0, fault=None, watched=True)


def test_labels_stay_as_somebody_else_set_them(host: Host) -> None:
    host.start_well(Sharing.PRIVATE)
    host.relabel("a")
    host.end(0, fault=None, watched=True)
    assert host.labels.of(host.at("a")) == OTHER


def test_a_dead_vms_label_is_nobodys_original(host: Host) -> None:
    """Even where its journal is lost: the policy's label for the path is the one to go back to."""
    host.start_well(Sharing.PRIVATE)
    host.live[0].disturbed.add(host.at("a"))
    path = host.live[0].path
    host.end(0, fault=None, watched=False)
    os.unlink(path)
    host.start_well(Sharing.PRIVATE)
    host.end(0, fault=None, watched=True)
    assert host.labels.of(host.at("a")) == VIRT_IMAGE


def test_labels_come_back_whatever_ends_when(tmp_path: Path) -> None:
    class Here(Host):
        def __init__(self) -> None:
            super().__init__(str(tmp_path))

    run_state_machine_as_test(Here, settings=settings(examples(20), stateful_step_count=30))


def test_of_two_in_one_context_each_is_itself(tmp_path: Path, labels: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Static VMs may share a context: what runs in it tells nothing, who holds the live file does."""
    table = install_processes(monkeypatch)
    path, disks = one_vm(tmp_path, labels, shared=True)
    entry = journal.entries(os.path.dirname(path))[0]
    table.contexts |= {98: entry.record.context, 99: entry.record.context}
    assert restore.pid_of(entry) is None, "98 and 99 are another VM's"
    hold = journal.hold(path, VIRT_IMAGE)
    table.opened.add((99, journal.live_path(path)))
    assert restore.pid_of(entry) == 99
    assert restore.recover([os.path.dirname(path)]) == []
    os.close(hold.held)
    assert restore.pid_of(entry) is None
    assert restore.recover([os.path.dirname(path)])[0].failed == ()
    assert [labels.of(disk) for disk in disks] == [VIRT_IMAGE] * 2
    assert not os.path.exists(journal.live_path(path))
    os.close(hold.watched)


@pytest.mark.touches_host
def test_a_live_file_is_held_by_whoever_inherits_it(tmp_path: Path, labels: Labels) -> None:
    """By a daemon too, whose parent is gone; and no longer than that."""
    path = str(tmp_path / f"7.1{journal.SUFFIX}")
    assert not journal.is_held(path)
    hold = journal.hold(path, VIRT_IMAGE)
    assert labels.of(journal.live_path(path)) == VIRT_IMAGE
    reading, writing = os.pipe()
    # the shell ends at once, and leaves a child behind that ends when the pipe does (on 4: a job's 0 is /dev/null)
    command = ["sh", "-c", "exec 4<&0; cat <&4 >/dev/null 2>&1 &"]
    subprocess.run(command, stdin=reading, pass_fds=(hold.held,), check=True)
    os.close(hold.held)
    os.close(reading)
    assert journal.is_held(path)
    os.close(writing)
    locks.wait_for_others(hold.watched)
    os.close(hold.watched)
    assert not journal.is_held(path)
    journal.remove(path)
    assert os.listdir(tmp_path) == []
