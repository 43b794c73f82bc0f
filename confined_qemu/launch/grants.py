"""`allow` and `revoke`: a file for a VM that runs already, by the launch's rules, in its journal, and back again.

Both hold the lock of the VM's journal folder. What puts labels back (the watcher, a launch, `recover`) reads the
journal under the same lock, so that a VM that ends meanwhile takes with it what it was given.
"""

from __future__ import annotations

import os

from confined_qemu.host import lsm, processes, survey
from confined_qemu.labels import journal, label, restore, statefolders, strangers
from confined_qemu.launch import collect, conflicts, execute
from confined_qemu.model import hostpaths
from confined_qemu.model.errors import HINT, HostError, JournalError, LabelError, shell_word, why
from confined_qemu.model.facts import Facts, FileFacts, FileKind, KvmFacts, SelinuxMode
from confined_qemu.model.invocation import Invocation, Seclabel, SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING, contextmanager, dataclass
from confined_qemu.model.record import Grant
from confined_qemu.model.resource import PROBED, Access, Role
from confined_qemu.model.steps import Bind, Create, JournalStep, Relabel
from confined_qemu.plan import grants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from confined_qemu.model.record import Record

_SOURCE = "allow"


@dataclass(frozen=True, slots=True)
class _Vm:
    """A running VM: its journal, and one of its processes."""

    entry: journal.Entry
    pid: int

    @property
    def record(self) -> Record:
        return self.entry.record

    @property
    def folder(self) -> str:
        return os.path.dirname(self.entry.path)


def allow(name: str, path: str, *, readonly: bool, form: str | None, warn: Callable[[str], None]) -> str:
    """Label a file, and what its header names, for the VM `name` (or of that pid), and return what was done in a line.

    `form` is the format of an image; without one it is looked into as QEMU would.

    Raises:
        Refused: the file may not be given to the VM; nothing was changed.
        ConfinedQemuError: something failed; what had been done is undone, or in the VM's journal.
    """
    path = os.path.join(os.getcwd(), path)
    found = _find(name)
    if found.record.landlock:
        raise HostError(
            f"Landlock holds the VM {found.record.name} as well, and no path can be added to what that lets it open"
            f"{HINT}name the file at the start: extra_files: in the spec, or CONFINED_QEMU_EXTRA_PATHS"
            f"{HINT}or start the VM with landlock: no"
        )
    _enter_folder(found)
    invocation = collect.followed(_invocation(found, path, readonly=readonly, form=form))
    done = conflicts.finish_dead(found.folder, invocation)
    with _held(found) as vm:
        if any(entry.path not in done for entry in conflicts.dead(vm.folder, invocation)):
            raise JournalError(
                "the label that a VM left on it after a crash cannot be put back",
                where=path,
                hint="run: confined-qemu recover",
            )
        facts = _facts(vm, invocation)
        record = vm.record
        granted = tuple(step for grant in record.grants for step in grant.steps)
        running = grants.Running(record.name, record.context, record.steps, granted)
        plan = execute.accepted(grants.plan(invocation, facts, running, lsm), warn)
        steps = tuple(step for step in plan.steps if isinstance(step, JournalStep))
        if steps:
            _give(vm, facts.files[path].real, steps)
    shown = shell_word(path)
    if not steps:
        return f"{record.name}: {shown} may be used as it is"
    made = "made, and labelled" if facts.files[path].kind is FileKind.MISSING else "labelled"
    return f"{record.name}: {shown} is {made} {lsm.context_of(os.path.realpath(path))}"


def revoke(name: str, path: str) -> str:
    """Put back the label of a file that was allowed to the VM `name`, and return what was done in a line.

    Raises:
        HostError: it was not allowed, or the VM has it open.
        LabelError, LsmError: its label cannot be put back; it stays in the VM's journal.
    """
    real = os.path.realpath(os.path.join(os.getcwd(), path))
    with _held(_find(name)) as vm:
        record = vm.record
        grant = next((grant for grant in record.grants if grant.path == real), None)
        if grant is None:
            _refuse_not_granted(record, real)
        remaining = tuple(other for other in record.grants if other is not grant)
        kept = (*record.steps, *(step for other in remaining for step in other.steps))
        going = tuple(step for step in grant.steps if not any(_same(step, other) for other in kept))
        _require_closed(vm, going)
        others = restore.held_by_others(vm.entry.path)
        failed = label.undo_all(going, others) or others.pending
        if failed:
            raise failed[0]
        journal.write_grants(vm.entry.path, remaining)
    return f"{record.name}: {shell_word(real)} is taken back"


# ---- which VM


def _find(name: str) -> _Vm:
    """Return the one running VM that is called so, or whose pid it is; from here on act as its owner.

    Raises:
        HostError: there is none, or more than one.
    """
    if lsm.mode() is SelinuxMode.DISABLED:
        raise HostError("SELinux is disabled on this host: no VM has labels")
    live = [_Vm(vm.entry, vm.pid) for vm in restore.running(statefolders.readable_folders())]
    found = [vm for vm in live if vm.record.name == name] or [
        vm for vm in live if name in (str(vm.pid), str(vm.record.pid))
    ]
    if not found:
        raise HostError(f"no confined VM of yours named {name} runs", hint="see: confined-qemu ps")
    if len(found) > 1:
        pids = ", ".join(str(vm.pid) for vm in found)
        raise HostError(f"{len(found)} VMs are named {name}", hint=f"name one by its pid: {pids}")
    _become_owner(found[0].folder)
    return found[0]


def _become_owner(folder: str) -> None:
    """Give up root's rights for those of the VM's owner, whose watcher has to put the labels back."""
    if statefolders.is_own(folder):
        return
    try:
        strangers.become(statefolders.owner_of(folder))
    except OSError as error:
        raise HostError(f"cannot change to the VM's user: {why(error)}", where=folder) from error


@contextmanager
def _held(vm: _Vm) -> Iterator[_Vm]:
    """Hold the folder's lock, with the VM as it is now.

    Raises:
        HostError: it has ended.
    """
    with journal.locked(vm.folder):
        record = journal.read(vm.entry.path)
        entry = journal.Entry(vm.entry.path, record) if record is not None else None
        pid = restore.pid_of(entry) if entry is not None else None
        if entry is None or pid is None:
            _refuse_ended(vm)
        yield _Vm(entry, pid)


def _refuse_ended(vm: _Vm) -> NoReturn:
    raise HostError(
        f"the VM {vm.record.name} (pid {vm.pid}) has ended",
        hint="its labels go back by themselves",
    )


# ---- allow


def _enter_folder(vm: _Vm) -> None:
    """Work where QEMU does: there the relative name of a data file in a header starts."""
    try:
        os.chdir(f"{processes.shown_at(vm.pid)}/cwd")
    except FileNotFoundError:
        _refuse_ended(vm)
    except OSError as error:
        raise HostError(f"QEMU's working directory cannot be entered: {why(error)}", where=f"/proc/{vm.pid}") from error


def _invocation(vm: _Vm, path: str, *, readonly: bool, form: str | None) -> Invocation:
    access = Access.READ if readonly else Access.READ_WRITE
    resource = hostpaths.resource(path, Role.EXTRA, access, _SOURCE, format=form or PROBED)
    if resource is None:
        raise LabelError("names no file of the host", where=path)
    kind = SeclabelType.STATIC if vm.record.static else SeclabelType.DYNAMIC
    seclabel = Seclabel(kind, relabel=True, label=vm.record.context if vm.record.static else None)
    return Invocation(vm.record.name, "", (), (resource,), seclabel=seclabel, user=_user(vm))


def _user(vm: _Vm) -> str | None:
    """Return the user that QEMU was started as where it is not the caller (`user:` in a spec)."""
    try:
        owner = os.stat(f"/proc/{vm.pid}").st_uid
    except FileNotFoundError:
        _refuse_ended(vm)
    return str(owner) if owner != os.geteuid() else None


def _facts(vm: _Vm, invocation: Invocation) -> Facts:
    selinux = survey.selinux()
    return Facts(
        selinux=selinux,
        kvm=KvmFacts(None, None),
        emulator=FileFacts("", "", FileKind.MISSING),
        files=survey.files((resource.path for resource in invocation.resources), selinux),
        holders=restore.holders(statefolders.readable_folders(), without=vm.entry.path),
        uid=os.geteuid(),
        folder=os.getcwd(),
    )


def _give(vm: _Vm, real: str, steps: tuple[JournalStep, ...]) -> None:
    """Journal the steps and do them; all is as it was where one fails, or where the VM ends meanwhile."""
    before = vm.record.grants
    places = {step.path for step in steps}
    earlier = next((grant.steps for grant in before if grant.path == real), ())
    # what became of a file that was given before and lies there no more, or was relabelled, is not for this VM
    kept = tuple(step for step in earlier if step.path not in places)
    grants = (*(grant for grant in before if grant.path != real), Grant(real, (*kept, *steps)))
    journal.write_grants(vm.entry.path, grants)
    try:
        for step in steps:
            label.apply(step, _no_sockets)
        if restore.pid_of(vm.entry) is None:
            _refuse_ended(vm)
    except BaseException:
        if not label.undo_all(steps, restore.held_by_others(vm.entry.path)):
            journal.write_grants(vm.entry.path, before)
        raise


def _no_sockets(step: Bind) -> NoReturn:
    raise LabelError("a socket cannot be made for a running VM", where=step.path)


# ---- revoke


def _refuse_not_granted(record: Record, real: str) -> NoReturn:
    if any(os.path.realpath(step.path) == real for step in record.steps):
        raise HostError(f"the VM {record.name} was started with it: its label goes back when the VM ends", where=real)
    if any(step.path == real for step in record.all_steps):
        whose = next(grant.path for grant in record.grants if any(step.path == real for step in grant.steps))
        raise HostError(
            f"it was given as a layer of {whose}",
            where=real,
            hint=f"run: confined-qemu revoke {shell_word(record.name)} {shell_word(whose)}",
        )
    raise HostError(f"the VM {record.name} was not given it by allow", where=real, hint="see: confined-qemu ps")


def _same(step: JournalStep, other: JournalStep) -> bool:
    if isinstance(step, Relabel) and isinstance(other, Relabel):
        return step.identity.same(other.identity)
    return step.path == other.path


def _require_closed(vm: _Vm, steps: tuple[JournalStep, ...]) -> None:
    """Refuse while the VM has one of these files open: its next read or write would fail under the guest's hands."""
    places = {}
    for step in steps:
        if isinstance(step, Relabel):
            places[step.identity.device, step.identity.inode] = step.path
        elif isinstance(step, Create) and os.path.exists(step.path):
            found = os.stat(step.path)
            places[found.st_dev, found.st_ino] = step.path
    for pid in (vm.pid, *processes.running_as(vm.record.context)):
        try:
            opened = processes.open_inodes(pid)
        except OSError as error:
            raise HostError(
                f"the open files of the VM cannot be read: {why(error)}", where=f"/proc/{pid}/fd"
            ) from error
        for inode in opened & places.keys():
            raise HostError(
                f"the VM {vm.record.name} (pid {pid}) has it open",
                where=places[inode],
                hint="unplug it first (QMP: device_del, then blockdev-del)",
            )
