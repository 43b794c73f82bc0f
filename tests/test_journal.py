"""The journal: whole on disk before anything is labelled, or an error; and nothing but a journal is taken for one."""

from __future__ import annotations

import _thread
import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from confined_qemu.host import processes
from confined_qemu.labels import journal, restore, statefolders
from confined_qemu.model import paths
from confined_qemu.model.context import Context
from confined_qemu.model.errors import JournalError
from confined_qemu.model.facts import FileKind, Identity
from confined_qemu.model.lean import replace
from confined_qemu.model.record import Grant, Record, encode
from confined_qemu.model.steps import Bind, Create, MakeFolder, Relabel
from tests import strategies
from tests.examples import examples
from tests.messages import is_message

if TYPE_CHECKING:
    from pathlib import Path

SVIRT = Context.parse("system_u:system_r:svirt_t:s0:c1,c2")
IMAGE = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")

_number = st.integers(0, 2**63)
_identities = st.builds(Identity, _number, _number, st.none() | st.integers(0, 2**32 - 1))
_relabels = st.builds(
    Relabel,
    strategies.paths,
    _identities,
    st.sampled_from(list(FileKind)),
    st.integers(1, 9),
    strategies.contexts,
    strategies.contexts,
    st.none() | strategies.contexts,
    st.booleans(),
)
_creates = st.builds(
    Create, strategies.paths, strategies.contexts, strategies.contexts, remove=st.booleans(), remove_empty=st.booleans()
)
_folders = st.builds(MakeFolder, strategies.paths, strategies.contexts)
_binds = st.builds(
    Bind,
    strategies.names,
    strategies.paths,
    st.none() | strategies.contexts,
    st.none() | strategies.contexts,
    st.none() | strategies.paths,
)
records = st.builds(
    Record,
    strategies.hostile,
    st.uuids().map(str),
    st.integers(1, 1 << 22),
    _number,
    st.sampled_from(["kvm", "tcg"]),
    strategies.contexts,
    st.lists(_relabels | _creates | _folders | _binds, max_size=6).map(tuple),
)


def record(pid: int = 7, *steps: Relabel | Create | MakeFolder | Bind) -> Record:
    return Record("vm", "boot", pid, 99, "tcg", SVIRT, steps or (MakeFolder("/run/x", IMAGE),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("journal"))


@given(record=records)
def test_every_record_comes_back(folder: str, record: Record) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path, descriptor = journal.write(own, record)
        os.close(descriptor)
        assert journal.read(path) == record
        assert journal.entries(own) == [journal.Entry(path, record)]
        journal.remove(path)
        assert journal.read(path) is None
        assert journal.entries(own) == []
        assert os.listdir(own) == []


_grants = st.builds(Grant, strategies.paths, st.lists(_relabels | _creates, max_size=3).map(tuple))


@given(record=records, grants=st.lists(_grants, min_size=1, max_size=3).map(tuple))
def test_what_a_vm_is_given_later_comes_back_with_its_record(
    folder: str, record: Record, grants: tuple[Grant, ...]
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path, descriptor = journal.write(own, record)
        os.close(descriptor)
        journal.write_grants(path, grants)
        whole = replace(record, grants=grants)
        assert journal.entries(own) == [journal.Entry(path, whole)]
        assert whole.all_steps == (*record.steps, *(step for grant in grants for step in grant.steps))
        journal.write_grants(path, ())
        assert journal.read(path) == record
        journal.write_grants(path, grants)
        journal.remove(path)
        assert os.listdir(own) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"format": 1, "grants": [{"path": 5, "steps": []}]}'])
def test_damaged_grants_are_told_and_nothing_is_taken_for_all(tmp_path: Path, text: str) -> None:
    path, descriptor = journal.write(str(tmp_path), record())
    os.close(descriptor)
    (tmp_path / "7.99.boot.vm.allowed").write_text(text)
    with pytest.raises(JournalError, match="is not a journal"):
        journal.read(path)


def test_grants_that_cannot_be_written_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, descriptor = journal.write(str(tmp_path), record())
    os.close(descriptor)
    old = (Grant("/a", (Create("/a", IMAGE, IMAGE, remove=False),)),)
    journal.write_grants(path, old)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(JournalError, match="No space left"):
            journal.write_grants(path, (*old, Grant("/b", ())))
    found = journal.read(path)
    assert found is not None
    assert found.grants == old


# ---- writing


def test_it_is_synced_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_fsync(descriptor)

    def rename(old: str, new: str) -> None:
        done.append("name")
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    path, descriptor = journal.write(str(tmp_path), record())
    os.close(descriptor)
    journal.remove(path)
    assert done == ["file", "name", "folder", "folder"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    before = os.listdir("/proc/self/fd")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "injected")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(JournalError, match=os.strerror(number)) as raised:
            journal.write(str(tmp_path), record())
    assert raised.value.hint == "nothing was labelled"
    assert list(tmp_path.iterdir()) == []
    assert os.listdir("/proc/self/fd") == before


def test_a_disk_that_takes_a_byte_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:1]))
    path, descriptor = journal.write(str(tmp_path), record())
    os.close(descriptor)
    assert journal.read(path) == record()


def test_a_disk_that_is_full_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    room = 40

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "injected")
        written = real(descriptor, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(JournalError, match="No space left"):
        journal.write(str(tmp_path), record())
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_half_written_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / f"7.99.boot{journal.SUFFIX}.new").write_text('{"format": 1, "na')
    assert journal.entries(str(tmp_path)) == []
    path, descriptor = journal.write(str(tmp_path), record())
    os.close(descriptor)
    assert journal.read(path) == record()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_in_the_place_of_the_new_file_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    own = tmp_path / "own"
    own.mkdir()
    (own / f"7.99.boot{journal.SUFFIX}.new").symlink_to(outside)
    with pytest.raises(JournalError, match="symbolic links"):
        journal.write(str(own), record())
    assert outside.read_text() == "mine"


# ---- reading

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _good() -> dict[str, Any]:
    relabel = Relabel("/a", Identity(1, 2, 3), FileKind.REGULAR, 1, IMAGE, IMAGE, None, exclusive=True)
    encoded: dict[str, Any] = encode(record(7, relabel, Create("/b", IMAGE, IMAGE, remove=True)))
    return json.loads(json.dumps(encoded))  # type: ignore[no-any-return]


_places = st.sampled_from(
    [(key,) for key in _good()]
    + [("steps", number, key) for number, step in enumerate(_good()["steps"]) for key in step]
    + [("steps", 0, "identity", key) for key in ("device", "inode", "generation")]
    + [("steps", 0)]
)


@given(place=_places, value=_json)
@example(place=("pid",), value=float("inf"))
@example(place=("context",), value=5)
@example(place=("steps", 0, "after"), value=[])
@example(place=("steps", 1, "path"), value="\0")
@example(place=("steps", 1, "path"), value=5)
@examples(50)
def test_a_damaged_record_is_read_or_told(folder: str, place: tuple[str | int, ...], value: Any) -> None:
    good = _good()
    inner: Any = good
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = os.path.join(folder, "damaged")
    with open(path, "w", encoding="ascii") as file:
        json.dump(good, file)
    _read_or_told(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"5", b"[" * 100_000, b'{"format": 2}'])
def test_what_is_no_journal_is_told(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(text)
    with pytest.raises(JournalError, match="is not a journal") as raised:
        journal.read(str(path))
    assert raised.value.where == str(path)
    assert raised.value.hint is not None


_WRONG: list[tuple[tuple[str | int, ...], Any]] = [
    (("name",), "\ud800"),
    (("name",), 5),
    (("name",), "x" * ((1 << 17) + 1)),
    (("boot_id",), "a\x1b[2Jb"),
    (("pid",), True),
    (("pid",), 0),
    (("pid",), 7.0),
    (("pid",), "7"),
    (("start_ticks",), -1),
    (("accel",), "\x1b[31mkvm"),
    (("context",), None),
    (("shared",), "no"),
    (("steps",), {}),
    (("steps",), [{"step": ["relabel"]}]),
    (("steps",), [{}] * 20_000),
    (("steps", 0), {"step": "tree", "number": "/../../x"}),
    (("steps", 0, "after"), None),
    (("steps", 0, "identity"), None),
    (("steps", 0, "identity", "inode"), "12"),
    (("steps", 0, "identity", "device"), 1 << 70),
    (("steps", 0, "path"), "/a\udfff"),
    (("steps", 0, "links"), [1]),
    (("steps", 0, "exclusive"), 1),
    (("steps", 1, "mode"), 0o100000),
    (("steps", 1, "remove"), None),
]


@pytest.mark.parametrize(("place", "value"), _WRONG, ids=[f"{place}={value!r:.20}" for place, value in _WRONG])
def test_a_field_of_the_wrong_kind_is_no_journals(tmp_path: Path, place: tuple[str | int, ...], value: Any) -> None:
    good = _good()
    inner: Any = good
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / f"1.1{journal.SUFFIX}"
    path.write_text(json.dumps(good), encoding="ascii")
    with pytest.raises(JournalError, match="is not a journal") as raised:
        journal.read(str(path))
    assert is_message(str(raised.value))
    assert len(str(raised.value)) < 1000


def test_journals_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Their names have no boot id, a step may say `truncate`, and defaults were not written."""
    old = _good()
    del old["shared"], old["steps"][1]["remove_empty"], old["steps"][1]["mode"]
    old["steps"][1]["truncate"] = False
    path = tmp_path / f"7.99{journal.SUFFIX}"
    path.write_text(json.dumps(old), encoding="ascii")
    (entry,) = journal.entries(str(tmp_path))
    assert entry.record.steps[1] == Create("/b", IMAGE, IMAGE, remove=True)
    journal.remove(str(path))
    assert os.listdir(tmp_path) == []


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    for strange in (
        replace(record(), name="\ud800"),
        replace(record(), pid=0),
        replace(record(), steps=record().steps * 20_000),
    ):
        with pytest.raises(JournalError) as raised:
            journal.write(str(tmp_path), strange)
        assert raised.value.hint == "nothing was labelled"
    assert os.listdir(tmp_path) == []


def test_a_file_of_any_size_takes_no_more_than_its_bound(tmp_path: Path) -> None:
    path = tmp_path / f"1.1{journal.SUFFIX}"
    path.touch()
    os.truncate(path, 6 << 30)
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, before := resource.getrlimit(resource.RLIMIT_DATA)[1]))
    try:
        with pytest.raises(JournalError, match="more than 4 MiB"):
            journal.read(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, before))


def test_a_folder_of_any_size_is_looked_at_up_to_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST_JOURNALS", 3)
    for pid in range(1, 6):
        os.close(journal.write(str(tmp_path), record(pid))[1])
    found = journal.listing(str(tmp_path))
    assert len(found.entries) == 3
    (bad,) = found.bad
    assert "more than 3 journals" in str(bad.error)


def test_a_bad_journal_is_one_failure_and_hides_no_other(tmp_path: Path) -> None:
    for pid in (1, 3):
        os.close(journal.write(str(tmp_path), record(pid))[1])
    os.mkfifo(tmp_path / f"2.1{journal.SUFFIX}")
    found = journal.listing(str(tmp_path))
    assert [entry.record.pid for entry in found.entries] == [1, 3]
    assert [os.path.basename(bad.path) for bad in found.bad] == [f"2.1{journal.SUFFIX}"]
    assert journal.entries(str(tmp_path)) == list(found.entries)


def test_the_same_pid_and_ticks_of_another_boot_is_another_vm(tmp_path: Path) -> None:
    """The journal of a crash is not written over by whoever gets its numbers after the next boot."""
    for boot in ("boot", "next-boot"):
        os.close(journal.write(str(tmp_path), replace(record(), boot_id=boot))[1])
    assert {entry.record.boot_id for entry in journal.entries(str(tmp_path))} == {"boot", "next-boot"}


def test_what_a_crash_left_half_written_goes_with_the_next_lock(tmp_path: Path) -> None:
    for name in (f"7.99.boot{journal.SUFFIX}.new", "7.99.boot.vm.allowed.new", "history.new"):
        (tmp_path / name).write_text("{")
    with journal.locked(str(tmp_path)):
        assert os.listdir(tmp_path) == ["lock"]


def test_what_a_crash_left_half_written_goes_with_the_next_recover_too(tmp_path: Path) -> None:
    """Where nothing else is left of a crash, too, and `recover` has no VM to put back."""
    half = tmp_path / f"7.99.boot{journal.SUFFIX}.new"
    half.write_text("{")
    with journal.locked(str(tmp_path)):
        half.write_text("{")  # of the launch that holds the lock
        assert restore.recover([str(tmp_path)]) == []
        assert half.exists()
    assert restore.recover([str(tmp_path)]) == []
    assert os.listdir(tmp_path) == ["lock"]


def test_a_lock_that_is_never_let_go_is_waited_for_only_so_long(tmp_path: Path) -> None:
    path, descriptor = journal.write(str(tmp_path), record())
    with journal.locked(str(tmp_path)), journal.patience(0.05):
        with pytest.raises(JournalError, match=f"held by pid {os.getpid()} of uid {os.geteuid()}"):
            journal.take(path, wait=True)
        with pytest.raises(JournalError, match="its lock is held"), journal.locked(str(tmp_path)):
            pass
    os.close(descriptor)
    with journal.locked(str(tmp_path)):
        pass


@pytest.mark.touches_host
@pytest.mark.parametrize("stopped", [False, True])
def test_a_wait_that_lasts_is_told_with_who_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stopped: bool
) -> None:
    monkeypatch.setattr(journal, "_SILENCE", 0.01)
    monkeypatch.setattr(journal, "_PATIENCE", journal._Patience())
    # who took the lock has ended: a watcher has it from its launcher
    code = (
        f"import fcntl, os; f = open({str(tmp_path / 'lock')!r}, 'a'); fcntl.flock(f, 2)\n"
        "if os.fork() == 0: print(os.getpid(), flush=True); input()"
    )
    said = []
    with subprocess.Popen([sys.executable, "-IS", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as taker:
        assert taker.stdout is not None
        holder = int(taker.stdout.readline())
        assert taker.wait() == 0
        if stopped:
            os.kill(holder, signal.SIGSTOP)
            while not processes.is_stopped(holder):
                os.sched_yield()

        def tell(line: str) -> None:
            said.append(line)
            os.kill(holder, signal.SIGKILL)

        journal.tell_waits(tell)
        with journal.locked(str(tmp_path)):
            (line,) = said
    first, _, hint = line.partition("\n")
    assert first == f"{tmp_path}/lock: waiting for pid {holder}, which holds its lock"
    assert hint.strip() == (f"it is stopped; to let it go on: kill -CONT {holder}" if stopped else "")
    with journal.locked(str(tmp_path)):
        assert said == [line]


@pytest.mark.touches_host
def test_where_no_thread_is_to_be_had_a_wait_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", none)
    monkeypatch.setattr(journal, "_PATIENCE", journal._Patience())
    journal.tell_waits(pytest.fail)
    code = f"import fcntl; f = open({str(tmp_path / 'lock')!r}, 'a'); fcntl.flock(f, 2); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-IS", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        killing = subprocess.Popen(["/bin/sh", "-c", f"kill -KILL {other.pid}"])
        _locked(str(tmp_path))
        assert killing.wait() == 0


def test_a_wait_that_nobody_is_to_hear_of_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SILENCE", 0.01)
    monkeypatch.setattr(journal, "_PATIENCE", journal._Patience())
    with open(tmp_path / "lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=_locked, args=(str(tmp_path),))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    waiting.join()


def _locked(folder: str) -> None:
    with journal.locked(folder):
        pass


def _read_or_told(path: str) -> None:
    try:
        found = journal.read(path)
    except JournalError:
        return
    assert found is not None
    assert all(isinstance(step.path, str) and "\0" not in step.path for step in found.steps)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_only_a_file_is_read(tmp_path: Path, kind: str) -> None:
    """Root's recover reads every user's folder: a pipe there must not hold it up, nor a link lead it elsewhere."""
    path = tmp_path / f"7.99.boot{journal.SUFFIX}"
    match kind:
        case "link":
            own, descriptor = journal.write(str(tmp_path), record(8))
            os.close(descriptor)
            path.symlink_to(own)
        case "fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    with pytest.raises(JournalError):
        journal.read(str(path))


# ---- locks


def test_the_writer_holds_the_lock_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    path, descriptor = journal.write(str(tmp_path), record())
    assert journal.take(path, wait=False) is None
    os.close(descriptor)
    taken = journal.take(path, wait=False)
    assert taken is not None
    assert journal.take(path, wait=False) is None
    os.close(taken)


def test_a_copy_of_the_descriptor_holds_it_too(tmp_path: Path) -> None:
    path, descriptor = journal.write(str(tmp_path), record())
    watcher = os.dup(descriptor)
    os.close(descriptor)
    assert journal.take(path, wait=False) is None
    os.close(watcher)


def test_what_is_gone_cannot_be_taken(tmp_path: Path) -> None:
    assert journal.take(str(tmp_path / "x"), wait=True) is None


def test_the_folders_lock_excludes(tmp_path: Path) -> None:
    with journal.locked(str(tmp_path)):
        other = os.open(tmp_path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_the_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError), journal.locked(str(tmp_path)):
        pass
    assert not (tmp_path / "elsewhere").exists()


# ---- folders


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    monkeypatch.setattr(paths, "STATE", str(path))
    return path


def test_the_users_folder_is_made_private(state: Path) -> None:
    uid = os.geteuid()
    path = statefolders.user_folder(uid)
    assert path == str(state / str(uid))
    assert os.stat(path).st_mode & 0o777 == 0o700
    assert statefolders.user_folder(uid) == path


def test_another_users_folder_is_not_worked_in(state: Path) -> None:
    (state / "4711").mkdir(mode=0o700)
    path = str(state / "4711")
    with pytest.raises(JournalError, match="not the folder of uid 4711 alone"), statefolders.opened(path):
        pass


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_refused(state: Path, mode: int) -> None:
    path = state / str(os.geteuid())
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(JournalError, match=f"mode 0{mode:o}"):
        statefolders.user_folder(os.geteuid())


def test_a_link_is_no_folder(state: Path) -> None:
    (state / "elsewhere").mkdir(mode=0o700)
    (state / str(os.geteuid())).symlink_to("elsewhere")
    with pytest.raises(JournalError, match="not a folder"):
        statefolders.user_folder(os.geteuid())


def test_a_file_is_no_folder(state: Path) -> None:
    (state / str(os.geteuid())).write_text("")
    with pytest.raises(JournalError, match="not a folder"):
        statefolders.user_folder(os.geteuid())


def test_root_sees_the_folders_of_all_users(state: Path) -> None:
    for name in ("0", "1000", "pairs", "lost+found"):
        (state / name).mkdir()
    assert statefolders.all_folders() == [str(state / "0"), str(state / "1000")]


def test_without_a_state_folder_it_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", str(tmp_path / "missing"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert statefolders.state_folder() == str(tmp_path / "xdg/confined-qemu")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert statefolders.state_folder() == str(tmp_path / ".local/state/confined-qemu")
