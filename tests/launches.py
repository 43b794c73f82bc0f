"""A host on which `session.launch` runs whole: the kernel's doors are fakes, everything between them is the launcher's.

What stands for the kernel is SELinux (`lsm`), the processes, and the few calls by which a launcher makes or becomes
another program. Files, locks, pipes and sockets are real, in the test's folder.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import traceback
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from confined_qemu.host import capabilities, cgroups, helperfacts, kvm, lsm, mounts, processcontrol, processes, survey
from confined_qemu.labels import restore, statefolders
from confined_qemu.launch import collect, helpers, inputs, pairs, session, spawn
from confined_qemu.launch.companions import watch
from confined_qemu.model import paths
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError
from confined_qemu.model.facts import FileFacts, FileKind, LiveProcess
from confined_qemu.model.lean import dataclass, field
from tests.fakes import DEBIAN, Crash, Labels, Policy, Processes, install_labels, install_processes
from tests.worlds import CALLER, LAUNCHER, QEMU_EXEC, TABLE, USABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

    from confined_qemu.model.facts import SelinuxFacts
    from confined_qemu.model.helper import HelperKind
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.steps import StartHelper

_ARGUMENTS_BEFORE_CONTROL = 5
"""Where the watcher's arguments name its end of the control pipe: JOURNAL CONTEXT GROUP PIDFD PID CONTROL REPORT ..."""


_REAL_DUP = os.dup


class Executed(BaseException):
    """The launcher has become QEMU."""


@dataclass
class Companion:
    """A program that was started beside the VM, with its own copies of the descriptors that it was left."""

    name: str
    arguments: list[str]
    kept: dict[int, int]
    """The launcher's number of a descriptor, and the companion's."""
    made: dict[str, int] = field(default_factory=dict)
    """What a watcher was handed when its VM became QEMU."""

    def receive(self) -> None:
        """Take what came through the leash, whose other ends are closed by now."""
        if self.name == "watch" and self.mine(7) >= 0:
            self.made = watch._received(_REAL_DUP(self.mine(7)))[1]

    def mine(self, argument: int) -> int:
        """Return the descriptor that an argument names; -1 where it names none."""
        return self.kept.get(int(self.arguments[argument]), -1)

    def is_told(self) -> bool:
        """Tell a watcher's news: the launcher's end of the control pipe has closed."""
        poll = select.poll()
        poll.register(self.mine(_ARGUMENTS_BEFORE_CONTROL), 0)
        return bool(poll.poll(0))

    def end(self) -> None:
        """Let go of everything."""
        for number in (*self.kept.values(), *self.made.values()):
            os.close(number)
        self.kept.clear()
        self.made.clear()


@dataclass
class Helper:
    """A helper that serves."""

    name: str
    socket: int
    ended: bool = False

    def end(self) -> None:
        """Stand for `RunningHelper.end`."""
        self.ended = True


@dataclass
class Vm:
    """What a launch became: QEMU's process, its arguments, and what is beside it."""

    pid: int
    context: Context
    arguments: list[str]
    environment: dict[bytes, bytes]
    descriptors: list[int]
    companions: list[Companion]


@dataclass
class Doors:
    """Calls to the kernel, counted: the n-th can be told to fail."""

    calls: int = 0
    faults: dict[int, BaseException] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def at(self, call: int, what: BaseException) -> None:
        """Let the call number `call` from now on raise."""
        self.faults[self.calls + call] = what

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that counts and may fail, and else does what the real one does."""

        def door(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            self.log.append(name)
            if self.calls in self.faults:
                raise self.faults.pop(self.calls)
            return real(*arguments, **named)

        return door

    def forked(self, name: str) -> None:
        """Count a program that is started, and fail as who starts it does."""
        try:
            self.counted(f"fork {name}", lambda: None)()
        except OSError as error:
            raise HostError(f"no process for {name}") from error


class Host:
    """An enforcing Debian with the policy module and KVM, whose launcher is root's or the test's user."""

    def __init__(self, folder: str, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = patch
        self.labels: Labels = install_labels(patch)
        self.table: Processes = install_processes(patch)
        self.policy = Policy({(s, t, c): frozenset(names.split()) for s, t, c, names in TABLE})
        self.doors = Doors()
        self.pid = 100
        self.group: str | None = None
        """A control group that the launcher may make."""
        self.chosen: Context | None = None
        """What the next exec will run as."""
        self.companions: list[Companion] = []
        self.silent: set[str] = set()
        """Companions that end before they say that they are there."""
        self.helpers: list[Helper] = []
        self.program: list[Any] = []
        self.walls: list[str] = []
        """What the launcher's process has given up before it became QEMU."""
        self.vms: list[Vm] = []
        self.handed: list[int] = []
        """Descriptors that the caller hands over."""
        self.emulator = self.file("qemu-system-x86_64", b"\x7fELF")
        os.chmod(self.emulator, 0o700)
        self.labels.give(self.emulator, QEMU_EXEC)
        for name in ("STATE", "RUNTIME"):
            patch.setattr(paths, name, self.at(name.lower()))
            os.mkdir(self.at(name.lower()))
        patch.setattr(paths, "LAUNCH_SCRIPT", self.at("none"))
        self._install_lsm()
        self._install_kernel()
        self.journals = statefolders.user_folder(os.geteuid())

    def _install_lsm(self) -> None:
        fakes: dict[str, Callable[..., object]] = {
            "own_context": lambda: LAUNCHER,
            "previous_context": lambda: CALLER,
            "policy_contexts": lambda: DEBIAN,
            "default_label": lambda _path, _mode: self.labels.default,
            "device": lambda: -1,
            "enters_held": lambda: True,
            "is_valid": self._is_valid,
            "creating_sockets": self._creating_sockets,
            "set_exec_context": self._set_exec_context,
        }
        for name in ("denied", "created", "boolean", "is_permissive", "user_type"):
            fakes[name] = getattr(self.policy, name)
        for name, fake in fakes.items():
            self.patch.setattr(lsm, name, fake)

    def _install_kernel(self) -> None:
        self.patch.setattr(kvm, "NODE", self.at("none"))
        self.patch.setattr(survey, "accelerator", lambda: USABLE)
        self.patch.setattr(cgroups, "possible", lambda: self.group)
        self.patch.setattr(mounts.Mounts, "of", lambda _table, _descriptor: None)
        self.patch.setattr(processes, "holding_categories", self._holding_categories)
        self.patch.setattr(spawn, "program", self._program)
        self.patch.setattr(helpers, "start", self._helper)
        self.patch.setattr(helperfacts, "programs", self._programs)
        self._install_walls()
        self.patch.setattr(os, "getpid", lambda: self.pid)
        self.patch.setattr(os, "pidfd_open", self.doors.counted("pidfd_open", lambda _: _REAL_DUP(0)))
        self.patch.setattr(os, "execve", self.doors.counted("execve", self._execve))
        real_bind = socket.socket.bind

        def bind(made: socket.socket, address: bytes) -> None:
            real_bind(made, address)
            self.labels.made(os.fsdecode(address))

        self.patch.setattr(socket.socket, "bind", self.doors.counted("bind", bind), raising=False)
        self.patch.setattr(os, "fsync", self.doors.counted("fsync", lambda _: None))
        for name in ("open", "mkdir", "pipe", "rename", "dup", "dup2"):
            self.patch.setattr(os, name, self.doors.counted(name, getattr(os, name)))
        self.patch.setattr(socket, "socketpair", self.doors.counted("socketpair", socket.socketpair))

    def _install_walls(self) -> None:
        """Note what the process gives up, in the order in which it does."""
        self.patch.setattr(capabilities, "held", lambda: frozenset({"net_admin", "setuid", "sys_admin"}))
        for module, name in ((capabilities, "keep"), (capabilities, "bound"), (processcontrol, "set_no_new_privs")):
            self.patch.setattr(module, name, self._wall(name))
        self.patch.setattr(resource, "setrlimit", self._wall("setrlimit"))

    def _wall(self, name: str) -> Callable[..., None]:
        door = self.doors.counted(name, lambda *_: None)

        def given_up(*what: object) -> None:
            self.walls.append(" ".join((name, *(str(sorted(w) if isinstance(w, frozenset) else w) for w in what))))
            door(*what)

        return given_up

    # ---- files

    def at(self, name: str) -> str:
        """Return the path of a file of this host."""
        return os.path.join(self.folder, name)

    def file(self, name: str, data: bytes = b"") -> str:
        """Make a file, labelled as the policy does it."""
        path = self.at(name)
        with open(path, "wb") as file:
            file.write(data)
        self.labels.give(path, self.labels.default)
        return path

    # ---- the kernel

    @contextmanager
    def _creating_sockets(self, _: Context | None) -> Iterator[None]:
        self.labels._call("creating_sockets")
        yield

    def _is_valid(self, context: Context) -> bool:
        # one sensitivity: a policy with MCS
        return self.policy.is_valid(context) and (context.range is None or context.range.high.sensitivity == 0)

    def _set_exec_context(self, context: Context | None) -> None:
        self.labels._call(f"set_exec_context {context}")
        self.chosen = context

    def _holding_categories(self) -> tuple[LiveProcess, ...]:
        return tuple(LiveProcess(pid, context) for pid, context in self.table.contexts.items())

    def _program(self, name: str, arguments: list[str], keep: Iterable[int]) -> None:
        self.doors.forked(name)
        self.labels.log.append(f"program {name}")
        companion = Companion(name, arguments, {number: _REAL_DUP(number) for number in keep})
        self.companions.append(companion)
        if name in self.silent:
            companion.end()
        elif name == "watch":
            os.write(companion.mine(_ARGUMENTS_BEFORE_CONTROL), watch.READY)

    def _programs(self, invocation: Invocation, _: SelinuxFacts) -> dict[HelperKind, FileFacts]:
        label = Context.parse("system_u:object_r:bin_t:s0")
        path = self.emulator
        return {helper.kind: FileFacts(path, path, FileKind.REGULAR, label=label) for helper in invocation.helpers}

    def _helper(self, step: StartHelper, _user: str | None, leash: socket.socket | None) -> Helper:
        assert leash is not None, "the watcher would know nothing of the helper"
        self.doors.forked(step.name)
        helper = Helper(step.name, _REAL_DUP(leash.fileno()))
        self.helpers.append(helper)
        return helper

    def _execve(self, *program: Any) -> None:
        self.program = list(program)
        raise Executed

    # ---- a launch

    def launch(self, *arguments: str) -> Vm:
        """Launch a VM in a process of its own; whatever `launch` raises is raised once that process has ended."""
        return self.start(inputs.from_arguments(self.emulator, arguments))

    def start(self, invocation: Invocation, *, report: int = -1) -> Vm:
        """Launch an invocation, as `launch` does it."""
        self.pid += 1
        self.table.ticks[self.pid] = 1
        self.companions, self.helpers, self.walls = [], [], []
        handlers = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
        try:
            return self._started(invocation, report)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)  # they were QEMU's, in a process of its own

    def _started(self, invocation: Invocation, report: int) -> Vm:
        before = set(os.listdir("/proc/self/fd"))
        caller = collect.Caller({b"PATH": b"/nowhere", b"HOME": b"/x"}, tuple(self.handed), "qemu", report)
        try:
            session.launch(invocation, caller, self._warn)
        except Executed as executed:
            _let_go(executed)
            opened = self._opened(before)
            inherited = [number for number in opened if os.get_inheritable(number)]
            self.close(set(opened) - set(inherited))
            for companion in self.companions if not self.helpers else ():
                companion.receive()
            if self.chosen is None:
                raise  # a VM without a context leaves nothing to look at
            context, self.chosen = self.chosen, None
            self.table.contexts[self.pid] = context
            _, words, environment = self.program
            vm = Vm(self.pid, context, words, environment, inherited, self.companions)
            self.vms.append(vm)
            return vm
        except Crash as crash:
            _let_go(crash)
            self._exit(before)
            raise
        except BaseException as error:
            self.before_exit(error)
            _let_go(error)
            self._exit(before)
            raise
        raise AssertionError("launch returned")

    def before_exit(self, error: BaseException) -> None:
        """Look at what the launcher has left, before its process ends and before its watcher does anything."""

    def _warn(self, _: str) -> None:
        """Take no notice."""

    def _opened(self, before: set[str]) -> list[int]:
        kept = {number for companion in self.companions for number in companion.kept.values()}
        now = {int(name) for name in os.listdir("/proc/self/fd") if name not in before}
        return [number for number in sorted(now - kept) if os.path.lexists(f"/proc/self/fd/{number}")]

    def close(self, numbers: Iterable[int]) -> None:
        """Close descriptors; QEMU may have closed one."""
        for number in numbers:
            with suppress(OSError):
                os.close(number)

    def _exit(self, before: set[str]) -> None:
        self.close(self._opened(before))
        del self.table.ticks[self.pid]
        self.labels.creating_now = self.chosen = None

    def end(self, vm: Vm, *, watched: bool = True) -> None:
        """End a VM; its watcher does its work, or was killed before."""
        self.vms.remove(vm)
        del self.table.ticks[vm.pid]
        del self.table.contexts[vm.pid]
        self.close(vm.descriptors)
        self.end_companions(vm.companions, watched=watched)

    def end_companions(self, companions: list[Companion] | None = None, *, watched: bool = True) -> None:
        """Let companions (of the last launch) see that the process has ended; without `watched` they are killed."""
        for companion in self.companions if companions is None else companions:
            try:
                if companion.name == "watch" and companion.kept and watched:
                    files = [companion.mine(number) for number in range(10, len(companion.arguments))]
                    watch._tell(companion.mine(6), watch._restore(companion.arguments[0], files, companion.made))
            finally:
                companion.end()

    # ---- what is left

    def left(self) -> list[str]:
        """Return what the state folder holds of VMs; a journal that was not written whole says nothing."""
        names = set(os.listdir(self.journals)) - {"lock", "history"}
        return sorted(name for name in names if not name.endswith(".new"))

    def is_free(self, context: Context) -> bool:
        """Tell whether nobody holds a pair that meets this context's."""
        assert context.range is not None
        registry = pairs.Registry(os.path.join(paths.STATE, paths.PAIRS))
        try:
            return pairs.use_of(registry, context.range.low.categories) is pairs.PairUse.FREE
        finally:
            registry.close()

    def recover(self) -> None:
        """Run `recover`; nothing may fail."""
        for result in restore.recover([self.journals]):
            assert result.failed == ()


def _let_go(error: BaseException) -> None:
    """Free what the frames of a launch hold: its process has ended, or executed another program."""
    seen: BaseException | None = error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a socket that the kernel closes
        while seen is not None:
            traceback.clear_frames(seen.__traceback__)
            seen = seen.__cause__ or seen.__context__
