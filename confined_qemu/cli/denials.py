"""`denials`: what SELinux denied the VMs that are known, explained; and the same for `run` whose QEMU failed."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager

from confined_qemu.denials.attribution import Known, PastVms, grouped
from confined_qemu.host import audit, lsm
from confined_qemu.labels import history, statefolders
from confined_qemu.model import policynames
from confined_qemu.model.answers import Answer
from confined_qemu.model.errors import HostError, UsageError, printable
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from confined_qemu.denials.attribution import Ask, VmDenials
    from confined_qemu.denials.avc import Denial
    from confined_qemu.model.context import Context

DOMAIN = policynames.DENIALS
"""The domain of the denials script."""
_KINDS = {"file": 0o100000, "dir": 0o040000, "chr_file": 0o020000, "blk_file": 0o060000, "lnk_file": 0o120000,
          "fifo_file": 0o010000, "sock_file": 0o140000}  # fmt: skip
"""File modes by class, for the policy's default label of a path."""


@dataclass(frozen=True, slots=True)
class Explained:
    """The denials, explained. `gap`: what could not be had any more."""

    groups: tuple[VmDenials, ...]
    gap: str | None = None


def find(name: str | None) -> Explained:
    """Return the denials of the VM `name` (of all its runs that are known), or of all VMs and of the launcher.

    Raises:
        UsageError: there is no such VM; the known ones are named.
        HostError: the log cannot be read.
        LsmError: the policy cannot be read, or SELinux is disabled.
        JournalError: a journal or history cannot be read.
    """
    if lsm.mode() is SelinuxMode.DISABLED:
        raise HostError(
            "SELinux is disabled in this kernel: it denies nothing",
            hint="see, for Landlock, whose denials leave no record: confined-qemu help landlock",
        )
    vms = history.known(_folders())
    names = sorted({vm.name for vm in vms})
    if name is not None and name not in names:
        known = f"known are: {', '.join(names)}" if names else "no VM ran here lately"
        raise UsageError(f"there is no VM {printable(name)!r}", hint=known)
    wanted = [vm for vm in vms if name in (None, vm.name)]
    since = min((vm.start for vm in wanted), default=_booted())
    if name is None:
        since = min(since, _booted())
    _catch_up()
    log = audit.read(since)
    denials = log.denials
    past = PastVms(vms)
    if name is not None:
        denials = tuple(d for d in denials if (vm := past.of(d)) is not None and vm.name == name)
    return Explained(_explained(denials, past), log.gap)


def name_of(pid: int) -> str | None:
    """Return the name of this user's VM whose launcher was `pid`; None where labels had no part in it.

    Raises:
        JournalError: the user's journal cannot be read.
    """
    found = [vm for vm in history.known(_folders()) if vm.pid == pid]
    return found[-1].name if found else None


def of_run(pid: int) -> Explained:
    """Return the denials of this user's VM whose launcher was `pid`, which has just ended.

    Raises:
        ConfinedQemuError: as `find`.
    """
    vms = history.known(_folders())
    mine = next((vm for vm in reversed(vms) if vm.pid == pid), None)
    if mine is None:
        return Explained(())
    _catch_up()
    log, past = audit.read(mine.start), PastVms(vms)
    return Explained(_explained(tuple(d for d in log.denials if past.of(d) == mine), past), log.gap)


def _catch_up() -> None:
    if lsm.own_context().type == DOMAIN:
        audit.await_own_entry(DOMAIN)


def _folders() -> list[str]:
    if os.geteuid() == 0:
        return statefolders.all_folders()
    mine = os.path.join(statefolders.state_folder(), str(os.geteuid()))
    return [mine] if os.path.isdir(mine) else []


def _booted() -> int:
    """Return when the kernel started, in milliseconds of the clock."""
    return (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1_000_000


def _explained(denials: Sequence[Denial], past: PastVms) -> tuple[VmDenials, ...]:
    domains = lsm.policy_contexts().domains | past.types
    with _asking() as ask:
        return tuple(grouped(denials, Known(past, domains, ask, _default)))


@contextmanager
def _asking() -> Iterator[Ask]:
    """Give a function that asks the policy about a denial: loaded at the first question, each asked once."""
    known: dict[tuple[object, ...], Answer] = {}
    with ExitStack() as opened:
        policy: list[lsm.WhyDenied] = []

        def ask(denial: Denial) -> Answer:
            if not policy:
                policy.append(opened.enter_context(lsm.policy_opened()))
            question = (denial.source, denial.target, denial.kind, denial.permissions)
            if question not in known:
                known[question] = policy[0](*question)
            return known[question]

        yield ask


def _default(path: str, kind: str) -> Context | None:
    return lsm.default_label(path, _KINDS[kind]) if kind in _KINDS else None
