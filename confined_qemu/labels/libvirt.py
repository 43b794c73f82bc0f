"""`recover --libvirt`: finds what libvirt noted on files, keeps it right, and ends what a crash left of it.

Root's, outside the launcher's domain: a `trusted.` attribute is invisible to whoever lacks CAP_SYS_ADMIN, as if it
were not there. Everything is done by descriptor, under the lock that libvirt itself holds while it does the same.
"""

from __future__ import annotations

import errno
import os
import re
import struct

from confined_qemu.host import inodes, locks, lsm, processes
from confined_qemu.labels import restore, statefolders, turns
from confined_qemu.model.errors import (
    HINT,
    ConfinedQemuError,
    HostError,
    LabelError,
    ValueProblem,
    printable,
    shell_word,
    why,
)
from confined_qemu.model.facts import FileKind, LiveProcess, SelinuxMode
from confined_qemu.model.lean import TYPE_CHECKING, dataclass
from confined_qemu.model.steps import Create, Relabel
from confined_qemu.plan import remembered
from confined_qemu.plan.remembered import Action
from confined_qemu.read.libvirt import xmltree
from confined_qemu.read.spec.yamlnodes import MAX_CHARACTERS, Problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    from confined_qemu.model.context import Context, PolicyContexts
    from confined_qemu.model.facts import Identity

CONFIGURED: Final = "/etc/libvirt/qemu"
RUNNING: Final = "/run/libvirt/qemu"
POOL: Final = "/var/lib/libvirt/images"
_SYS_ADMIN: Final = 21
"""CAP_SYS_ADMIN's number (linux/capability.h)."""
_BOOT_RECORD: Final = struct.Struct("=h2xi32s4s32s256shhiii36x")
_BOOT_TIME: Final = 2
"""utmp(5): `struct utmp` of a 64-bit Linux, and the type of the boot's record."""


_Inode = tuple[int, int]
"""Device and inode."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was done about one file; `error` says why it could not be."""

    path: str
    decision: remembered.Decision | None
    error: ConfinedQemuError | None = None


@dataclass(frozen=True, slots=True)
class _Now:
    """What is the same for every file."""

    contexts: PolicyContexts
    boots: tuple[int, ...]
    live: tuple[LiveProcess, ...]
    running: dict[int, frozenset[_Inode]]
    """The files that libvirt's record of a running VM names, by its pid; it is written before a label is set."""
    ours: dict[Identity, tuple[tuple[LiveProcess, Context | None], ...]]
    """Our live VMs that use an inode; of another user's the label that it claims to have given."""


def recover(paths: Iterable[str]) -> list[Result]:
    """Look at the files that libvirt, our journals and `paths` name; return a result for each that libvirt noted on.

    A folder in `paths` stands for the files in it; links are not followed.

    Raises:
        HostError: this process cannot see what libvirt noted, or the host cannot be asked.
    """
    _require_sight()
    domains = _domains()
    seen: set[_Inode] = set()
    results = []
    now = _now(domains)
    for path in dict.fromkeys(_candidates(domains, paths)):
        try:
            result = _one(path, now, seen)
        except ConfinedQemuError as error:
            result = Result(path, None, error)
        if result is not None:
            results.append(result)
    return results


def _require_sight() -> None:
    """Refuse to run where the kernel would hide what libvirt noted: hidden looks like not there."""
    if lsm.mode() is SelinuxMode.DISABLED:
        raise HostError("SELinux is disabled: there are no labels to put back")
    own = lsm.own_context()
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", file.read(), re.MULTILINE)
    with open("/proc/self/uid_map", encoding="ascii") as file:
        initial = file.read().split() == ["0", "0", "4294967295"]
    capable = effective is not None and int(effective[1], 16) >> _SYS_ADMIN & 1
    if not capable or not initial or lsm.denied(own, own, "capability", ("sys_admin",)):
        raise HostError(
            f"libvirt's notes are hidden from this process ({own.type}), which has no CAP_SYS_ADMIN",
            hint="run as root, from a shell on the host: confined-qemu recover --libvirt",
        )


# ---- what libvirt says of its VMs


@dataclass(frozen=True, slots=True)
class _Domain:
    pid: int | None
    paths: frozenset[str]


def _domains() -> list[_Domain]:
    """Return what each of libvirt's own files about a VM names; one that cannot be read is an error, not nothing."""
    folders = (CONFIGURED, RUNNING)
    names = [path for folder in folders for path in _files_in(folder, missing_ok=True) if path.endswith(".xml")]
    return [_domain(path) for path in names]


def _domain(path: str) -> _Domain:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:  # the VM ended meanwhile
        return _Domain(None, frozenset())
    except OSError as error:
        raise HostError(f"libvirt's file cannot be read: {why(error)}", where=path) from error
    problems = Problems(path)
    root = xmltree.parse(text, problems, {})
    if root is None:
        raise problems.error or HostError("libvirt's file cannot be read", where=path)
    pid = root.attributes.get("pid", "")
    return _Domain(int(pid) if re.fullmatch("[1-9][0-9]{0,9}", pid) else None, frozenset(remembered.paths_in(root)))


def _files_in(folder: str, *, missing_ok: bool = False) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    except OSError as error:
        if missing_ok and error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise HostError(f"the folder cannot be read: {why(error)}", where=folder) from error


def _candidates(domains: list[_Domain], paths: Iterable[str]) -> Iterator[str]:
    for domain in domains:
        yield from (os.path.realpath(path) for path in sorted(domain.paths) if "\0" not in path)
    # root's own: another user's journal may name any file, and this looks into what it finds with all of root's rights
    for entry in restore.own_entries(statefolders.all_folders()):
        yield from (step.path for step in entry.record.all_steps if isinstance(step, Relabel | Create))
    yield from _files_in(POOL, missing_ok=True)
    for path in paths:
        whole = os.path.abspath(path)
        if not os.path.lexists(whole):
            raise HostError("no such file or folder", where=whole)
        yield whole
        if os.path.isdir(whole) and not os.path.islink(whole):
            yield from _files_in(whole)


# ---- the host


def _now(domains: list[_Domain]) -> _Now:
    ours: dict[Identity, tuple[tuple[LiveProcess, Context | None], ...]] = {}
    for identity, holders in restore.holders(statefolders.all_folders()).items():
        seen = ((holder, lsm.process_context(holder.pid)) for holder in holders)
        ours[identity] = tuple(
            (LiveProcess(holder.pid, context), holder.claimed) for holder, context in seen if context is not None
        )
    live = {process.pid: process for process in processes.holding_categories()}
    running = {}
    for domain in domains:
        context = None if domain.pid is None or processes.has_ended(domain.pid) else lsm.process_context(domain.pid)
        if domain.pid is not None and context is not None:
            live[domain.pid] = LiveProcess(domain.pid, context)
            running[domain.pid] = frozenset(key for path in domain.paths if (key := _inode(path)) is not None)
    return _Now(lsm.policy_contexts(), boot_times(), tuple(live.values()), running, ours)


def _inode(path: str) -> _Inode | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def boot_times() -> tuple[int, ...]:
    """Return when this boot began, in epoch seconds, as the kernel says it now and as utmp noted it then."""
    found = []
    with open("/proc/stat", encoding="ascii") as file:
        match = re.search(r"^btime ([0-9]+)$", file.read(), re.MULTILINE)
    if match is None:
        raise HostError("/proc/stat has no boot time")
    found.append(int(match[1]))
    try:
        with open("/run/utmp", "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        return tuple(found)  # there is no utmp on newer systems; libvirt goes by the uptime then
    for number in range(len(data) // _BOOT_RECORD.size):
        record = _BOOT_RECORD.unpack_from(data, number * _BOOT_RECORD.size)
        if record[0] == _BOOT_TIME:
            found.append(record[9])
    return tuple(found)


def _holders(descriptor: int, given: Context | None, now: _Now) -> tuple[LiveProcess, ...]:
    """Return libvirt's live VMs that use the file: at its pair, or named in their record, or with the file open."""
    found = os.fstat(descriptor)
    key = (found.st_dev, found.st_ino)
    mine = {process.pid for holders in now.ours.values() for process, _ in holders}
    level = given.range.low if given is not None and given.range is not None else None

    def uses(process: LiveProcess) -> bool:
        its = process.context.range.low if process.context.range is not None else None
        at_its_pair = level is not None and bool(level.categories) and its == level
        return at_its_pair or key in now.running.get(process.pid, ()) or _has_open(process.pid, key)

    return tuple(process for process in now.live if process.pid not in mine and uses(process))


def _has_open(pid: int, key: _Inode) -> bool:
    folder = f"{processes.shown_at(pid)}/fd"
    try:
        numbers = os.listdir(folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(f"the open files of pid {pid} cannot be read: {why(error)}", where=folder) from error
    return any(_inode(f"{folder}/{number}") == key for number in numbers)


# ---- one file


def _one(path: str, now: _Now, seen: set[_Inode]) -> Result | None:
    """Look at one path and do what is to be done; None where libvirt noted nothing, or it was looked at before."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise LabelError(f"cannot be opened: {why(error)}", where=path) from error
    try:
        found = os.fstat(descriptor)
        key = (found.st_dev, found.st_ino)
        if key in seen or inodes.kind_of(found.st_mode) not in (FileKind.REGULAR, FileKind.BLOCK):
            return None
        seen.add(key)
        return _noted(path, descriptor, now)
    finally:
        os.close(descriptor)


def _noted(path: str, descriptor: int, now: _Now) -> Result | None:
    if not _values(descriptor, path):
        return None
    locked = _locked(descriptor, path)
    try:
        decision = _decision(path, descriptor, now)
        if decision is not None and decision.action is not Action.LEFT:
            # libvirt records a VM before it labels, and labels under this lock: what is read now is whole
            decision = _decision(path, descriptor, _now(_domains()))
        if decision is None:
            return None
        _do(descriptor, path, decision)
        return Result(path, decision)
    finally:
        if locked is not None:
            os.close(locked)


def _decision(path: str, descriptor: int, now: _Now) -> remembered.Decision | None:
    try:
        memory = remembered.parse(_values(descriptor, path))
    except ValueProblem as error:
        raise LabelError(
            f"libvirt's note of its label cannot be read: {error.what}",
            where=path,
            hint=f"see: getfattr -d -m trusted.libvirt {shell_word(path)}"
            f"{HINT}set the label (chcon), then remove each attribute of the note (setfattr -x NAME)",
        ) from error
    if memory is None:
        return None
    given = lsm.context_of(_name(descriptor))
    identity = inodes.identity_of(descriptor)
    noted = remembered.Noted(
        given,
        memory,
        _holders(descriptor, given, now),
        tuple(
            process
            for mine, users in now.ours.items()
            if mine.same(identity)
            for process, claimed in users
            if claimed in (None, given)
        ),
        lsm.default_label(path, os.fstat(descriptor).st_mode),
        lsm.is_valid(memory.label),
    )
    return remembered.decide(noted, now.contexts, now.boots)


def _name(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _values(descriptor: int, path: str) -> dict[str, bytes]:
    found = {}
    for attribute in remembered.ATTRIBUTES:
        try:
            found[attribute] = os.getxattr(_name(descriptor), attribute)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise LabelError(f"{attribute} cannot be read: {why(error)}", where=path) from error
    return found


def _locked(descriptor: int, path: str) -> int | None:
    """Take libvirt's lock on the file; like libvirt, do without where it cannot be opened for writing.

    Raises:
        HostError: libvirt holds it, in the middle of its own work on the file.
    """
    try:
        writable = os.open(_name(descriptor), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        taken = locks.take(writable, locks.EXCLUSIVE, *turns.BYTES)
    except OSError as error:
        os.close(writable)
        raise HostError(f"its lock cannot be taken: {why(error)}", where=path) from error
    if not taken:
        os.close(writable)
        raise HostError("libvirt is changing its label", where=path, hint="run again: confined-qemu recover --libvirt")
    return writable


def _do(descriptor: int, path: str, decision: remembered.Decision) -> None:
    """Set the label before the note goes: cut short in between, the next run finds the note and no VM's label."""
    name = _name(descriptor)
    if decision.label is not None:
        lsm.set_context(name, decision.label, shown=path)
    try:
        if decision.action is Action.LOWERED:
            os.setxattr(name, remembered.COUNT, str(decision.count).encode())
        elif decision.action is not Action.LEFT:
            for attribute in remembered.ATTRIBUTES:
                if attribute in _values(descriptor, path):
                    os.removexattr(name, attribute)
    except OSError as error:
        raise LabelError(f"libvirt's note cannot be changed: {why(error)}", where=path) from error
    stored = _values(descriptor, path)
    wanted = None if decision.count is None else str(decision.count).encode()
    if stored.get(remembered.COUNT, b"").rstrip(b"\0") != (wanted or b"") or (wanted is None and stored):
        raise LabelError("libvirt's note could not be changed: it reads back as it was", where=path)


def line_of(result: Result) -> str:
    """Return what a person is told of one file."""
    decision = result.decision
    if decision is None:
        return printable(str(result.error))
    words = {
        Action.LEFT: "left as it is",
        Action.LOWERED: f"the count is now {decision.count}",
        Action.FORGOTTEN: "libvirt's note removed",
        Action.RESTORED: f"labelled {decision.label}, libvirt's note removed",
    }
    return printable(f"{result.path}: {words[decision.action]}; {decision.why}")


def to_json(result: Result) -> dict[str, str | int | None]:
    """Return the same for a program; `action` is `failed` where `error` says why."""
    decision = result.decision
    return {
        "path": result.path,
        "action": decision.action.value if decision is not None else "failed",
        "label": str(decision.label) if decision is not None and decision.label is not None else None,
        "count": decision.count if decision is not None else None,
        "why": decision.why if decision is not None else None,
        "error": str(result.error) if result.error is not None else None,
    }
