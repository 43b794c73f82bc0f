"""Every system call: a process of a VM's life is killed at it, or the call fails (EIO, ENOSPC), or QEMU dies there.

Afterwards `recover` runs, or `policy adopt` once more, and all is as it was.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from integration.campaigns.host import Host
from integration.campaigns.world import Loss
from integration.guestlib.faults import FAILING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CALL = re.compile(r"^([a-z_0-9]+)\(")
_WORK = re.compile(r"^getpgid\(")
"""Where the work of a victim begins: what the interpreter does before is not counted."""
_WATCHERS_WORK = re.compile(r'^openat\(.*"/proc/self/comm"')


class Fault(StrEnum):
    """What happens at a call, in strace's words."""

    KILL = "signal=KILL"
    EIO = "error=EIO"
    ENOSPC = "error=ENOSPC"
    STOP = "signal=STOP"
    """It stands still meanwhile."""


class Victim(StrEnum):
    """Who is hit."""

    ITSELF = "itself"
    WATCHER = "its watcher"
    QEMU = "QEMU"
    """It dies while the process stands still at the call."""
    ALL = "all of them"
    """The process, the watcher and QEMU at once."""


_FAULTS = {
    Victim.ITSELF: (Fault.KILL, Fault.EIO, Fault.ENOSPC),
    Victim.WATCHER: (Fault.KILL, Fault.EIO, Fault.ENOSPC),
    Victim.QEMU: (Fault.STOP,),
    Victim.ALL: (Fault.KILL,),
}


@dataclass(frozen=True, slots=True)
class Act:
    """What is done, who of it is hit, and what has to be there before."""

    verb: str
    victim: Victim
    before: Callable[[Host], None] = lambda _: None
    after: Callable[[Host, str], None] = Host.check


def _dead(host: Host) -> None:
    """Leave what a crash of everything leaves while a VM runs."""
    host.start()
    host.crash()


def _allowed(host: Host) -> None:
    host.start()
    host.must("allow")


ACTS = (
    Act("launch", Victim.ITSELF),
    Act("launch", Victim.WATCHER),
    Act("launch", Victim.ALL),
    Act("recover", Victim.ITSELF, _dead),
    Act("allow", Victim.ITSELF, Host.start),
    Act("allow", Victim.QEMU, Host.start),
    Act("allow", Victim.ALL, Host.start),
    Act("revoke", Victim.ITSELF, _allowed),
    Act("revoke", Victim.QEMU, _allowed),
    Act("revoke", Victim.ALL, _allowed),
    Act("adopt", Victim.ITSELF, after=Host.check_adopted),
    Act("undo", Victim.ITSELF, lambda host: host.must("adopt"), Host.check_given_back),
)
VERBS = tuple(dict.fromkeys(act.verb for act in ACTS))


def run(every: int, verbs: Sequence[str]) -> Iterator[str]:
    """Try every `every`-th call of each act with each fault; yield figures.

    Raises:
        Loss: a label was lost, or something was left.
    """
    with tempfile.TemporaryDirectory() as place:
        host = Host(place)
        host.prepare()
        for act in ACTS:
            if act.verb not in verbs:
                continue
            found = _calls(host, act)
            for fault in _FAULTS[act.victim]:
                tried = 0
                for name, number in found[::every]:
                    if fault in (Fault.EIO, Fault.ENOSPC) and name not in FAILING:
                        continue
                    _one(host, act, fault, f"inject={name}:{fault}:when={number}")
                    tried += 1
                yield f"{act.verb}, {act.victim}: {fault} at {tried} of {len(found)} calls: 0 lost"


def counted(log: str, begin: re.Pattern[str] = _WORK) -> list[tuple[str, int]]:
    """Return each call of a victim's work that strace wrote down: its name, and which of this name it is."""
    number: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    working = False
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _CALL.match(line)
            if match is None:
                continue
            number[match[1]] += 1
            working = working or begin.match(line) is not None
            if working:
                found.append((match[1], number[match[1]]))
    return found


def _calls(host: Host, act: Act) -> list[tuple[str, int]]:
    """Return the calls of an act without a fault, which loses nothing."""
    act.before(host)
    log = host.at("log")
    trace = ("/usr/bin/strace", "-o", log)
    done = host.run(act.verb, watcher=trace) if act.victim is Victim.WATCHER else host.run(act.verb, *trace)
    if done.returncode != 0:
        raise Loss(f"{act.verb}: exit {done.returncode} without a fault: {done.stderr}")
    act.after(host, f"{act.verb}, nothing injected")
    return counted(log, _WATCHERS_WORK if act.victim is Victim.WATCHER else _WORK)


def _one(host: Host, act: Act, fault: Fault, injection: str) -> None:
    act.before(host)
    trace = ("/usr/bin/strace", "-o", os.devnull, "-e", injection)
    if act.victim is Victim.WATCHER:
        host.run(act.verb, watcher=trace)
    elif fault is Fault.STOP:
        _stopped(host, act, injection)
    else:
        host.run(act.verb, *trace)
    if act.victim is Victim.ALL:
        host.crash()
    act.after(host, f"{act.verb}, {act.victim}, {injection}")


def _stopped(host: Host, act: Act, injection: str) -> None:
    """Let QEMU die while the process stands at the call; then it goes on."""
    log = host.at("log")
    with suppress(FileNotFoundError):
        os.unlink(log)  # what an earlier one says is no news
    tracer = host.begin(act.verb, "/usr/bin/strace", "-o", log, "-e", injection)
    host.until("it stands still, or has ended", lambda: tracer.poll() is not None or _stands(log))
    host.kill_qemu()
    if tracer.poll() is None:
        for child in _children(tracer.pid):
            os.kill(child, signal.SIGCONT)
    host.end(tracer)


def _stands(log: str) -> bool:
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return "--- stopped by SIGSTOP ---" in file.read()
    except FileNotFoundError:
        return False  # strace has not begun


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
