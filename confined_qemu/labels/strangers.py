"""Other users' state folders, as root follows them: in a child that has become the folder's owner for good.

What lies there is a stranger's: it may name any file, hang, or be endless. So the child has no right that its owner has
not, limits and a deadline; what it answers is bounded and read as a stranger's text; and it stops nobody else.
"""

from __future__ import annotations

import errno
import os
import select
import time

from confined_qemu.host import signals as signal
from confined_qemu.labels import journal, statefolders
from confined_qemu.model.errors import ConfinedQemuError, JournalError, ValueProblem, why
from confined_qemu.model.jsontext import dumps
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace, suppress
from confined_qemu.model.record import decode, decode_grants, encode, encode_grants
from confined_qemu.model.steps import LabelTree, Relabel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NoReturn

    from confined_qemu.model.record import Record

READING, FOLLOWING, LOCKS = 10.0, 60.0, 20.0
"""Seconds: for reading what a folder says, for putting back what is dead in it, and of these for locks."""
_AT_ONCE = 8
_MOST_BYTES = 32 << 20
"""Of one child's answer: more than its journals may have."""
_MOST_MEMORY, _MOST_FILE = 1 << 30, 256 << 20
"""Bytes: a child's address space, and a file that it writes."""
_NOBODY = 65534
"""The group of a user whom the host does not know."""
_CHUNK = 1 << 16
_LONGEST = 4096
_END = {"end": True}
"""The last line of a child that came to its end."""


@dataclass(frozen=True, slots=True)
class StrangersAnswer:
    """What a child said of a folder: JSON values, one for each of its rows, and why there are no more of them."""

    folder: str
    rows: tuple[Any, ...]
    problem: JournalError | None


def follow(
    folders: Iterable[str], work: Callable[[str], Iterator[dict[str, Any]]], seconds: float
) -> list[StrangersAnswer]:
    """Run `work` on each folder in a child that is its owner, some at once; each has so many seconds."""
    waiting, found = list(folders), []
    while waiting:
        now, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        found += _followed(now, work, seconds)
    return found


@dataclass(frozen=True, slots=True)
class StrangersEntry:
    """A VM in another user's journal; `seen` are the inodes, of those that it names, which that user may read."""

    entry: journal.Entry
    uid: int
    seen: frozenset[tuple[int, int]]


def entries(folders: Iterable[str]) -> list[StrangersEntry]:
    """Return what the journals in other users' folders claim; what is damaged says nothing."""
    found = []
    for answer in follow(folders, _read_entries, READING):
        for row in answer.rows:
            with suppress(ValueError, ValueProblem):
                found.append(_entry(answer.folder, row))
    return found


def become(uid: int) -> None:
    """Become a user for good, with the groups that the user has.

    Raises:
        OSError: the kernel refuses.
    """
    gid, groups = _groups(uid)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid):
        raise OSError(errno.EPERM, "the user is another")


def _groups(uid: int) -> tuple[int, list[int]]:
    import pwd

    try:
        user = pwd.getpwuid(uid)
        return user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid)
    except KeyError:
        return _NOBODY, []


# ---- what a child answers


def _read_entries(folder: str) -> Iterator[dict[str, Any]]:
    for entry in journal.listing(folder).entries:
        record, grants = encode(replace(entry.record, grants=())), encode_grants(entry.record.grants)
        yield {"file": os.path.basename(entry.path), "record": record, "grants": grants, "seen": _seen(entry.record)}


def _seen(record: Record) -> list[list[int]]:
    """Return the inodes, as device and number, of the files that a VM names and that this process's user may read."""
    found = []
    for step in record.all_steps:
        if not isinstance(step, Relabel | LabelTree):
            continue
        with suppress(OSError):
            descriptor = os.open(step.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                same = os.fstat(descriptor)
                if (same.st_dev, same.st_ino) == (step.identity.device, step.identity.inode) and os.access(
                    f"/proc/self/fd/{descriptor}", os.R_OK
                ):
                    found.append([same.st_dev, same.st_ino])
            finally:
                os.close(descriptor)
    return found


def _entry(folder: str, row: Any) -> StrangersEntry:
    if not isinstance(row, dict) or not isinstance(row.get("file"), str) or "/" in row["file"]:
        raise ValueError("no entry")
    record = replace(decode(row.get("record")), grants=decode_grants(row.get("grants")))
    seen = row.get("seen")
    inodes = [tuple(one) for one in seen if isinstance(one, list)] if isinstance(seen, list) else []
    entry = journal.Entry(os.path.join(folder, row["file"]), record)
    return StrangersEntry(entry, statefolders.owner_of(folder), frozenset(inodes))


def encode_error(error: ConfinedQemuError) -> list[str | None]:
    """Return an error as a value for JSON."""
    return [error.what, error.where, error.hint]


def decode_error(value: Any) -> ConfinedQemuError:
    """Return the error of a value that a child sent; whatever it sent is a stranger's text."""
    texts = value if isinstance(value, list) else []
    # a NUL would begin a line of its own
    parts = [part[:_LONGEST].replace("\0", "?") if isinstance(part, str) else None for part in texts]
    what, where, hint = (*parts, None, None, None)[:3]
    return JournalError(what or "it failed", where=where, hint=hint)


# ---- the children


@dataclass
class _Child:
    folder: str
    pid: int
    reading: int
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False


def _followed(
    folders: list[str], work: Callable[[str], Iterator[dict[str, Any]]], seconds: float
) -> list[StrangersAnswer]:
    children: list[_Child] = []
    found: list[StrangersAnswer] = []
    for folder in folders:
        try:
            children.append(_started(folder, work, seconds))
        except OSError as error:
            problem = JournalError(f"no process to follow it: {why(error)}", where=folder, hint="see: ulimit -u")
            found.append(StrangersAnswer(folder, (), problem))
    try:
        _read_all(children, time.monotonic() + seconds)
    finally:
        for child in children:
            os.close(child.reading)
            _end(child.pid)
    return [*found, *(_answer(child, seconds) for child in children)]


def _started(folder: str, work: Callable[[str], Iterator[dict[str, Any]]], seconds: float) -> _Child:
    reading, writing = os.pipe()
    try:
        child = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if child == 0:
        _be_child(folder, work, writing, seconds)
    os.close(writing)
    return _Child(folder, child, reading)


def _be_child(folder: str, work: Callable[[str], Iterator[dict[str, Any]]], writing: int, seconds: float) -> NoReturn:
    try:
        _let_go_of_all_but(writing)
        _limit(seconds)
        become(statefolders.owner_of(folder))
        os.chdir("/")
        try:
            with journal.patience(min(seconds, LOCKS)):
                for row in work(folder):
                    _send(writing, row)
        except ConfinedQemuError as error:
            _send(writing, {"problem": encode_error(error)})
        _send(writing, _END)
    finally:
        os._exit(0)  # whatever it was: no traceback of a stranger's making


def _send(writing: int, row: dict[str, Any]) -> None:
    data = (dumps(row) + "\n").encode("ascii")
    while data:
        data = data[os.write(writing, data) :]


def _let_go_of_all_but(kept: int) -> None:
    """Close what was inherited, the locks of who forked this among it."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) != kept:
            with suppress(OSError):
                os.close(int(name))
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        if number not in (null, kept):
            os.dup2(null, number)


def _limit(seconds: float) -> None:
    import resource

    limits = {
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_AS: _MOST_MEMORY,
        resource.RLIMIT_FSIZE: _MOST_FILE,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    # who forked this may be killed before it could end it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)


def _read_all(children: list[_Child], deadline: float) -> None:
    """Read what the children say until each has ended, says too much, or the time is up."""
    by_descriptor = {child.reading: child for child in children}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    while by_descriptor and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(int(left * 1000) + 1):
            child = by_descriptor[descriptor]
            data = os.read(descriptor, _CHUNK)
            child.data += data
            child.ended = not data
            if not data or len(child.data) > _MOST_BYTES:
                poll.unregister(descriptor)
                del by_descriptor[descriptor]


def _end(child: int) -> None:
    """Kill a child, its owner may have stopped it, and take its status; one that the kernel holds is left to init."""
    with suppress(OSError):
        os.kill(child, signal.SIGKILL)
    for _ in range(200):
        try:
            if os.waitpid(child, os.WNOHANG)[0] == child:
                return
        except ChildProcessError:  # the caller ignores SIGCHLD: the kernel has its status
            return
        time.sleep(0.01)


def _answer(child: _Child, seconds: float) -> StrangersAnswer:
    import json

    whose = f"the folder of uid {statefolders.owner_of(child.folder)}"
    rows: list[Any] = []
    problem: JournalError | None = None
    complete = False
    for line in child.data[:_MOST_BYTES].split(b"\n"):
        try:
            row = json.loads(line) if line else None
        except (ValueError, RecursionError):
            continue
        if row == _END:
            complete = True
        elif isinstance(row, dict) and "problem" in row:
            found = decode_error(row["problem"])
            problem = JournalError(found.what, where=found.where, hint=found.hint)
        elif row is not None:
            rows.append(row)
    if problem is None and not complete:
        how = "could not be read to its end" if child.ended else f"was not read within {seconds:g} s"
        problem = JournalError(f"{whose} {how}", where=child.folder, hint="run again later: confined-qemu recover")
    return StrangersAnswer(child.folder, tuple(rows), problem)
