"""One Xen domain from spec to its end: plan, journal, label, create paused, compare its label, unpause, wait, put back.

Xen's tools act for the domain, with the caller's own rights: root in dom0 can do everything to every domain anyway. The
watcher is the one that QEMU's VMs have. It waits for this process, and for xl, which holds the domain's live file.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from confined_qemu.host import flask, lsm, packages, processes, survey, xl
from confined_qemu.labels import journal, label, restore, statefolders
from confined_qemu.launch import execute, pairs, spawn
from confined_qemu.launch.xl import Creation, Ended
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError, JournalError, ValueProblem
from confined_qemu.model.facts import Facts, FileFacts, FileKind, KvmFacts, SelinuxMode
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.mcs import Window
from confined_qemu.model.policy import NO_POLICY
from confined_qemu.model.record import Record
from confined_qemu.model.steps import JournalStep
from confined_qemu.model.xen import ACCEL, FlaskMode, XenFacts, labels_of
from confined_qemu.plan.xenplan import xen_contexts, xen_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from confined_qemu.model.mcs import Pair
    from confined_qemu.model.xen import FlaskPolicy, Shutdown, XenDomain, XenPlan


class _NoFlask:
    """What stands for a policy where Xen has none that could be asked."""

    def knows(self, label: str) -> bool:  # noqa: ARG002
        return True

    def categories(self) -> int:
        return 0

    def hides_one(self, listed: Iterable[int]) -> bool:  # noqa: ARG002
        return False


def look() -> tuple[XenFacts, FlaskPolicy]:
    """Return what Xen says of this host; what follows from an earlier no is not asked.

    Raises:
        HostError: it could not be read.
    """
    from uuid import uuid4

    facts = XenFacts(control=xl.is_control(), uuid=str(uuid4()))
    if not facts.control:
        return facts, _NoFlask()
    problem = xl.xenstored()
    if problem is not None:
        raise HostError(f"xenstored does not answer: {problem}", hint="run: systemctl start xen")
    mode = xl.flask_mode()
    facts = replace(facts, flask=mode, domains=xl.domains())
    if mode is FlaskMode.DISABLED:
        return facts, _NoFlask()
    policy = flask.loaded()
    hidden = policy.hides_one(domain.number for domain in facts.domains)
    return replace(facts, categories=policy.categories(), hidden=hidden), policy


def dry_run(domain: XenDomain, pair: Pair | None = None) -> XenPlan:
    """Return the plan that `run` would execute now, and change nothing; its pair is free at this moment."""
    facts, xen = _facts(domain), look()
    if pair is not None:
        facts = replace(facts, pair=pair)
    elif facts.selinux.mode is not SelinuxMode.DISABLED:
        statefolders.user_folder(os.geteuid())  # the registry lies beside it
        registry = pairs.open_registry()
        facts = replace(facts, pair=_reserved(registry, facts, xen[0]))
        registry.close()
    return _plan(domain, facts, xen)


def run(domain: XenDomain, warn: Callable[[str], None], say: Callable[[str], None]) -> Shutdown:
    """Run one domain to its end and return how it ended; its images have their labels back then.

    Raises:
        ConfinedQemuError: nothing runs. What could not be put back is in the journal, for `recover`.
        Ended: a signal ended the domain; labels are back.
    """
    if survey.selinux(scan=False).in_domain:
        raise HostError("the launcher's domain starts no domains of Xen", hint="use: confined-qemu run")
    journal.tell_waits(warn)
    xen = look()
    folder = statefolders.user_folder(os.geteuid())
    creation = Creation()
    with creation.listening(), ExitStack() as held:
        facts = _settled(domain, folder, held)
        pair: frozenset[int] = frozenset()
        if facts.selinux.mode is not SelinuxMode.DISABLED:
            registry = pairs.open_registry()
            facts = replace(facts, pair=_reserved(registry, facts, xen[0]))
            pair = registry.descriptors
        plan = execute.accepted(_plan(domain, facts, xen), warn)
        path, record = _journalled(folder, plan)
        ended: Shutdown | None = None
        try:
            hold = journal.hold(path, None)
            watcher = spawn.watcher(path, str(lsm.own_context()), (record, *pair), spawn.Channels(live=hold.watched))
            for step in plan.steps:
                label.apply(step, _no_sockets)  # type: ignore[arg-type]  # disks have no other steps
            watcher.await_ready()
            os.close(watcher.control)
            held.close()
            ended = creation.follow(plan, hold.held, say)
        finally:
            held.close()
            _finish(path)
    return ended


def _no_sockets(_: object) -> None:
    raise HostError("a domain of Xen's has no sockets")


def _finish(path: str) -> None:
    """Destroy the domain if it is still there and put its labels back.

    Raises:
        ConfinedQemuError: the first thing that could not be done; the journal stays for `recover`.
    """
    done = restore.restore(path)
    if done is not None and done.failed:
        raise done.failed[0]


def _plan(domain: XenDomain, facts: Facts, xen: tuple[XenFacts, FlaskPolicy]) -> XenPlan:
    policy = lsm if facts.selinux.mode is not SelinuxMode.DISABLED else NO_POLICY
    return xen_plan(domain, facts, *xen, policy)


def _facts(domain: XenDomain) -> Facts:
    """Return what the host says of dom0's SELinux and of the domain's files."""
    selinux = survey.selinux()
    if selinux.contexts is not None:
        selinux = replace(selinux, contexts=xen_contexts(selinux.contexts))
    named = [disk.path for disk in domain.disks]
    named += [path for path in (domain.kernel, domain.initrd) if path is not None]
    return Facts(
        selinux=selinux,
        kvm=KvmFacts(None, None),
        emulator=FileFacts("xl", "xl", FileKind.MISSING),
        files=survey.files(named, selinux),
        holders=restore.holders(statefolders.readable_folders()),
        distribution=packages.family(),
        uid=os.geteuid(),
        folder=os.getcwd(),
    )


def _settled(domain: XenDomain, folder: str, held: ExitStack) -> Facts:
    """Return the facts with the folder's lock held, and no dead VM's work left on a file of this one.

    Raises:
        JournalError, HostError: it is left.
    """
    mine = {os.path.realpath(disk.path) for disk in domain.disks}

    def dead() -> list[journal.Entry]:
        return [
            entry
            for entry in journal.entries(folder)
            if restore.pid_of(entry) is None
            and any(os.path.realpath(step.path) in mine for step in entry.record.all_steps)
        ]

    for entry in dead():
        restore.finish(entry)
    held.enter_context(journal.locked(folder))
    if dead():
        held.pop_all().close()
        what = "labels that a VM left on these files after a crash cannot be put back"
        raise JournalError(what, where=folder, hint="run: confined-qemu recover")
    return _facts(domain)


def _reserved(registry: pairs.Registry, facts: Facts, xen: XenFacts) -> Pair:
    """Return a pair that nothing on the host has, and no domain: one that both policies have."""
    caller = facts.selinux.caller
    both = frozenset(range(xen.categories)) if xen.categories else None
    window = Window.of(caller.range if caller is not None else None, both)
    contexts = [process.context for process in facts.selinux.live]
    contexts += [found.label for found in facts.files.values() if found.label is not None]
    contexts += _contexts(xen)
    taken = [context.range.low.categories for context in contexts if context.range is not None]
    return pairs.reserve(registry, window, taken, lambda count: int.from_bytes(os.urandom(8), "little") % count)


def _contexts(xen: XenFacts) -> list[Context]:
    """Return the labels of the domains that there are; one that is no context of SELinux's form holds no pair."""
    found = []
    for text in labels_of(xen.domains):
        try:
            found.append(Context.parse(text))
        except ValueProblem:
            continue
    return found


def _journalled(folder: str, plan: XenPlan) -> tuple[str, int]:
    pid = os.getpid()
    ticks = processes.start_ticks(pid)
    if ticks is None or plan.label is None:
        raise JournalError("the launcher's own process is missing in /proc", hint="mount /proc without hidepid")
    steps = tuple(step for step in plan.steps if isinstance(step, JournalStep))
    context = Context.parse(plan.label)
    record = Record(
        plan.name, processes.boot_id(), pid, ticks, ACCEL, context, steps, static=True, domain=plan.uuid
    )  # fmt: skip
    return journal.write(folder, record)


__all__ = ["Ended", "dry_run", "look", "run"]
