"""`check`: can this host run it, confined? Each line says ok, warn or fail, and how to mend it."""

from __future__ import annotations

import os

from confined_qemu.cli.findings import Finding, Grade
from confined_qemu.cli.launchverbs import DEFAULT_EMULATOR
from confined_qemu.host import emulator, lsm, survey, xl
from confined_qemu.host.inherited import inherited
from confined_qemu.labels import journal, restore, statefolders
from confined_qemu.model import policynames
from confined_qemu.model.errors import ConfinedQemuError, message
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.landlock import lacking
from confined_qemu.model.lean import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confined_qemu.model.plan import Plan


def findings(spec: str | None) -> tuple[Finding, ...]:
    """Look at the host, and with `spec` at what its VM needs."""
    found: list[Finding] = []
    for subject, look in (
        ("selinux", _selinux),
        ("landlock", _landlock),
        ("settings", _settings),
        ("kvm", _kvm),
        ("emulator", _emulator),
        ("labels", _labels),
    ):
        found.extend(_guarded(subject, look))
    if xl.is_here():
        from confined_qemu.cli import checkxen

        found.extend(_guarded("xen", checkxen.findings))
    if spec is not None:
        found.extend(_guarded(spec, lambda: _spec(spec)))
    return tuple(found)


def _guarded(subject: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except ConfinedQemuError as error:
        return [Finding(Grade.FAIL, subject, line) for line in error.messages]


def _selinux() -> Iterator[Finding]:
    from confined_qemu.install import install

    mode = lsm.mode()
    if mode is SelinuxMode.DISABLED:
        if survey.landlock_of_kernel().abi > 0:
            yield Finding(Grade.OK, "selinux", "disabled: Landlock confines VMs here")
        else:
            what = "disabled, and this kernel has no Landlock: nothing would confine a VM"
            yield Finding(Grade.FAIL, "selinux", message(what, "boot with either"))
        return
    if mode is SelinuxMode.PERMISSIVE:
        said = message("permissive: labels are set, nothing is enforced", "run: setenforce 1")
        yield Finding(Grade.WARN, "selinux", said)
    else:
        yield Finding(Grade.OK, "selinux", "enforcing")
    status = install.status()
    if status.advice is None:
        yield Finding(Grade.OK, "policy", f"module version {status.loaded}, launch script labelled")
    else:
        verdict = Grade.WARN if status.loaded else Grade.FAIL
        yield Finding(verdict, "policy", message("the launcher's domain is not ready", status.advice))
    contexts = lsm.policy_contexts()
    for kind in sorted({contexts.kvm.type, (contexts.tcg or contexts.kvm).type, policynames.LAUNCHER}):
        domain = replace(contexts.kvm, type=kind)
        if lsm.is_valid(domain) and lsm.is_permissive(domain):
            said = message(f"{kind} is permissive: its denials are not enforced", f"run: semanage permissive -d {kind}")
            yield Finding(Grade.WARN, "selinux", said)
    for name, context in (("kvm", contexts.kvm), ("tcg", contexts.tcg or contexts.kvm)):
        if name == "tcg" and lsm.denied(context, context, "process", ("execmem",)):
            mend = f"run: {policynames.turned_on(policynames.USE_EXECMEM)}"
            yield Finding(Grade.WARN, "tcg", message(f"{context.type} may not generate code", mend))
        elif not lsm.is_valid(context):
            yield Finding(
                Grade.FAIL, name, f"virtual_domain_context names {context}, which the loaded policy does not know"
            )


def _landlock() -> Iterator[Finding]:
    if lsm.mode() is SelinuxMode.ENFORCING:
        return  # that holds VMs here
    found = survey.landlock_of_kernel()
    missing = ", ".join(f"{one.what} (ABI {one.since})" for one in lacking(found.abi))
    if found.problem is not None:
        yield Finding(Grade.WARN, "landlock", message(found.problem))
    elif found.abi == 0:
        yield Finding(Grade.WARN, "landlock", "this kernel has none")
    elif missing:
        yield Finding(Grade.WARN, "landlock", f"ABI {found.abi}, which does not hold {missing}")
    else:
        yield Finding(Grade.OK, "landlock", f"ABI {found.abi}")


def _kvm() -> Iterator[Finding]:
    found = survey.accelerator()
    if xl.is_control():
        yield Finding(Grade.WARN, "kvm", "Xen has the CPU's VT-x or AMD-V for itself: accel: auto takes TCG")
    elif found.usable:
        yield Finding(Grade.OK, "kvm", f"{found.flag}, API version {found.api_version}")
    else:
        yield Finding(Grade.WARN, "kvm", message(f"{found.problem}: accel: auto takes TCG", found.hint))


def _emulator() -> Iterator[Finding]:
    try:
        path = emulator.find(DEFAULT_EMULATOR, os.environ.get("PATH", ""))
    except ConfinedQemuError as error:
        if not xl.is_control():
            raise
        # Xen's domains need none
        yield from (Finding(Grade.WARN, "emulator", line) for line in error.messages)
        return
    yield Finding(Grade.OK, "emulator", path)


def _settings() -> Iterator[Finding]:
    """Say which files the emulator's names and `exec` obey; without one there is nothing to say."""
    from confined_qemu.host import settingsfiles

    _, used = settingsfiles.load(os.environ)
    if used:
        yield Finding(Grade.OK, "settings", ", then ".join(used))


def _labels() -> Iterator[Finding]:
    if lsm.mode() is SelinuxMode.DISABLED:
        return
    folder = statefolders.user_folder(os.geteuid())
    found = journal.listing(folder)
    pending = [entry for entry in found.entries if restore.state_of(entry) is restore.State.PENDING]
    for bad in found.bad:
        yield Finding(Grade.WARN, "labels", str(bad.error))
    if pending:
        yield Finding(
            Grade.WARN,
            "labels",
            message(f"a crash left labels of {len(pending)} VM(s) that are not put back", "run: confined-qemu recover"),
        )
    elif not found.bad:
        yield Finding(Grade.OK, "labels", "nothing is left to put back")


def _spec(spec: str) -> Iterator[Finding]:
    from confined_qemu.launch import dryrun, inputs
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.xen import ACCEL

    plan = dryrun.of(inputs.wanted(spec), inherited(), pair=None, policy_root=None)
    for warning in plan.warnings:
        yield Finding(Grade.WARN, spec, warning)
    for refusal in plan.refusals:
        yield Finding(Grade.FAIL, spec, refusal)
    if not plan.refusals:
        if isinstance(plan, Plan):
            yield from _held(spec, plan)
            how = f"{plan.accel.chosen}, {plan.held_by}"
        else:
            how = f"{ACCEL}, {plan.label}"
        yield Finding(Grade.OK, spec, f"can be started, {how}")


def _held(spec: str, plan: Plan) -> Iterator[Finding]:
    """Say what a wall does not keep root from."""
    confined = plan.process is not None or plan.landlock is not None
    if confined and plan.user is None and os.geteuid() == 0:
        what = "QEMU would be root: a service that checks only the user takes it for root"
        if plan.process is None:
            what = "QEMU would be root, whom Landlock lets change owner, mode and attributes of root's files"
        yield Finding(Grade.WARN, spec, message(what, "add user: NAME"))
