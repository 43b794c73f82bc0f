"""Watches a program that starts QEMU by itself: which QEMUs ran, in which contexts, and whether all labels are back.

What ran is what the kernel's audit recorded at each exec of the emulator: no QEMU is too short for it, and nothing has
to look in time. The record's `subj` is the context after the exec, and a process in a VM's domain cannot leave it. A
process that Landlock holds took a ruleset upon itself before, which audit records too, and cannot lay it off.
"""

from __future__ import annotations

import contextlib
import enum
import os
import pwd
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = os.path.basename(harness.QEMU)
DROP_IN = f"/usr/local/lib/confined-clients/{NAME}"
"""The launch script under the emulator's name, in a folder that a client may have first on its PATH."""
WITHOUT_DOMAIN = f"/usr/local/lib/landlocked-clients/{NAME}"
"""A copy of it, whose label gives the launcher no domain: as it is on a host without SELinux."""
_KEY = "confined-clients"
_LANDLOCK_RESTRICT_SELF = "446"
_ON_X86_64 = ("exit,always", "-F", "arch=b64", "-F", "success=1")
_RULES = (
    (*_ON_X86_64, "-S", "execve,execveat", "-F", f"exe={harness.QEMU}"),
    (*_ON_X86_64, "-S", _LANDLOCK_RESTRICT_SELF),
)
_SYSCALL = re.compile(rf'^type=SYSCALL msg=audit\(([\d.:]+)\):.* syscall=(\d+) .* pid=(\d+) .* subj=(\S+) key="{_KEY}"')
_EXECVE = re.compile(r"^type=EXECVE msg=audit\(([\d.:]+)\): (.*)$")
_WORD = re.compile(r'\ba(\d+)(?:\[\d+\])?=(?:"([^"]*)"|([0-9A-F]*))(?= |$)')
_DOMAIN = f":(?:svirt_t|{HERE.tcg})"
"""Where VMs run, and questions are answered."""
_PAIR = re.compile(rf"{_DOMAIN}:(s0:c\d+,c\d+)$")
_CONFINED = re.compile(rf"{_DOMAIN}:s0(:c\d+,c\d+)?$")
_OF_A_VM = re.compile(r":svirt_image_t:s0:c\d+,c\d+$")


class Way(enum.Enum):
    """What a client gets as its emulator: QEMU itself, or the drop-in in its place, by SELinux or by Landlock alone."""

    BARE = "bare"
    DROP_IN = "drop-in"
    LANDLOCK = "landlock"

    def emulator(self) -> str:
        """Return the path for a client that is told one."""
        if self is Way.BARE:
            return harness.QEMU
        path = DROP_IN if self is Way.DROP_IN else WITHOUT_DOMAIN
        if not os.path.lexists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if self is Way.DROP_IN:
                os.symlink(harness.LAUNCH, path)
            else:
                shutil.copy(harness.LAUNCH, path)
        return path

    def settings(self) -> dict[str, str]:
        """Return the launcher's settings, for a client's environment."""
        return {"CONFINED_QEMU_CONFINEMENT": "landlock"} if self is Way.LANDLOCK else {}

    def environment(self) -> dict[str, str]:
        """Return the environment for a client that looks on PATH; that is the only difference of the ways."""
        folder = os.path.dirname(self.emulator())
        ours = {folder, *map(os.path.dirname, (DROP_IN, WITHOUT_DOMAIN))}
        others = [part for part in os.environ["PATH"].split(":") if part not in ours]
        environment = {**os.environ, **self.settings(), "PATH": ":".join([folder, *others])}
        assert shutil.which(NAME, path=environment["PATH"]) == self.emulator()
        return environment


@dataclass(frozen=True)
class Started:
    """One QEMU: its process, its context just after the exec, and its arguments without the program's name.

    `held`: Landlock held it at its exec.
    """

    pid: int
    context: str
    arguments: tuple[str, ...]
    held: bool = False

    @property
    def pair(self) -> str | None:
        """The level of a confined VM; None for a query, which has no pair, and for bare QEMU."""
        found = _PAIR.search(self.context)
        return found and found[1]


@dataclass
class Seen:
    """What has been seen; filled in when the watching ends.

    `before` and `after` are the labels of all files in the watched folders.
    """

    way: Way
    started: list[Started] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)

    @property
    def pairs(self) -> list[str]:
        """The pairs of the confined VMs, in the order in which they started."""
        return [pair for one in self.started if (pair := one.pair)]

    def check(self, vms: int, queries: int = 0) -> None:
        """Fail unless so many VMs ran and so many queries (None of a pair), each as its way says.

        The drop-in's VMs ran in a VM's domain, each at a pair of its own, its queries there without a pair; no other
        QEMU did. Where Landlock alone is to hold VMs, it held each.
        """
        found = [f"{one.context} {one.held} {' '.join(one.arguments)}" for one in self.started]
        assert len(self.started) == vms + queries, found
        confined = [one for one in self.started if ":svirt_" in one.context]
        if self.way is not Way.DROP_IN:
            assert not confined, found
            held = [one for one in self.started if one.held]
            assert len(held) == (vms if self.way is Way.LANDLOCK else 0), found
            return
        assert len(confined) == len(self.started), found
        assert all(_CONFINED.search(one.context) for one in confined), found
        assert len(set(self.pairs)) == len(self.pairs) == vms, found

    def check_labels(self) -> None:
        """Fail unless each file has the label that it had, and no new one is left to a VM that has ended."""
        changed = [
            f"{path}: {self.before[path]} is {now}"
            for path, now in self.after.items()
            if self.before.get(path, now) != now
        ]
        assert not changed, changed
        left = {path: now for path, now in self.after.items() if path not in self.before and _OF_A_VM.search(now)}
        assert not left, left


def labels(*folders: str) -> dict[str, str]:
    """Return the label of each folder and of everything below it, links themselves; what vanishes is left out."""
    found: dict[str, str] = {}
    for folder in folders:
        below = [os.path.join(parent, name) for parent, kinds, files in os.walk(folder) for name in [*kinds, *files]]
        for path in (folder, *below):
            with contextlib.suppress(FileNotFoundError):
                found[path] = harness.label(path)
    return found


@contextlib.contextmanager
def watching(way: Way, *folders: str) -> Iterator[Seen]:
    """Watch what runs meanwhile, on the whole machine; afterwards all labels in `folders` are back.

    The client must have ended, and its VMs be ended or about to: their labels are awaited.
    """
    seen = Seen(way, before=labels(*folders))
    trail, lost = harness.AuditTrail(), _lost()
    for rule in _RULES:
        harness.run("auditctl", "-a", *rule, "-k", _KEY)
    try:
        yield seen
        settle_all()
    finally:
        for rule in _RULES:
            harness.run("auditctl", "-d", *rule, "-k", _KEY)
    seen.started = _started(trail.text())
    assert _lost() == lost, "the kernel dropped audit records"
    seen.after = labels(*folders)
    seen.check_labels()


def settle_all() -> None:
    """Wait until no user's VM has anything left to put back."""
    for user in {os.stat(path).st_uid for path in harness.journals()}:
        who = pwd.getpwuid(user).pw_name
        harness.run("runuser", "-u", who, "--", harness.COMMAND, "settle", "--timeout", str(harness.PATIENCE))
    assert harness.journals() == []


def _lost() -> str:
    """Return the line of `auditctl -s` that counts dropped records."""
    return next(line for line in harness.run("auditctl", "-s").stdout.splitlines() if line.startswith("lost "))


def _started(log: str) -> list[Started]:
    """Return the QEMUs of audit records; one exec is records of one serial number (auditd(8), `type=EXECVE`)."""
    words: dict[str, dict[int, str]] = {}
    execs, held = [], set()
    for line in log.splitlines():
        if record := _SYSCALL.match(line):
            serial, call, pid, context = record.groups()
            if call == _LANDLOCK_RESTRICT_SELF:
                held.add(int(pid))
            else:
                execs.append((serial, int(pid), context, int(pid) in held))
        elif record := _EXECVE.match(line):
            of_this = words.setdefault(record[1], {})
            for word in _WORD.finditer(record[2]):  # a long argument comes in pieces, `a7[0]=`, `a7[1]=`
                text = bytes.fromhex(word[3]).decode(errors="surrogateescape") if word[2] is None else word[2]
                of_this[int(word[1])] = of_this.get(int(word[1]), "") + text
    return [
        Started(pid, context, tuple(text for number, text in sorted(words[serial].items()) if number > 0), laid_on)
        for serial, pid, context, laid_on in execs
    ]
