"""Root and unprivileged users in one state folder, for real: uids, locks, children and descriptors are the kernel's.

A kernel without SELinux keeps no security.selinux of an unprivileged owner's making, so labels are user.* attributes
here, and a process's context is its argv[0]. What is denied is denied by owner and mode.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.host import inodes, lsm, processes, selinuxfs
from confined_qemu.install import install
from confined_qemu.labels import journal, restore, statefolders, strangers
from confined_qemu.model import paths
from confined_qemu.model.context import Context, PolicyContexts
from confined_qemu.model.errors import HostError, JournalError, ValueProblem
from confined_qemu.model.facts import FileKind
from confined_qemu.model.mcs import Level
from confined_qemu.model.record import Record, encode
from confined_qemu.model.steps import JournalStep, LabelTree, Relabel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALICE, MALLORY = 64711, 64712
POLICY = PolicyContexts.parse(
    "system_u:system_r:svirt_t:s0\n", "system_u:object_r:svirt_image_t:s0\nsystem_u:object_r:virt_content_t:s0\n"
)
HOME = Context.parse("system_u:object_r:user_home_t:s0")
UNUSED = Context.parse("system_u:object_r:virt_image_t:s0")
_ATTRIBUTE = "user.confined_qemu_test"


def domain(first: int) -> Context:
    return POLICY.kvm.at(Level(0, frozenset((first, first + 1))))


def as_user(uid: int, work: Callable[[], object]) -> None:
    """Run `work` in a child that is this user."""
    child = os.fork()
    if child == 0:
        try:
            strangers.become(uid)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Stage:
    """A state folder that all may write to, and users with images in a place of their own."""

    def __init__(self, base: str, patch: pytest.MonkeyPatch, cleanup: ExitStack) -> None:
        self.base, self.cleanup = base, cleanup
        self.state = os.path.join(base, "state")
        patch.setattr(paths, "STATE", self.state)
        install.make_state()
        patch.setattr(selinuxfs, "label", lambda path, **_: os.getxattr(path, _ATTRIBUTE).decode())
        patch.setattr(selinuxfs, "set_label", lambda path, text: os.setxattr(path, _ATTRIBUTE, text.encode()))
        patch.setattr(selinuxfs, "vm_domains", lambda: POLICY.domains)
        patch.setattr(lsm, "policy_contexts", lambda: POLICY)
        patch.setattr(lsm, "process_context", _argv0)
        self.root = statefolders.user_folder(0)

    def image(self, name: str, owner: int, label: Context, mode: int = 0o644) -> str:
        path = os.path.join(self.base, name)
        with open(path, "w", encoding="ascii"):
            pass
        os.chown(path, owner, owner)
        os.chmod(path, mode)
        os.setxattr(path, _ATTRIBUTE, str(label).encode())
        return path

    @staticmethod
    def label(path: str) -> Context:
        return Context.parse(os.getxattr(path, _ATTRIBUTE).decode())

    def journal(self, uid: int, pid: int, context: Context, *steps: JournalStep, name: str = "vm") -> str:
        """Write a dead launcher's journal as its user; where it lies."""
        record = Record(name, processes.boot_id(), pid, 1, "tcg", context, steps)
        before = set(self.files())
        as_user(uid, lambda: journal.write(statefolders.user_folder(uid), record))
        (path,) = set(self.files()) - before
        return path

    def files(self) -> list[str]:
        return [
            os.path.join(folder, name)
            for folder, _, names in os.walk(self.state)
            for name in names
            if name.endswith(journal.SUFFIX)
        ]

    def process(self, uid: int, context: Context) -> subprocess.Popen[bytes]:
        """Start a process of this user that runs "in" this context."""
        process = subprocess.Popen([str(context), "600"], executable="/bin/sleep", user=uid, group=uid, extra_groups=[])
        self.cleanup.callback(process.wait)
        self.cleanup.callback(process.kill)
        deadline = time.monotonic() + 30
        while _argv0(process.pid) != context:
            assert time.monotonic() < deadline
        return process

    def ends(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()


def _argv0(pid: int) -> Context | None:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return Context.parse(file.read().split("\0")[0])
    except (OSError, ValueProblem):
        return None


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    assert os.geteuid() == 0, "these tests are root's: they become other users"
    base = tempfile.mkdtemp(dir="/var/tmp")
    os.chmod(base, 0o755)
    with ExitStack() as cleanup:
        yield Stage(base, monkeypatch, cleanup)
    shutil.rmtree(base)


def relabel(path: str, before: Context, after: Context, *, exclusive: bool = False) -> Relabel:
    descriptor = os.open(path, os.O_PATH)
    identity = inodes.identity_of(descriptor)
    os.close(descriptor)
    return Relabel(path, identity, FileKind.REGULAR, 1, before, after, before, exclusive=exclusive)


def forged(folder: str, text: str | bytes, name: str = "1.1") -> str:
    """Write a file as whoever owns the folder."""
    path = os.path.join(folder, f"{name}{journal.SUFFIX}")
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    owner = os.lstat(folder).st_uid
    os.chown(path, owner, owner)
    return path


def folder_of(stage: Stage, uid: int) -> str:
    path = os.path.join(stage.state, str(uid))
    as_user(uid, lambda: statefolders.user_folder(uid))
    assert os.lstat(path).st_uid == uid
    return path


def of(results: list[restore.Restored], path: str) -> restore.Restored:
    (found,) = [result for result in results if result.path == path]
    return found


# ---- folders


def test_what_is_no_users_folder_is_one_failure_and_stops_nobody(stage: Stage) -> None:
    """Links, hanging ones among them, somebody else's folder, one that all may write to, a file."""
    alices = stage.image("alice.img", ALICE, POLICY.content)
    good = stage.journal(ALICE, 5, domain(1), relabel(alices, HOME, POLICY.content))
    outside = os.path.join(stage.base, "outside")
    os.mkdir(outside)
    forged(outside, "{")
    os.symlink(outside, os.path.join(stage.state, "1"))
    os.symlink("/nowhere", os.path.join(stage.state, "2"))
    os.mkdir(os.path.join(stage.state, "3"))
    os.chown(os.path.join(stage.state, "3"), MALLORY, MALLORY)
    os.mkdir(os.path.join(stage.state, "4"))
    os.chown(os.path.join(stage.state, "4"), 4, 4)
    os.chmod(os.path.join(stage.state, "4"), 0o777)
    with open(os.path.join(stage.state, "5"), "w", encoding="ascii"):
        pass
    folders = statefolders.all_folders()
    assert [os.path.basename(folder) for folder in folders] == ["0", "1", "2", "3", "4", "5", str(ALICE)]
    assert restore.holders(folders) == {}
    assert restore.running(folders) == []
    results = restore.recover(folders)
    assert of(results, good).failed == ()
    assert stage.label(alices) == HOME
    said = {os.path.basename(result.path): str(result.failed[0]) for result in results if result.failed}
    assert sorted(said) == ["1", "2", "3", "4", "5"]
    assert "not a folder" in said["1"]
    assert f"uid {MALLORY}" in said["3"]
    assert "mode 0777" in said["4"]


def test_who_takes_anothers_name_keeps_nobody_from_launching(stage: Stage) -> None:
    """Anybody may make a folder with Alice's number: hers has another name then, which all of hers use."""
    taken = os.path.join(stage.state, str(ALICE))
    os.mkdir(taken, 0o700)
    os.chown(taken, MALLORY, MALLORY)
    iso = stage.image("alice.iso", ALICE, POLICY.content)
    first = stage.journal(ALICE, 5, domain(1), relabel(iso, HOME, POLICY.content))
    second = stage.journal(ALICE, 6, domain(3))
    assert os.path.dirname(first) == os.path.dirname(second) != taken
    assert statefolders.owner_of(os.path.dirname(first)) == ALICE
    assert os.lstat(os.path.dirname(first)).st_uid == ALICE
    results = restore.recover(statefolders.all_folders())
    assert of(results, first).failed == ()
    assert stage.label(iso) == HOME


def test_root_works_in_nobody_elses_folder(stage: Stage) -> None:
    folder = folder_of(stage, MALLORY)
    before = os.listdir(folder)
    for work in (journal.entries, lambda path: journal.write(path, Record("x", "b", 1, 1, "tcg", domain(1), ()))):
        with pytest.raises(JournalError, match=f"folder of uid {MALLORY}"):
            work(folder)
    with pytest.raises(JournalError, match=f"folder of uid {MALLORY}"), journal.locked(folder):
        pass
    assert os.listdir(folder) == before


# ---- the child


def _who(_: str) -> Iterator[dict[str, Any]]:
    try:
        os.setuid(0)
        back = True
    except PermissionError:
        back = False
    descriptors = [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
    yield {
        "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(), "back": back,
        "descriptors": len(descriptors), "cpu": resource.getrlimit(resource.RLIMIT_CPU)[0],
    }  # fmt: skip


def test_the_child_is_the_owner_for_good_and_holds_nothing(stage: Stage) -> None:
    folder = folder_of(stage, MALLORY)
    held = [os.open("/etc/shadow", os.O_RDONLY) for _ in range(20)]
    (answer,) = strangers.follow([folder], _who, 20)
    for descriptor in held:
        os.close(descriptor)
    assert answer.problem is None
    (row,) = answer.rows
    assert row["uids"] == row["gids"] or row["gids"] == [65534] * 3
    assert row["uids"] == [MALLORY] * 3
    assert row["groups"] == []
    assert row["back"] is False
    assert row["descriptors"] <= 4, "its three streams and the pipe"
    assert row["cpu"] == 21


@pytest.mark.parametrize("what", ["stops", "floods", "crashes", "hangs"])
def test_a_child_that_goes_wrong_is_ended_and_the_others_are_followed(stage: Stage, what: str) -> None:
    bad, good = folder_of(stage, MALLORY), folder_of(stage, ALICE)

    def work(folder: str) -> Iterator[dict[str, Any]]:
        if folder == bad:
            match what:
                case "stops":  # its owner may send it any signal
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "floods":
                    while True:
                        yield {"x": "y" * 100_000}
                case "crashes":
                    raise ZeroDivisionError
                case "hangs":
                    os.mkfifo(os.path.join(folder, "pipe"))
                    os.close(os.open(os.path.join(folder, "pipe"), os.O_RDONLY))
        yield {"folder": folder}

    first, second = strangers.follow([bad, good], work, 2)
    assert first.problem is not None
    assert str(MALLORY) in str(first.problem)
    assert (second.rows, second.problem) == (({"folder": good},), None)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_lock_that_a_user_never_lets_go_is_told_and_root_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "LOCKS", 0.2)
    hers = stage.image("alice.img", ALICE, POLICY.content)
    good = stage.journal(ALICE, 5, domain(1), relabel(hers, HOME, POLICY.content))
    his = stage.image("his.img", MALLORY, POLICY.content)
    bad = stage.journal(MALLORY, 6, domain(3), relabel(his, HOME, POLICY.content))
    lock = os.open(os.path.join(os.path.dirname(bad), "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    os.fchown(lock, MALLORY, MALLORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    results = restore.recover(statefolders.all_folders())
    os.close(lock)
    assert f"held by pid {os.getpid()} of uid {MALLORY}" in str(of(results, os.path.dirname(bad)).failed[0])
    assert of(results, good).failed == ()
    assert stage.label(hers) == HOME
    again = restore.recover(statefolders.all_folders())
    assert of(again, bad).failed == ()


# ---- hostile journals


def test_hostile_files_end_nothing(stage: Stage) -> None:
    """A sparse file of 6 GiB, a pipe, a link to root's, a thousand dead VMs, half characters, deep JSON."""
    folder = folder_of(stage, MALLORY)
    good = encode(Record("x\x1b[2J", "another boot", 9, 9, "tcg", domain(9), ()))
    os.truncate(forged(folder, "", "sparse"), 6 << 30)
    os.mkfifo(os.path.join(folder, f"pipe{journal.SUFFIX}"))
    os.symlink("/etc/shadow", os.path.join(folder, f"link{journal.SUFFIX}"))
    forged(folder, json.dumps(good | {"name": "\ud800"}), "surrogate")
    forged(folder, "[" * 1_000_000, "deep")
    forged(folder, json.dumps(good | {"steps": [{"step": "tree", "number": "/../../x"}]}), "number")
    for number in range(1000):
        forged(folder, json.dumps(good), f"dead{number}")
    image = stage.image("mine.iso", 0, POLICY.content)
    own = journal.write(stage.root, Record("mine", processes.boot_id(), 5, 1, "tcg", domain(1),
                                           (relabel(image, UNUSED, POLICY.content),)))  # fmt: skip
    os.close(own[1])
    assert restore.holders(statefolders.all_folders()) == {}
    results = restore.recover(statefolders.all_folders())
    assert of(results, own[0]).failed == ()
    assert stage.label(image) == UNUSED
    failed = sorted(result.name for result in results if result.failed)
    names = ("deep", "link", "number", "pipe", "sparse", "surrogate")
    assert failed == [f"{name}{journal.SUFFIX}" for name in names]
    assert sum(not result.failed for result in results) == 1001
    lines = [line for result in results for error in result.failed for line in str(error).split("\n")]
    assert all(line.isprintable() for line in lines)


def test_a_claim_on_roots_file_neither_keeps_its_label_nor_leads_roots_pen(stage: Stage) -> None:
    """Mallory's journal names root's image and a live pid; a pipe lies where the notes would."""
    tree = os.path.join(stage.base, "tree")
    os.mkdir(tree)
    os.setxattr(tree, _ATTRIBUTE, str(POLICY.content).encode())
    image = stage.image("root.iso", 0, POLICY.content)
    descriptor = os.open(tree, os.O_PATH)
    whole = LabelTree(tree, inodes.identity_of(descriptor), UNUSED, POLICY.content, exclusive=False, number=0, count=1)
    os.close(descriptor)
    context = domain(3)
    claim = relabel(image, UNUSED, POLICY.content)
    evil = stage.journal(MALLORY, os.getpid(), context, claim, whole)
    folder = os.path.dirname(evil)
    os.mkfifo(journal.notes_path(evil, 0))
    before = sorted(os.listdir(folder))
    path, held = journal.write(
        stage.root, Record("mine", processes.boot_id(), 5, 1, "tcg", domain(1), (claim, whole))
    )  # fmt: skip
    os.close(held)
    stage.process(0, context)  # somebody's, not Mallory's
    result = restore.restore(path)
    assert result is not None
    assert (result.failed, result.pending) == ((), ())
    assert stage.label(image) == UNUSED
    assert not os.path.exists(path)
    assert [name for name in sorted(os.listdir(folder)) if name != "lock"] == before


def test_roots_recover_gives_nobody_roots_rights(stage: Stage) -> None:
    """Mallory's dead VM "had" root's file, with the label to put there."""
    image = stage.image("root.img", 0, domain(3))
    path = stage.journal(MALLORY, 6, domain(3), relabel(image, HOME, domain(3), exclusive=True))
    (error,) = of(restore.recover(statefolders.all_folders()), path).failed
    assert "Permission denied" in str(error)
    assert stage.label(image) == domain(3)


# ---- two users and one file


@contextmanager
def opened_as_qemu_does(path: str) -> Iterator[None]:
    """Hold the lock that QEMU takes on an image that it reads."""
    from confined_qemu.host import locks

    descriptor = os.open(path, os.O_RDONLY)
    assert locks.take(descriptor, locks.SHARED, 100, 1)
    try:
        yield
    finally:
        os.close(descriptor)


def test_what_two_users_read_keeps_its_label_until_both_have_ended(stage: Stage) -> None:
    """Alice's VM labels her ISO and ends first; root's VM reads it still, and its end puts her label back."""
    iso = stage.image("shared.iso", ALICE, POLICY.content)
    hers = stage.journal(ALICE, 6, domain(3), relabel(iso, HOME, POLICY.content))
    roots = stage.process(0, domain(1))
    mine, held = journal.write(
        stage.root,
        Record("mine", processes.boot_id(), roots.pid, processes.start_ticks(roots.pid) or 0, "tcg", domain(1),
               (relabel(iso, POLICY.content, POLICY.content),
                relabel(stage.image("own.iso", 0, POLICY.content), UNUSED, POLICY.content))),
    )  # fmt: skip
    os.close(held)
    with opened_as_qemu_does(iso):
        result = of(restore.recover(statefolders.all_folders()), hers)
        assert result.failed == ()
        assert "still used by another user's VM" in str(result.pending[0])
        assert stage.label(iso) == POLICY.content
        assert os.path.exists(hers)
    stage.ends(roots)
    assert restore.restore(mine) is not None
    assert stage.label(iso) == HOME
    assert stage.files() == []


def test_what_root_labelled_waits_for_the_users_vm(stage: Stage) -> None:
    iso = stage.image("roots.iso", 0, POLICY.content)
    alice = stage.process(ALICE, domain(3))
    stage.journal(ALICE, alice.pid, domain(3), relabel(iso, POLICY.content, POLICY.content))
    mine, held = journal.write(
        stage.root,
        Record("mine", processes.boot_id(), 5, 1, "tcg", domain(1), (relabel(iso, UNUSED, POLICY.content),)),
    )  # fmt: skip
    os.close(held)
    (holder,) = next(iter(restore.holders([stage.root, *statefolders.all_folders()]).values()))
    assert (holder.pid, holder.claimed, holder.original) == (alice.pid, POLICY.content, None)
    result = restore.restore(mine)
    assert result is not None
    assert f"the VM vm of uid {ALICE} (pid {alice.pid})" in str(result.pending[0])
    assert stage.label(iso) == POLICY.content
    stage.ends(alice)
    assert of(restore.recover(statefolders.all_folders()), mine).failed == ()
    assert stage.label(iso) == UNUSED
    assert stage.files() == []


# ---- the first install


def test_roots_own_is_there_before_anybody_may_write(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", os.path.join(stage.base, "new"))
    modes: list[int] = []
    for name in ("mkdir", "open"):
        real = getattr(os, name)

        def watched(path: str, *arguments: Any, real: Any = real, **named: Any) -> Any:
            if os.path.isdir(paths.STATE):
                modes.append(stat.S_IMODE(os.stat(paths.STATE).st_mode))
            return real(path, *arguments, **named)

        monkeypatch.setattr(os, name, watched)
    install.make_state()
    assert set(modes) == {0o755}
    registry = [paths.pair_file("pairs", number) for number in range(paths.PAIR_FILES)]
    found = {name: os.lstat(os.path.join(paths.STATE, name)) for name in (".", "0", *registry)}
    expected = {".": 0o1777, "0": 0o700, **dict.fromkeys(registry, 0o666)}
    assert {name: stat.S_IMODE(one.st_mode) for name, one in found.items()} == expected
    assert set(os.listdir(paths.STATE)) == {"0", *registry}
    install.make_state()


@pytest.mark.parametrize("what", ["a link for pairs", "a link for 0", "somebody's 0", "somebody's pairs", "a pipe"])
def test_an_install_uses_nothing_that_somebody_else_made(stage: Stage, what: str) -> None:
    own, pairs = os.path.join(stage.state, "0"), os.path.join(stage.state, "pairs")
    shutil.rmtree(own)
    os.unlink(pairs)
    victim = os.path.join(stage.base, "victim")
    with open(victim, "w", encoding="ascii"):
        os.chmod(victim, 0o600)
    match what:
        case "a link for pairs":
            os.symlink(victim, pairs)
        case "a link for 0":
            os.symlink(stage.base, own)
        case "somebody's 0":
            os.mkdir(own)
            os.chown(own, MALLORY, MALLORY)
        case "somebody's pairs":
            with open(pairs, "w", encoding="ascii"):
                os.chown(pairs, MALLORY, MALLORY)
        case _:
            os.mkfifo(pairs)
    with pytest.raises(HostError):
        install.make_state()
    assert stat.S_IMODE(os.stat(victim).st_mode) == 0o600


# ---- what is not there yet


def test_what_is_not_mounted_yet_is_kept_until_it_is(stage: Stage) -> None:
    """After a power cut: a disk that is mounted later, by an automounter or at a login, still gets its label back."""
    disk, place = os.path.join(stage.base, "disk"), os.path.join(stage.base, "mnt")
    for folder in (disk, place):
        os.mkdir(folder)
    image = stage.image("disk/a.img", 0, domain(3))
    subprocess.run(["mount", "--bind", disk, place], check=True)
    there = os.path.join(place, "a.img")
    step = relabel(there, HOME, domain(3), exclusive=True)
    path, held = journal.write(stage.root, Record("vm", "another boot", 5, 1, "tcg", domain(3), (step,)))
    os.close(held)
    subprocess.run(["umount", place], check=True)
    (error,) = of(restore.recover([stage.root]), path).failed
    assert there in str(error)
    assert stage.label(image) == domain(3)
    assert os.path.exists(path), "kept, not forgotten"
    subprocess.run(["mount", "--bind", disk, place], check=True)
    stage.cleanup.callback(subprocess.run, ["umount", place], check=True)
    assert of(restore.recover([stage.root]), path).failed == ()
    assert stage.label(image) == HOME
    assert not os.path.exists(path)


def test_the_boot_waits_for_network_disks_and_never_without_limit() -> None:
    lines = install._UNIT.splitlines()  # noqa: SLF001 - the text is what is installed
    (after,) = [line for line in lines if line.startswith("After=")]
    assert {"local-fs.target", "remote-fs.target"} <= set(after.removeprefix("After=").split())
    (limit,) = [line.partition("=")[2] for line in lines if line.startswith("TimeoutStartSec=")]
    assert limit not in ("", "0", "infinity")
