"""Collects what a plan is made from: what the caller handed over, what images name, what the host says of it all."""

from __future__ import annotations

import os

from confined_qemu.host import emulator, lsm, survey
from confined_qemu.model import paths
from confined_qemu.model.facts import Facts, FileKind, SelinuxMode
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace
from confined_qemu.model.policy import NO_POLICY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.model.distribution import Family
    from confined_qemu.model.facts import FileFacts, FolderFacts, Holder, Identity, SelinuxFacts
    from confined_qemu.model.helper import HelperKind
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.policy import Policy


@dataclass(frozen=True, slots=True)
class Caller:
    """What the caller handed over, taken before anything else was opened."""

    environment: Mapping[bytes, bytes]
    descriptors: tuple[int, ...]
    argv0: str
    report: int = -1
    """Where the watcher tells `run` how it went; -1 without."""


def needs_labels(invocation: Invocation, mode: SelinuxMode) -> bool:
    """Tell whether SELinux will hold this VM, so that there are labels to set and to put back."""
    return mode is not SelinuxMode.DISABLED and not invocation.keeps_context and not held_by_landlock(invocation, mode)


def held_by_landlock(invocation: Invocation, mode: SelinuxMode) -> bool:
    """Tell whether Landlock is to hold this VM: a question to QEMU starts none."""
    return invocation.takes_landlock(enforced=mode is SelinuxMode.ENFORCING)


def followed(invocation: Invocation, *, confined: bool = True) -> Invocation:
    """Return the invocation with the files that its images name in their headers; `confined` as in `probe.follow`.

    Raises:
        HostError, LsmError: the headers cannot be read safely.
    """
    if not any(resource.layered for resource in invocation.resources):
        return invocation
    from confined_qemu.host import probe

    return probe.follow(invocation, confined=confined)


def collect(
    invocation: Invocation,
    caller: Caller,
    selinux: SelinuxFacts,
    holders: Mapping[Identity, tuple[Holder, ...]] | None = None,
) -> Facts:
    """Return the facts about this invocation, without a pair."""
    search = survey.environment_text(caller.environment, "PATH")
    program = emulator.find(invocation.emulator, search)
    served, programs = _helped(invocation, selinux, holders or {})
    started = survey.file(program, selinux)
    named = [resource.path for resource in invocation.resources]
    named += [tap.path for tap in invocation.taps]
    files = survey.files([*named, *survey.handed_files(caller.descriptors)], selinux)
    return Facts(
        selinux=selinux,
        kvm=survey.accelerator(),
        emulator=started,
        files=files,
        folders=served,
        programs=programs,
        distribution=_distribution(programs),
        holders=holders or {},
        descriptors=survey.descriptors(caller.descriptors, selinux),
        instance=str(os.getpid()),
        sandbox=invocation.sandbox and emulator.takes_sandbox(program),
        hardening=survey.hardening(invocation, files),
        uid=os.geteuid(),
        folder=os.getcwd(),
        runtime_folder=_runtime_folder(caller),
        temporary_folder=survey.environment_text(caller.environment, "TMPDIR") or "/var/tmp",  # noqa: S108 - QEMU's own
    )


# ---- by which wall the VM is held


def unlabelled(invocation: Invocation, caller: Caller, mode: SelinuxMode) -> tuple[Invocation, Facts]:
    """Return the invocation and the facts of a VM without labels, followed and asked of Landlock if that holds it."""
    if not held_by_landlock(invocation, mode):
        return invocation, collect(invocation, caller, survey.selinux(scan=False))
    kernel = survey.landlock_of_kernel()
    if kernel.abi:
        invocation = followed(invocation, confined=False)
    facts = collect(invocation, caller, survey.selinux(scan=False))
    return invocation, replace(facts, landlock=survey.landlock_for(kernel, facts, caller.environment))


def labelled(invocation: Invocation, caller: Caller, selinux: SelinuxFacts) -> Facts:
    """Return the facts of a VM that gets labels, without a pair; `invocation` is followed already."""
    from confined_qemu.labels import restore, statefolders
    from confined_qemu.plan import hardening

    facts = collect(invocation, caller, selinux, restore.holders(statefolders.readable_folders()))
    if invocation.group:
        from confined_qemu.host import cgroups

        facts = replace(facts, group=cgroups.possible())
    if not hardening.second_wall_considered(invocation):
        return facts
    return replace(facts, landlock=survey.landlock_for(survey.landlock_of_kernel(), facts, caller.environment))


def policy(mode: SelinuxMode) -> Policy:
    """Return what answers for the policy of this host."""
    return lsm if mode is not SelinuxMode.DISABLED else NO_POLICY


# ---- parts of it


def _distribution(programs: Mapping[HelperKind, FileFacts]) -> Family | None:
    """Return the host's family of distributions where something is to be installed; nobody else asks."""
    if all(program.kind is not FileKind.MISSING for program in programs.values()):
        return None
    from confined_qemu.host import packages

    return packages.family()


def _helped(
    invocation: Invocation, selinux: SelinuxFacts, holders: Mapping[Identity, tuple[Holder, ...]]
) -> tuple[Mapping[str, FolderFacts], Mapping[HelperKind, FileFacts]]:
    """Return the folders that are shared or served, and the programs that serve them; most VMs have none."""
    if not (invocation.shares or invocation.helpers):
        return {}, {}
    from confined_qemu.host import helperfacts

    return helperfacts.folders(invocation, selinux, holders), helperfacts.programs(invocation, selinux)


def _runtime_folder(caller: Caller) -> str:
    if os.geteuid() == 0:
        return paths.RUNTIME
    base = survey.environment_text(caller.environment, "XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.join(base, "confined-qemu")
