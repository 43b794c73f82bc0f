"""Follows the chains of a VM's images with `qemu-img info`, in a domain of its own and with limits.

A header is hostile and so, once it has read one, is qemu-img: it runs in `confined_qemu_probe_t` (install/probe.cil),
which reads images and writes to our pipe, as the image's owner, in a clean environment, and its answer is checked.

A disk is asked about alone, as is each layer where there is no such domain. Within it one run answers for all layers
below a disk's first backing file: their names are still followed one by one, and what that run has not said of a file
under the very name and format that were found for it is asked of a run of its own.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import time

from confined_qemu.host import lsm
from confined_qemu.host import signals as signal
from confined_qemu.model import paths, policynames
from confined_qemu.model.context import RESTORED_TYPE
from confined_qemu.model.errors import HINT, HostError, LsmError, why
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.resource import PROBED, Role
from confined_qemu.read import headers
from confined_qemu.read.headers import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from confined_qemu.model.context import Context
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.resource import Resource

DOMAIN = policynames.PROBE
"""qemu-img's type, from our policy module."""
DEEPEST = 200
"""Layers below a disk, as libvirt (`QEMU_DOMAIN_STORAGE_SOURCE_CHAIN_MAX_DEPTH`)."""
MOST = 1000
"""Images of one VM that are looked into."""
PATIENCE, LONGEST = 30.0, 120.0
"""Seconds that one image and all of a VM's may take, on a loaded machine too."""
_LONGEST_ANSWER = 1 << 20
_LONGEST_COMPLAINT = 1 << 12
"""Bytes."""
_GIBIBYTE = 1 << 30
_CPU_SECONDS = 10
_OPEN_FILES = 256
"""A vmdk may have many extents."""
_FIRST_NUMBER = 16
"""Where descriptors lie that are no standard stream."""
_KINDS = (stat.S_ISREG, stat.S_ISBLK)


def follow(invocation: Invocation, *, confined: bool = True) -> Invocation:
    """Return the invocation with the files that its images name in their headers, each after its image.

    What cannot be followed is in its `problems`. `confined` False is for a plan for another host: qemu-img then has
    the caller's own rights.

    Raises:
        HostError: the launcher may not start qemu-img in its domain, or no process is to be had.
        LsmError: SELinux cannot be asked, or qemu-img ran in another context.
    """
    walk = _HeaderWalk(os.getcwd(), _domain() if confined else None, time.monotonic() + LONGEST)
    found = tuple(layer for resource in invocation.resources for layer in walk.disk(resource))
    if any(resource.otherwise for resource in found):
        from confined_qemu.host import searched

        found = tuple(one for resource in found if (one := searched.settled(resource)) is not None)
    problems, remarks = (*invocation.problems, *walk.problems), (*invocation.remarks, *walk.remarks)
    return replace(invocation, resources=found, problems=problems, remarks=remarks)


def _domain() -> Context | None:
    """Return the context for qemu-img; None where there is no such domain, and the caller's own rights must do.

    Raises:
        HostError: this is the launcher's own domain, which does nothing with another's rights.
    """
    if lsm.mode() is SelinuxMode.DISABLED:
        return None
    own = lsm.own_context()
    wanted = replace(own, type=DOMAIN)
    if lsm.is_valid(wanted) and not lsm.denied(own, wanted, "process", ("transition",)):
        return wanted
    if own.type == policynames.LAUNCHER:
        raise HostError(f"the launcher may not transition to {wanted}", hint="run: confined-qemu policy install")
    return None


@dataclass
class _HeaderWalk:
    """One invocation's images. `looked` counts those looked into, `end` is when that must be over (monotonic)."""

    folder: str
    context: Context | None
    end: float
    looked: int = 0
    answers: dict[str, str] = field(default_factory=dict)
    """What one run said of the layers below the one that it was asked about, by path."""
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def disk(self, resource: Resource) -> Iterator[Resource]:
        """Yield a resource and every layer below it."""
        yield resource
        self.answers = {}  # what a header did to qemu-img must not speak of another disk
        if resource.layered:
            yield from self._below(Layer.top(resource), frozenset())

    def _below(self, layer: Layer, above: frozenset[tuple[int, int]]) -> Iterator[Resource]:
        """Yield what lies below `layer`; `above` are the inodes that led to it."""
        path = os.path.join(self.folder, layer.image.path)
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return  # the plan says what is wrong with it
        if not any(is_kind(found.st_mode) for is_kind in _KINDS):
            if layer.image.role is Role.EXTRA and layer.image.format == PROBED:
                return  # a pipe, perhaps: nobody said that it is an image
            self._refuse(layer, "not an image: neither a file nor a block device")
            return
        inode = found.st_dev, found.st_ino
        self.looked += 1
        if inode in above:
            self._refuse(layer, "its backing chain comes back to itself")
        elif layer.depth > DEEPEST or self.looked > MOST:
            self._refuse(
                layer, f"its backing chain has more than {DEEPEST} layers, or the VM has more than {MOST} images"
            )
        else:
            names = self._names(layer, path, found)
            self.problems += names.problems
            self.remarks += names.remarks
            for below in names.layers:
                yield below.image
                if below.image.layered:
                    yield from self._below(below, above | {inode})

    def _refuse(self, layer: Layer, what: str) -> None:
        self.problems.append(layer.problem(what))

    def _names(self, layer: Layer, path: str, found: os.stat_result) -> headers.Names:
        answer = self.answers.pop(path, None)
        if answer is None or not headers.is_about(answer, layer):
            try:
                answer = self._with_chain(layer, path, found) or self._ask(layer, path, found)
            except _NoAnswerError as error:
                hint = ""
                if stat.S_ISBLK(found.st_mode):  # the policy lets no such domain read a whole disk of the host's
                    hint = f"{HINT}say format=raw if it is a raw disk"
                    if self.context is not None:
                        hint += f", or make it an image: chcon -t {RESTORED_TYPE} {path}"
                return headers.Names(problems=(layer.problem(f"{error}{hint}"),))
        return headers.names(answer, layer, self.folder)

    def _with_chain(self, layer: Layer, path: str, found: os.stat_result) -> str | None:
        """Ask about a layer and all below it; None where each has to be asked about by itself.

        Without the domain qemu-img would open, with the caller's rights, whatever a header names. Not for the disk:
        below it there often is one raw file, which nobody needs to open.
        """
        if self.context is None or layer.depth != 1:
            return None
        try:
            answers = headers.chain(self._ask(layer, path, found, "--backing-chain"))
        except _NoAnswerError:
            return None  # of one layer or another; they are asked about one by one, and then it is named
        self.answers = {name: answer for name, answer in answers[1:] if name != path}
        return answers[0][1] if answers else None

    def _ask(self, layer: Layer, path: str, found: os.stat_result, *more: str) -> str:
        form = layer.image.format
        stated = [] if form in (None, PROBED) else ["-f", str(form)]
        # -U: another VM may have it open
        command = [paths.QEMU_IMG, "info", *stated, "-U", *more, "--output=json", path]
        patience = min(PATIENCE, self.end - time.monotonic())
        return run(command, self.context, (found.st_uid, found.st_gid), max(0.0, patience))


# ---- one run of qemu-img


class _NoAnswerError(Exception):
    """qemu-img said nothing that is of use; the message says why."""


def run(command: list[str], context: Context | None, owner: tuple[int, int], patience: float) -> str:
    """Run `command` as `context` and return what it prints; `patience` is in seconds.

    Where this is root, it runs as `owner` (user and group id): in the domain root may not read everyone's files.

    Raises:
        _NoAnswerError: it failed, took too long, or said too much.
        HostError: there is no process or descriptor to be had.
        LsmError: it did not run in `context`.
    """
    # a caller may ignore SIGCHLD, and then no child could be waited for
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mine: list[int] = []
    its: list[int] = []
    child = 0
    try:
        for _ in range(3):
            for ends, end in zip((mine, its), os.pipe(), strict=True):
                ends.append(end)
        child = os.fork()
        if child == 0:
            _become(command, context, owner, its)
        while its:
            os.close(its.pop())
        answer, complaint, started = mine
        _await_exec(started, command[0])
        if context is not None and (found := lsm.process_context(child)) != context:
            raise LsmError(f"qemu-img runs as {found} instead of {context}")
        said, complained = _read(answer, complaint, patience)
    except OSError as error:
        raise HostError(f"no process to read an image's header: {why(error)}", hint="see: ulimit -u -n") from error
    finally:
        for end in (*mine, *its):
            os.close(end)
        if child:
            # it has ended or is to end; not waited for yet, so the number is its own
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        signal.signal(signal.SIGCHLD, before)
    return _judged(status, said, complained)


def _become(command: list[str], context: Context | None, owner: tuple[int, int], pipes: list[int]) -> NoReturn:
    """Execute qemu-img; what goes wrong before is written to the pipe that closes at exec. Never returns."""
    started = pipes[2]
    try:
        from confined_qemu.host import processcontrol

        started = _descriptors(pipes)
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _limit()
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(owner[1], owner[1], owner[1])
            os.setresuid(owner[0], owner[0], owner[0])
        processcontrol.set_no_new_privs()
        if context is not None:
            lsm.set_exec_context(context)
        os.execve(command[0], command, {"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
    except BaseException as error:  # noqa: BLE001 - the copy of a launcher must never go on as one
        text = why(error) if isinstance(error, OSError) else str(error)
        os.write(started, text.encode("utf-8", "replace")[:_LONGEST_COMPLAINT] or b"?")
    finally:
        os._exit(1)


def _descriptors(pipes: list[int]) -> int:
    """Leave an empty standard input, the pipes as output and errors, and nothing else; return the third's number."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FIRST_NUMBER) for number in (null, *pipes)]
    for number, ours in enumerate(high[:3]):
        os.dup2(ours, number)
    os.closerange(3, high[3])
    os.closerange(high[3] + 1, os.sysconf("SC_OPEN_MAX"))
    return high[3]


def _limit() -> None:
    import resource

    for limit, most in (
        (resource.RLIMIT_AS, _GIBIBYTE),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (least, least))


def _await_exec(started: int, program: str) -> None:
    """Return once `program` has been executed."""
    text = b""
    while data := os.read(started, _LONGEST_COMPLAINT):
        text += data
    if not text:
        return
    if not os.path.exists(program):
        from confined_qemu.host import packages
        from confined_qemu.model.distribution import Package

        raise _NoAnswerError(
            f"{program} is missing, and nothing else may read its header{HINT}run: {packages.command(Package.QEMU_IMG)}"
        )
    raise _NoAnswerError(f"{program} cannot be executed: {text.decode('utf-8', 'replace')}{HINT}see: ls -lZ {program}")


def _read(answer: int, complaint: int, patience: float) -> tuple[bytes, bytes]:
    """Return what comes on both pipes until both end."""
    end = time.monotonic() + patience
    said = {answer: b"", complaint: b""}
    waiting = list(said)
    while waiting:
        ready, _, _ = select.select(waiting, (), (), max(0.0, end - time.monotonic()))
        if not ready:
            raise _NoAnswerError(f"qemu-img did not finish reading its header within {patience:.0f} s")
        for number in ready:
            data = os.read(number, _LONGEST_ANSWER)
            said[number] += data
            if not data:
                waiting.remove(number)
            if len(said[number]) > _LONGEST_ANSWER:
                raise _NoAnswerError("qemu-img's answer about its header is too long")
    return said[answer], said[complaint]


def _judged(status: int, said: bytes, complained: bytes) -> str:
    if os.WIFSIGNALED(status):
        from signal import Signals

        name = Signals(os.WTERMSIG(status)).name
        raise _NoAnswerError(f"qemu-img was killed by {name} while it read its header")
    if status != 0:
        lines = complained.decode("utf-8", "replace").strip().splitlines() or ["it does not say why"]
        raise _NoAnswerError(f"qemu-img cannot read its header: {lines[0][:_LONGEST_COMPLAINT]}")
    return said.decode("utf-8", "replace")
