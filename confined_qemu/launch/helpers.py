"""Starts a VM's helpers: each confined, apart from the caller, and known to answer before QEMU is started.

A helper ends when QEMU's end of its socket closes, so with QEMU, whatever ended it. The watcher gets a pidfd of each
through `leash`, sent by the helper's own process before it executes anything, and ends one that hangs.
"""

from __future__ import annotations

import os
import select
import socket

from confined_qemu.host import lsm
from confined_qemu.host import signals as signal
from confined_qemu.launch import spawn
from confined_qemu.launch.companions import watch
from confined_qemu.model.errors import HINT, ConfinedQemuError, HostError, descriptor_for, printable, why
from confined_qemu.model.helper import DESCRIPTOR, FOLDER, PROGRAMS, HelperKind
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import NoReturn

    from confined_qemu.model.steps import StartHelper

_PATIENCE = 60.0
"""Seconds after which a helper that neither answers nor ends is taken for hung; it answers in milliseconds."""
_TAIL = 4096
"""Bytes of what a helper said that are looked at when it ended."""
_CANNOT_EXECUTE = 126
_CLONE_NEWUSER = 0x10000000
"""linux/sched.h"""


@dataclass(frozen=True, slots=True)
class RunningHelper:
    """A started helper: a pidfd of it, and QEMU's end of its socket."""

    pidfd: int
    socket: int

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return
        _has_ended(self.pidfd, None)


def start(step: StartHelper, user: str | None, leash: socket.socket | None) -> RunningHelper:
    """Start one helper and return when it has answered.

    Raises:
        HostError: it cannot be started, ends at once, or says nothing.
        LsmError: it does not run in its context; it was killed.
    """
    known = PROGRAMS[step.kind]
    folder = _folder(step)
    log = _log(step)
    try:
        mine, its = _sockets(step, listens=known.listens)
        with mine, its:
            pid, pidfd = _spawned(step, user, leash, folder, log, its)
            running = RunningHelper(pidfd, -1)
            try:
                its.close()
                _await_answer(step, mine, pidfd, log)
                _check(step, pid)
            except BaseException:
                running.end()
                os.close(pidfd)
                raise
            return RunningHelper(pidfd, mine.detach())
    finally:
        os.close(folder)
        os.close(log)


def _folder(step: StartHelper) -> int:
    """Open the folder that it serves, and make sure that it is the one that was planned for."""
    try:
        opened = os.open(step.folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot be opened: {why(error)}", where=step.folder) from error
    found = os.fstat(opened)
    if step.identity is not None and (found.st_dev, found.st_ino) != (step.identity.device, step.identity.inode):
        os.close(opened)
        raise HostError("changed during launch", where=step.folder, hint="run again")
    return opened


def _log(step: StartHelper) -> int:
    """Return where it says what is wrong: a file in the VM's own folder, or in memory where the VM has none."""
    if step.own_folder is None:
        return os.memfd_create(step.kind)
    path = os.path.join(step.own_folder, f"{step.name}.{step.kind}.log")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # it lies in a folder with the VM's label, and gets that
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise HostError(f"cannot be made: {why(error)}", where=path) from error


def _sockets(step: StartHelper, *, listens: bool) -> tuple[socket.socket, socket.socket]:
    """Return QEMU's end and the helper's, both under the VM's socket context: nobody else may use them."""
    with descriptor_for(str(step.kind)), lsm.creating_sockets(step.socket_context):
        if not listens:
            return socket.socketpair()
        listener, mine = (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2))
    folder, remove = step.own_folder, False
    try:
        if folder is None:
            import tempfile

            folder, remove = tempfile.mkdtemp(prefix="confined-qemu."), True
        path = os.path.join(folder, f"{step.name}.sock")
        try:
            _joined(listener, mine, path)
        finally:
            if remove:
                os.rmdir(folder)
    except OSError as error:
        listener.close()
        mine.close()
        raise HostError(f"no socket for {step.kind}: {why(error)}", where=folder) from error
    return mine, listener


def _joined(listener: socket.socket, mine: socket.socket, path: str) -> None:
    """Let one listen at `path` and connect the other to it; then the name has done its work."""
    listener.bind(path)
    try:
        listener.listen(1)
        mine.connect(path)
    finally:
        os.unlink(path)


# ---- the process


def _spawned(  # noqa: PLR0913, PLR0917 - what a process gets
    step: StartHelper, user: str | None, leash: socket.socket | None, folder: int, log: int, its: socket.socket
) -> tuple[int, int]:
    """Fork twice and execute the program in the second child, an orphan; return its pid and a pidfd."""
    with descriptor_for(str(step.kind)):
        here, there = socket.socketpair()
    with here, there:
        try:
            child = os.fork()
        except OSError as error:
            raise HostError(f"no process for {step.kind}: {why(error)}", hint="see: ulimit -u") from error
        if child == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    _announce(there, leash)
                    _become(step, user, folder, log, its.fileno())
            finally:
                os._exit(_CANNOT_EXECUTE)
        there.close()
        spawn.await_end(child)
        text, descriptors, _, _ = socket.recv_fds(here, 32, 1)
        if not descriptors:
            raise HostError(f"no process for {step.kind}", hint="see: ulimit -u")
        return int(text), descriptors[0]


def _announce(there: socket.socket, leash: socket.socket | None) -> None:
    pidfd = os.pidfd_open(os.getpid())
    if leash is not None:
        socket.send_fds(leash, [watch.HELPER], [pidfd])
    socket.send_fds(there, [str(os.getpid()).encode()], [pidfd])


def _become(step: StartHelper, user: str | None, folder: int, log: int, number: int) -> NoReturn:
    """Execute the program; what goes wrong is said in its log."""
    try:
        os.fchdir(folder)
        os.umask(0o077)
        null = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        kept = {number}
        if any(FOLDER in argument for argument in step.arguments):
            kept.add(folder)
        spawn.close_all_but({0, 1, 2, *kept})
        for inherited in kept:
            os.set_inheritable(inherited, True)  # noqa: FBT003 - positional by definition
        for reset in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(reset, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        ruleset = _ruleset(step)
        if user is not None:
            spawn.become_user(user)
        if step.kind is HelperKind.VIRTIOFSD and os.geteuid() != 0:
            _be_root_of_a_namespace()
        numbers = ((DESCRIPTOR, number), (FOLDER, folder))
        arguments = list(step.arguments)
        for name, value in numbers:
            arguments = [argument.replace(name, str(value)) for argument in arguments]
        _confine(step, ruleset)
        os.execve(step.program, [step.program, *arguments], {"PATH": os.defpath, "LANG": "C.UTF-8"})
    except (ConfinedQemuError, OSError) as error:
        # what it says last is what a person is told: of an error the line, without its hint
        said = why(error) if isinstance(error, OSError) else str(error).split("\n")[0]
        os.write(2, f"cannot be started: {said}\n".encode())
    finally:
        os._exit(_CANNOT_EXECUTE)


def _confine(step: StartHelper, ruleset: int) -> None:
    if step.context is not None:
        lsm.set_exec_context(step.context)
    if step.ruleset is not None:
        from confined_qemu.launch import walls

        walls.hold(step.ruleset, ruleset)


def _ruleset(step: StartHelper) -> int:
    """Return the kernel's ruleset for a helper that Landlock holds; -1 without one."""
    if step.ruleset is None:
        return -1
    from confined_qemu.host import landlock

    return landlock.made(step.ruleset)


def _be_root_of_a_namespace() -> None:
    """Enter a user namespace whose root is this user: virtiofsd wants a root of its own (chroot)."""
    import ctypes

    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


# ---- does it serve?


def _await_answer(step: StartHelper, mine: socket.socket, pidfd: int, log: int) -> None:
    known = PROGRAMS[step.kind]
    left = known.answer
    try:
        mine.sendall(known.question)
        poll = select.poll()
        for number in (mine.fileno(), pidfd):
            poll.register(number, select.POLLIN)
        while left:
            if not poll.poll(_PATIENCE * 1000):
                raise HostError(f"{step.kind} did not answer within {_PATIENCE:.0f} s", where=step.program)
            # no byte more than the answer: the next one is QEMU's
            answer = mine.recv(left, socket.MSG_DONTWAIT)
            left -= len(answer)
            if not answer:
                break
    except OSError:
        pass  # it ended without an answer
    if left:
        _has_ended(pidfd, _PATIENCE)
        raise HostError(f"{step.kind} ended at once: {_said(log)}", where=step.folder)


def _said(log: int) -> str:
    """Return the last line that it said."""
    size = os.fstat(log).st_size
    text = os.pread(log, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else f"it said nothing{HINT}see: confined-qemu denials"


def _check(step: StartHelper, pid: int) -> None:
    """Read back where it runs: it has answered, so it is executed."""
    if step.context is None:
        return
    found = lsm.process_context(pid)
    if found != step.context:
        raise HostError(f"{step.kind} ran as {found}, not as {step.context}, and was killed", where=step.program)


def _has_ended(pidfd: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
