"""Starts our own programs beside QEMU: the watcher and the relay, apart from the caller in every way.

Double-forked into a session of their own, in `/`, with none of the caller's descriptors, deaf to TERM, HUP and INT
(systemd and batch systems signal whole groups): the caller sees no child of ours and waits for no pipe of ours.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER

from confined_qemu.host import interpreter
from confined_qemu.host import signals as signal
from confined_qemu.launch import companions
from confined_qemu.launch.companions import watch
from confined_qemu.model.errors import HostError, descriptor_for, why
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pwd import struct_passwd
    from typing import NoReturn

_DEAF = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_LAST_STDIO = 2


@dataclass(frozen=True, slots=True)
class Watcher:
    """A started watcher; `control`, the reading end of a pipe, closes when this process becomes QEMU."""

    control: int

    def await_ready(self) -> None:
        """Return once the watcher watches.

        Raises:
            HostError: it could not start.
        """
        if os.read(self.control, 1) != watch.READY:
            raise HostError(
                f"the watcher could not be started with {interpreter.current()}",
                hint=f"try: {interpreter.current()} -IS -c pass",
            )


@dataclass(frozen=True, slots=True)
class Channels:
    """Descriptors that a watcher is given; -1 where there is none.

    `report` leads to `run`. Through `leash`, the end of a socket pair, it gets a pidfd of each helper of the VM, and
    what the launcher makes. `live` is the live file of a VM whose context others may share. `files` are those whose
    labels it will put back. `leaves`: the VM may leave a process behind, which is waited for; else it is killed, by the
    VM's context alone where there is no live file, so the context is the VM's own then.
    """

    report: int = -1
    leash: int = -1
    live: int = -1
    files: tuple[int, ...] = ()
    leaves: bool = True
    group: str = ""
    """The VM's own control group, empty without one."""

    @property
    def open(self) -> tuple[int, ...]:
        """The descriptors that are there."""
        return tuple(number for number in (self.report, self.leash, self.live, *self.files) if number >= 0)

    def numbers(self) -> tuple[int, ...]:
        """Return what is said of them in the order of the watcher's arguments."""
        return self.report, self.leash, self.live, int(self.leaves), *self.files


def watcher(journal_path: str, context: str, held: Iterable[int], channels: Channels) -> Watcher:
    """Start the watcher of this very process; `held` are the descriptors of its journal and its pair.

    Raises:
        HostError: no process or descriptor is to be had.
    """
    with descriptor_for("the watcher"):
        mine, its = os.pipe()
        pidfd = os.pidfd_open(os.getpid())
    keep = [*held, its, pidfd, *channels.open]
    arguments = [journal_path, context, channels.group, *map(str, (pidfd, os.getpid(), its, *channels.numbers()))]
    program("watch", arguments, keep)
    os.close(its)
    os.close(pidfd)
    if channels.report >= 0:
        os.close(channels.report)
    return Watcher(mine)


def program(name: str, arguments: list[str], keep: Iterable[int]) -> None:
    """Run one of our programs (`companions/`) as a process of its own, with the descriptors `keep`.

    Raises:
        HostError: it cannot be forked.
    """
    path = _compiled(os.path.dirname(os.path.abspath(companions.__file__)), name)
    try:
        child = os.fork()
    except OSError as error:
        raise HostError(f"no process for the {name}: {why(error)}", hint="see: ulimit -u") from error
    if child == 0:
        _detach([interpreter.current(), "-IS", path, *arguments], frozenset(keep))
    await_end(child)


def _compiled(folder: str, name: str) -> str:
    """Return a program of ours as Python has compiled it: it starts sooner, and what stays of it is smaller.

    Its source where there is no other, or that is older: Python itself compares them only for what is imported.
    """
    source = os.path.join(folder, f"{name}.py")
    path = os.path.join(folder, "__pycache__", f"{name}.{sys.implementation.cache_tag}.pyc")
    try:
        found = os.stat(source)
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return source
    # PEP 552: no flags, then time and size of the source
    words = (0, int(found.st_mtime), found.st_size)
    wanted = MAGIC_NUMBER + b"".join((word & 0xFFFFFFFF).to_bytes(4, "little") for word in words)
    return path if head == wanted else source


def await_end(child: int) -> None:
    """Wait until a child of ours has ended, also where the caller ignores SIGCHLD: the kernel has its status then."""
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        return


def _detach(command: list[str], keep: frozenset[int]) -> NoReturn:
    """Become an orphan and execute `command`; any failure ends the process, and its reader sees the end."""
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        for deaf in _DEAF:
            signal.signal(deaf, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir("/")
        os.umask(0o077)
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(_LAST_STDIO + 1):
            if number not in keep:
                os.dup2(null, number)
        close_all_but({*range(_LAST_STDIO + 1), *keep})
        for number in keep:
            os.set_inheritable(number, True)  # noqa: FBT003 - positional by definition
        os.execve(command[0], command, {})
    finally:
        os._exit(1)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor of this process that is not in `keep`."""
    kept = frozenset(keep)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            _close(int(name))


def account(name: str) -> struct_passwd:
    """Return a user of this host, by name or number.

    Raises:
        HostError: there is no such user.
    """
    import pwd

    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError as error:
        raise HostError(f"user: there is no user {name!r}", hint="name one that exists") from error


def become_user(name: str) -> None:
    """Become a user, by name or number, with the groups that the user has.

    Raises:
        HostError: there is no such user, or it takes root.
    """
    entry = account(name)
    try:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError as error:
        raise HostError(f"user: cannot become {name}: {why(error)}", hint="start as root, or without user:") from error


def _close(number: int) -> None:
    try:
        os.close(number)
    except OSError:
        return  # the listing's own
