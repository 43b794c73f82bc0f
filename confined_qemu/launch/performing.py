"""Does the steps of a plan, each as it says: makes, labels, binds, copies, starts helpers and the relay."""

from __future__ import annotations

import os

from confined_qemu.host import lsm
from confined_qemu.labels import label
from confined_qemu.launch.companions import watch
from confined_qemu.launch.execute import Performed
from confined_qemu.model.errors import HostError, LabelError, descriptor_for, why
from confined_qemu.model.lean import TYPE_CHECKING, contextmanager, dataclass, replace
from confined_qemu.model.steps import (
    AttachTap,
    Bind,
    Connect,
    Copy,
    Create,
    KeepFolder,
    LabelTree,
    Listen,
    MakeFile,
    OwnFolder,
    OwnGroup,
    Relabel,
    Relay,
    Retag,
    StartHelper,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket
    from typing import TypeGuard

    from confined_qemu.labels.journal import Hold
    from confined_qemu.labels.trees import Progress
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.steps import RemovedStep, Step

_BACKLOG = 1
"""QEMU's own, for a character device."""
_LONGEST_ADDRESS = 107
"""Bytes: `sun_path` without its NUL."""
_HIGHEST_NUMBER = (1 << 16) - 1
"""Where a descriptor is that names nothing in QEMU: no QEMU comes to so many."""
_FIRST_NUMBER = 64
"""Where descriptors of ours start: above what callers hand over by number."""


@dataclass(frozen=True, slots=True)
class Trees:
    """Where a VM's journal is, and who is told how far the labelling of a tree is."""

    journal: str
    progress: Progress

    def give(self, step: LabelTree, plan: Plan) -> None:
        """Label one."""
        from confined_qemu.labels import trees
        from confined_qemu.labels.journal import notes_path

        apart = {
            (other.identity.device, other.identity.inode) for other in plan.steps if isinstance(other, Relabel)
        }  # fmt: skip
        trees.give(step, notes_path(self.journal, step.number), apart, self.progress)


def perform(plan: Plan, leash: socket | None = None, hold: Hold | None = None, trees: Trees | None = None) -> Performed:
    """Do every step in order; `leash` is where the watcher learns of helpers, and QEMU will inherit `hold`.

    Raises:
        ConfinedQemuError: a step failed; helpers were ended, and the caller undoes what the journal names.
    """
    done = Performed(hold=replace(hold, held=high(hold.held)) if hold is not None else None)
    try:
        _perform(plan, done, leash, trees)
        _enter_group(plan)
    except BaseException:
        done.end_helpers()
        raise
    return done


def _perform(plan: Plan, done: Performed, leash: socket | None, trees: Trees | None) -> None:
    # folders first: a socket may lie in one
    for step in plan.steps:
        match step:
            case StartHelper():
                from confined_qemu.launch import helpers as helperstart

                running = helperstart.start(step, plan.user, leash)
                done.helpers.append(running)
                done.numbers[step.name] = high(running.socket)
            case Retag():
                _retag(step)
            case Relay():
                _relay_descriptor(step, done)
            case LabelTree() if trees is not None:
                trees.give(step, plan)
            case Connect() | AttachTap():
                done.numbers[step.name] = _had(step)
            case Copy() | MakeFile() | OwnFolder() | Listen():
                _make(step, plan, done)
            case _:
                label.apply(step, lambda bind: _bind(bind, done))
                if leash is not None and lasts(step):
                    _show(step.path, leash)
    if done.relayed:
        _start_relay(plan, done)


def _enter_group(plan: Plan) -> None:
    """Enter the VM's control group, last, as what runs beside QEMU stays out; the VM starts without one as well."""
    group = own_group(plan)
    if group:
        from confined_qemu.host import cgroups

        cgroups.enter(group)


def own_group(plan: Plan) -> str:
    """Return the VM's own control group, empty without one."""
    return next((step.path for step in plan.steps if isinstance(step, OwnGroup)), "")


def lasts(step: Step) -> TypeGuard[Create | KeepFolder]:
    """Tell whether the launcher makes something that stays when the VM ends."""
    return isinstance(step, KeepFolder) or (isinstance(step, Create) and not step.remove)


def _show(path: str, leash: socket) -> None:
    """Hand the watcher what was just made: it may have another name when its label goes back."""
    from socket import send_fds

    from confined_qemu.labels import find

    made = find.at(path)
    if made is None:
        raise LabelError("made for QEMU, and disappeared during launch", where=path, hint="run again")
    try:
        send_fds(leash, [watch.MADE], [made])
    except OSError as error:
        raise HostError(f"the watcher cannot be given a file: {why(error)}", where=path) from error
    finally:
        os.close(made)


def _make(step: Copy | MakeFile | OwnFolder | Listen, plan: Plan, done: Performed) -> None:
    if isinstance(step, Copy):
        from confined_qemu.labels import copies

        copies.make(step)
    else:
        _make_unlabelled(step, plan.user, done)


def _make_unlabelled(step: RemovedStep, user: str | None, done: Performed) -> None:
    """Make something that needs no label of the plan's; it belongs to the user that QEMU will run as."""
    match step:
        case MakeFile():
            _make_file(step)
        case OwnFolder():
            _make_folder(step)
        case Listen():
            unlink_stale(step.path)
            if not step.by_qemu:
                done.numbers[step.name] = high(_listening(step.path, kept=True))
    if user is not None and not (isinstance(step, Listen) and step.by_qemu):
        from confined_qemu.launch import spawn

        owner = spawn.account(user)
        os.chown(step.path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _make_file(step: MakeFile) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(step.path, flags, step.mode))
    except OSError as error:
        raise HostError(f"cannot be made for QEMU: {why(error)}", where=step.path) from error


def _make_folder(step: OwnFolder) -> None:
    try:
        os.mkdir(step.path, 0o700)
    except OSError as error:
        raise HostError(f"cannot be made for the VM: {why(error)}", where=step.path) from error


def _retag(step: Retag) -> None:
    path = f"/proc/self/fd/{step.number}"
    if lsm.context_of(path) != step.context:  # two descriptors may lead to one pipe
        lsm.set_context(path, step.context, shown=f"descriptor {step.number}")


def _bind(step: Bind, done: Performed) -> None:
    inner_path = step.inner or step.path
    if not step.relayed:
        unlink_stale(step.path)
    if not step.by_qemu:
        with lsm.creating_sockets(step.socket_context), lsm.creating(step.inner_context):
            inner = _listening(inner_path, kept=not step.relayed)
        done.numbers[step.name] = high(inner)
    if step.relayed:
        unlink_stale(step.path)
        with lsm.creating(step.file_context):
            outer = _listening(step.path)
        done.relayed.append(f"listen:{outer}:{inner_path}")
        done.relay_keeps.append(outer)


def _had(step: Connect | AttachTap) -> int:
    if isinstance(step, Connect):
        return _connected(step.path)
    from confined_qemu.launch import taps

    return high(taps.attached(step.interface, headers=step.headers))


def _connected(path: str) -> int:
    """Return a connection to what listens at `path`: the launcher's own socket, which a VM may use as handed over."""
    made = _unix_socket()
    try:
        with _address(path) as address:
            made.connect(address)
    except OSError as error:
        made.close()
        words = why(error) if error.errno else str(error)
        raise LabelError(
            f"cannot be connected to: {words}", where=path, hint="start what listens there first, as the same user"
        ) from error
    return high(made.detach())


def _unix_socket() -> socket:
    import socket

    with descriptor_for("a socket"):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _listening(path: str, *, kept: bool = False) -> int:
    """Return a socket that listens at `path`. `kept`: QEMU, which gets it, does not find its file."""
    made = _unix_socket()
    try:
        with _address(path, kept=kept) as address:
            made.bind(address)
        made.listen(_BACKLOG)
    except OSError as error:
        raise LabelError(f"no socket can be made here: {why(error) if error.errno else error}", where=path) from error
    return made.detach()


@contextmanager
def _address(path: str, *, kept: bool = False) -> Iterator[bytes]:
    """Yield `path` as an address of unix(7), which has room for 107 bytes: a longer one goes by way of its folder.

    `kept`: that way in any case, by a number that leads nowhere in QEMU. A QEMU that ends unlinks the address of a
    socket, also of one that it was given: in a folder of images that would be denied and logged, and QEMU complains.
    """
    name = os.fsencode(path)
    if len(name) <= _LONGEST_ADDRESS and not kept:
        yield name
        return
    folder = os.open(os.path.dirname(name) or b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if kept:
            import fcntl

            highest = min(os.sysconf("SC_OPEN_MAX") - 1, _HIGHEST_NUMBER)
            low, folder = folder, fcntl.fcntl(folder, fcntl.F_DUPFD_CLOEXEC, highest)
            os.close(low)
        yield b"/proc/self/fd/%d/%s" % (folder, os.path.basename(name))
    finally:
        os.close(folder)


def unlink_stale(path: str) -> None:
    """Remove a socket that an earlier VM left, as QEMU does before it binds; anything else stays."""
    import stat

    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabelError(f"an old socket cannot be removed: {why(error)}", where=path) from error


def high(number: int) -> int:
    """Move a descriptor that QEMU inherits above those that a command line may name."""
    import fcntl

    with descriptor_for("QEMU's socket"):
        high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FIRST_NUMBER)
    os.close(number)
    return high


def _relay_descriptor(step: Relay, done: Performed) -> None:
    import socket

    same = os.fstat(step.number)
    for ours, number in done.swaps:
        if os.path.samestat(os.fstat(number), same):
            done.swaps.append((ours, step.number))
            return
    with descriptor_for("the relay"):
        with lsm.creating_sockets(step.socket_context):
            for_vm, for_relay = socket.socketpair()
        outer = high(os.dup(step.number))
    inner = high(for_relay.detach())
    done.relayed.append(f"pair:{outer}:{inner}")
    done.relay_keeps += [outer, inner]
    done.swaps.append((high(for_vm.detach()), step.number))


def _start_relay(plan: Plan, done: Performed) -> None:
    from confined_qemu.launch import spawn

    with descriptor_for("the relay"):
        pidfd = os.pidfd_open(os.getpid())
    if plan.process is None or plan.process.range is None:
        raise HostError("a VM without a level has nothing to relay")
    client = lsm.own_context().at(plan.process.range.low)
    live = [done.hold.watched] if done.hold is not None else []
    words = [str(pidfd), str(plan.process), str(client), str(live[0] if live else -1), *done.relayed]
    spawn.program("relay", words, [pidfd, *live, *done.relay_keeps])
    for number in (pidfd, *done.relay_keeps):
        os.close(number)
    with descriptor_for("what is relayed"):
        for ours, number in done.swaps:
            os.dup2(ours, number, inheritable=True)
    for ours in {ours for ours, _ in done.swaps}:
        os.close(ours)
