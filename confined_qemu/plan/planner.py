"""`plan(invocation, facts, policy)`: every decision about one VM, made before anything is done. Pure.

What would fail is found here by asking the policy (`Policy.denied`), and refused with the command that mends it.
"""

from __future__ import annotations

from confined_qemu.model import hostpaths, policynames
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import HINT, message
from confined_qemu.model.facts import FileKind, SelinuxMode
from confined_qemu.model.frozen import dataclass, field, replace
from confined_qemu.model.invocation import Accel, Confinement, Invocation, SeclabelType
from confined_qemu.model.plan import AccelChoice, Plan, PlannedResource
from confined_qemu.model.policy import denied
from confined_qemu.model.resource import Access, Resource, Sharing
from confined_qemu.model.steps import Copy, Listen, MakeFolder, StartHelper
from confined_qemu.plan import copies, descriptors, hardening, helpers, landlock, sockets, svirt
from confined_qemu.plan import files as fileplan
from confined_qemu.plan import process as processplan
from confined_qemu.plan.levels import Levels
from confined_qemu.plan.outcome import Collected, Outcome

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.hardening import Hardening
    from confined_qemu.model.landlock import LandlockFacts, Ruleset
    from confined_qemu.model.policy import Policy


def plan(invocation: Invocation, facts: Facts, policy: Policy) -> Plan:
    """Return the plan for one VM.

    A VM that is to start elsewhere (`plan --policy-root`) is refused nothing that only its host can answer.
    """
    draft = _Draft(invocation, facts, policy)
    draft.found.warnings += invocation.remarks
    draft.choose_accelerator()
    draft.choose_confinement()
    if draft.process is not None and draft.check_domain():
        draft.check_emulator()
        draft.add_files()
        draft.add_listeners()
        draft.add_descriptors()
        draft.add_temporary_folder()
        draft.add_helpers()
        draft.harden()
    elif draft.by_landlock is not None:
        draft.go_back()
        draft.add_helpers()
        draft.add_landlock(draft.by_landlock)
    else:
        draft.go_back()
        draft.leave_files()
        if draft.process is None:
            draft.add_helpers()
    return draft.finish()


def plan_files(invocation: Invocation, facts: Facts, policy: Policy, process: Context) -> Plan:
    """Return the plan for the files of `invocation` alone, which a VM that runs as `process` is given now."""
    draft = _Draft(invocation, facts, policy, process=process, confined=True)
    draft.add_files()
    return draft.finish()


@dataclass
class _Draft:
    """The plan while it is being made."""

    invocation: Invocation
    facts: Facts
    policy: Policy
    accel: AccelChoice = field(default_factory=lambda: AccelChoice("tcg", "", tcg=True))
    process: Context | None = None
    confined: bool = False
    bare: str | None = None
    """What leaves the VM with the caller's context on a host that has SELinux."""
    back_to: Context | None = None
    by_landlock: LandlockFacts | None = None
    """The kernel's Landlock, where that holds the VM."""
    ruleset: Ruleset | None = None
    hardening: Hardening | None = None
    found: Collected = field(default_factory=Collected)
    temporary: str | None = None

    def deny(self, line: str) -> None:
        """Refuse; where SELinux only watches (permissive), warn."""
        watching = self.facts.selinux.mode is SelinuxMode.PERMISSIVE
        (self.found.warnings if watching else self.found.refusals).append(line)

    def take(self, outcome: Outcome) -> None:
        """Take over what comes of something."""
        self.found.take(replace(outcome, denials=()))
        for line in outcome.denials:
            self.deny(line)

    def _levels(self, process: Context) -> Levels:
        return Levels(self.facts.selinux, self.invocation.seclabel, process)

    def denied(self, source: Context | None, target: Context | None, kind: str, *permissions: str) -> tuple[str, ...]:
        return denied(self.policy, source, target, kind, *permissions)

    # ---- accelerator

    def choose_accelerator(self) -> None:
        kvm, wanted = self.facts.kvm, self.invocation.accel
        if wanted is Accel.TCG:
            self.accel = AccelChoice("tcg", "asked for", tcg=True)
        elif kvm.usable:
            reason = f"the CPU has {kvm.flag} and /dev/kvm answers" if wanted is Accel.AUTO else "asked for"
            self.accel = AccelChoice("kvm", reason, tcg=False)
        elif wanted is Accel.KVM:
            self.accel = AccelChoice("kvm", "asked for", tcg=False)
            bare = self.invocation.confinement is Confinement.NONE
            if bare or not (self.facts.elsewhere or self._kvm_mislabelled()):
                self.found.refusals.append(f"accel: kvm: {kvm.problem}{HINT}{kvm.hint}{HINT}or use: accel: tcg")
        else:
            self.accel = AccelChoice("tcg", f"no KVM: {kvm.problem}", tcg=True)

    def _kvm_mislabelled(self) -> bool:
        """Tell whether it is the node's label that keeps the launcher out; `check_domain` says that better."""
        selinux = self.facts.selinux
        return bool(self.denied(selinux.own, selinux.kvm_node, "chr_file", "open"))

    # ---- confinement and domain

    def choose_confinement(self) -> None:
        wanted, mode = self.invocation.confinement, self.facts.selinux.mode
        contexts, seclabel = self.facts.selinux.contexts, self.invocation.seclabel
        in_domain = self.facts.selinux.in_domain
        # a question to QEMU starts no VM: what the launch script can start answers it as well
        as_the_caller = wanted is Confinement.NONE or (self.invocation.query and contexts is None)
        if as_the_caller and not (self.invocation.query and in_domain):
            self.bare = "confinement: none"
            self.found.warnings.append("confinement: none: nothing confines this VM; it has all of your rights")
        elif not self.invocation.query and landlock.chosen(wanted, enforced=mode is SelinuxMode.ENFORCING):
            self._choose_landlock()
        elif mode is SelinuxMode.DISABLED or contexts is None:
            self.found.refusals.append(
                "SELinux is disabled on this host, so it cannot confine the VM"
                f"{HINT}boot with SELinux, or choose confinement: landlock"
            )
        elif seclabel.type is SeclabelType.NONE:
            self.bare = "seclabel type none"
            self.found.warnings.append("seclabel type none: the VM runs in your context, without a label of its own")
        else:
            self.confined = True
            self.process = svirt.process_context(contexts, seclabel, self.facts.pair, tcg=self.accel.tcg)
            if self.process is not None and seclabel.type is SeclabelType.DYNAMIC:
                self.process = self._levels(self.process).dynamic(self.facts.pair)
            if mode is SelinuxMode.PERMISSIVE:
                self.found.warnings.append("SELinux is permissive: labels are set and not enforced")

    def _choose_landlock(self) -> None:
        wanted, facts = self.invocation.confinement, self.facts.landlock
        if problem := landlock.problem(wanted, facts, self.facts.selinux.mode):
            self.found.refusals.append(problem)
        elif facts is not None:
            self.by_landlock = facts
            self.bare = f"confinement: {wanted}"
        if self.invocation.require_domain:
            self.found.refusals.append("require_domain: Landlock holds this VM, and the launcher's domain is SELinux's")

    def check_domain(self) -> bool:
        """Ask whether QEMU may be started in its domain; the first thing missing is the only one worth saying."""
        selinux, process = self.facts.selinux, self.process
        if process is None or selinux.own is None:
            return True
        seclabel = self.invocation.seclabel
        if problem := processplan.unknown(seclabel, process, self.policy):
            self.found.refusals.append(problem)
            return False
        if selinux.mode is not SelinuxMode.PERMISSIVE and self.policy.is_permissive(process):
            self.found.warnings.append(processplan.permissive(process))
        self.found.refusals.extend(processplan.occupied(seclabel, process, self.facts.occupants))
        if problem := processplan.transition(seclabel, process, self.facts, self.policy):
            self.deny(self._levels(process).beyond or problem)
            return not self.found.refusals
        if not selinux.in_domain:
            line = f"policy module not active: running as {selinux.own.type}, not {policynames.LAUNCHER}"
            line = f"{line}{HINT}run: {processplan.INSTALL}"
            (self.found.refusals if self.invocation.require_domain else self.found.warnings).append(line)
        use = ("open", "read", "write", "ioctl")
        if not self.accel.tcg and (self._kvm_mislabelled() or self.denied(process, selinux.kvm_node, "chr_file", *use)):
            line = f"/dev/kvm is labelled {selinux.kvm_node}, which {process.type} may not use"
            self.deny(f"{line}{HINT}run: restorecon -v /dev/kvm")
        if self.accel.tcg and not self.invocation.query and self.denied(process, process, "process", "execmem"):
            self.deny(
                f"TCG generates code and runs it, which the policy denies to {process.type} "
                f"(avc: denied {{ execmem }}){HINT}run: {policynames.turned_on(policynames.USE_EXECMEM)}"
            )
        return True

    def go_back(self) -> None:
        """Give a VM that nothing confines the caller's own context, where the launcher has left it."""
        selinux = self.facts.selinux
        if self.bare is None or not selinux.in_domain:
            return
        if problem := processplan.way_back(self.facts, self.policy, self.bare):
            self.deny(problem)
        self.back_to = selinux.caller

    def check_emulator(self) -> None:
        emulator = self.facts.emulator
        process = self.process
        if process is not None and self.denied(process, emulator.label, "file", "entrypoint", "execute", "read", "map"):
            self.deny(
                f"{emulator.real}: labelled {emulator.label}, which {process.type} may not execute"
                f"{HINT}run: semanage fcontext -a -t qemu_exec_t '{emulator.real}' && restorecon {emulator.real}"
            )

    # ---- files

    def add_files(self) -> None:
        process = self.process
        if process is None:
            return
        self.found.refusals.extend(self.invocation.problems)
        merged: dict[object, fileplan.Wanted] = {}
        uses: dict[object, list[Resource]] = {}
        files = [resource for resource in self._files() if not self._handed_over(resource)]
        for resource in files:
            found = self.facts.files[resource.path]
            key = found.identity or found.real
            wanted = fileplan.Wanted(hostpaths.settled(resource, found.real, found.kind), found)
            clash = fileplan.clash(merged.get(key), wanted)
            if clash is not None:
                self.found.refusals.append(clash)
            merged[key] = fileplan.merge(merged.get(key), wanted)
            uses.setdefault(key, []).append(wanted.resource)
        planner = fileplan.FilePlanner(self.invocation, self.facts, self.policy, process)
        copying = copies.CopyPlanner(self.invocation, self.facts, self.policy, self._private(), self._temporary_folder)
        outcomes = {key: copying.instead(wanted, uses[key], planner.decide(wanted)) for key, wanted in merged.items()}
        for outcome in outcomes.values():
            self.take(outcome)
        named = (resource for resource in self._files() if self._handed_over(resource))
        self.found.resources += [PlannedResource(resource, resource.path, None, None) for resource in named]
        for resource in files:
            found = self.facts.files[resource.path]
            outcome = outcomes[found.identity or found.real]
            if resource.optional and found.kind is FileKind.MISSING:
                continue  # QEMU does without it
            settled = hostpaths.settled(resource, found.real, found.kind)
            self.found.resources.append(PlannedResource(settled, found.path, outcome.context, outcome.restore))

    def _files(self) -> list[Resource]:
        """Return the resources without the sockets that the launcher makes or connects itself."""
        made = {(listener.path, listener.access) for listener in self.invocation.listeners}
        shares = helpers.shares(self.invocation)
        named = [
            r
            for r in self.invocation.resources
            if (r.path, r.access) not in made and r not in shares and r.access is not Access.LISTEN
        ]
        return [*named, *self._handed_files().values()]

    def _handed_files(self) -> dict[int, Resource]:
        """Return the files that the VM gets by number and that need its label; none where nothing is labelled."""
        own = self.facts.selinux.own
        if self.process is None or own is None:
            return {}
        return descriptors.files(self.facts.descriptors, self.process, own, self.policy)

    def leave_files(self) -> None:
        """Name the resources of a VM that nothing confines, or that is refused; none is touched."""
        for resource in self._files():
            self.found.resources.append(PlannedResource(resource, self.facts.files[resource.path].path, None, None))
        for listener in self.invocation.listeners:
            self.found.resources.append(sockets.planned(listener, self.facts, None))

    def add_landlock(self, facts: LandlockFacts) -> None:
        """Have Landlock hold the VM and its helpers."""
        planner = landlock.LandlockPlanner(self.invocation, self.facts, facts, not self.accel.tcg, self._folder_name())
        self.ruleset = planner.plan()
        self.take(planner.found.outcome())
        self.temporary = planner.temporary
        self.hardening = hardening.plan(self.invocation, self.facts, planner.ports, None)
        serving = {helper.name: helper for helper in self.invocation.helpers}
        self.found.last = [
            planner.helped(step, serving[step.name]) if isinstance(step, StartHelper) else step
            for step in self.found.last
        ]

    def harden(self) -> None:
        """Decide what a VM that SELinux holds gives up; a question to QEMU starts none."""
        if self.process is not None and not self.invocation.query:
            privileges = hardening.privileges(self.invocation, self.facts, self.process, self.policy)
            ports = hardening.ports(self.invocation)
            self.hardening = hardening.plan(self.invocation, self.facts, ports, privileges)

    # ---- sockets, descriptors and folders

    def add_listeners(self) -> None:
        contexts, process = self.facts.selinux.contexts, self.process
        if contexts is None or process is None:
            return
        label = svirt.file_context(contexts, process, Sharing.PRIVATE)
        planner = sockets.SocketPlanner(self.invocation, self.facts, self.policy, process, self._own_folder)
        self.take(planner.plan(label))

    def add_descriptors(self) -> None:
        if self.process is None:
            return
        at = self._levels(self.process)
        labelled = frozenset(self._handed_files())
        to = descriptors.Recipient(
            self.process, self._private(), at, self.policy, self.facts.uid, self._opened_by_name(), labelled
        )
        for descriptor in self.facts.descriptors:
            self.take(descriptors.decide(descriptor, to))

    def _handed_over(self, resource: Resource) -> bool:
        """Tell whether a path names a descriptor of the caller's: what may be done with that is decided there."""
        number = hostpaths.descriptor(resource.path)
        return any(descriptor.number == number for descriptor in self.facts.descriptors)

    def _opened_by_name(self) -> frozenset[int]:
        """Return the descriptors that the command line names as files (`/proc/self/fd/4`): QEMU opens those anew."""
        numbers = (hostpaths.descriptor(resource.path) for resource in self.invocation.resources)
        return frozenset(number for number in numbers if number is not None)

    def _private(self) -> Context | None:
        contexts, process = self.facts.selinux.contexts, self.process
        if contexts is None or process is None:
            return None
        return svirt.file_context(contexts, process, Sharing.PRIVATE)

    def _own_folder(self) -> str:
        contexts, process = self.facts.selinux.contexts, self.process
        folder = f"{self.facts.runtime_folder}/{self._folder_name()}"
        if contexts is not None and process is not None:
            label = svirt.file_context(contexts, process, Sharing.PRIVATE)
            step = MakeFolder(folder, label or process)
            if step not in self.found.steps:
                self.found.steps.append(step)
        return folder

    def _folder_name(self) -> str:
        """Return a name that no other live VM's folder has: a dynamic VM's pair is its own, a static level is not."""
        return f"{_folder_name(self.invocation.name)}.{self.facts.pair or self.facts.instance}"

    def _live(self) -> Context | None:
        """Return the label of the live file, for a VM whose context another may have too."""
        contexts, process = self.facts.selinux.contexts, self.process
        if contexts is None or process is None or self.invocation.seclabel.type is not SeclabelType.STATIC:
            return None
        return svirt.file_context(contexts, process, Sharing.PRIVATE)

    def add_temporary_folder(self) -> None:
        if self.invocation.needs_tmpdir and self._private() is not None:
            self.temporary = self._temporary_folder()

    def _temporary_folder(self) -> str:
        """Return the VM's folder for what may be big, which is made for it."""
        name = self._folder_name().replace(",", "-")  # it may stand in a comma list
        folder = f"{self.facts.temporary_folder}/confined-qemu.{name}"
        label = self._private()
        if label is not None and (step := MakeFolder(folder, label)) not in self.found.steps:
            self.found.steps.append(step)
        return folder

    # ---- shares, and the helpers that serve them

    def add_helpers(self) -> None:
        if not helpers.folders(self.invocation):
            return
        folder = self._own_folder() if self.process is not None and self.invocation.helpers else None
        self.take(helpers.HelperPlanner(self.invocation, self.facts, self.policy, self.process, folder).plan())

    # ---- the end

    def finish(self) -> Plan:
        return Plan(
            name=self.invocation.name,
            emulator=self.facts.emulator.path,
            arguments=self._arguments(),
            given=self._given(),
            accel=self.accel,
            confinement="selinux" if self.confined else "landlock" if self.ruleset is not None else "none",
            process=self.process,
            pair=self.facts.pair if self.process is not None else None,
            back_to=self.back_to,
            live=self._live(),
            resources=tuple(self.found.resources),
            steps=(*self.found.first, *self.found.steps, *self.found.last),
            landlock=self.ruleset,
            hardening=self.hardening,
            temporary=self.temporary,
            user=self.invocation.user,
            daemonize=self.invocation.daemonize,
            # the answer to a question is read by programs
            warnings=() if self.invocation.query else tuple(message(line) for line in self.found.warnings),
            refusals=tuple(dict.fromkeys(message(line) for line in self.found.refusals)),
        )

    def _given(self) -> tuple[str, ...] | None:
        copied = self.invocation.accel_index is None and any(isinstance(step, Copy) for step in self.found.steps)
        given = self.invocation.given or (self.invocation.arguments if copied else None)
        return given if given is not None and given != self._arguments() else None

    def _arguments(self) -> tuple[str, ...]:
        rewritten = self.confined or any(isinstance(step, Listen) and step.name for step in self.found.steps)
        if not rewritten and self.invocation.given is not None:
            return self.invocation.given  # nobody labels a socket, so QEMU may as well make it itself
        arguments = list(self.invocation.arguments)
        if self.invocation.accel_index is not None:
            arguments[self.invocation.accel_index] = self.accel.chosen
        changed = self.found.arguments
        if not self.confined and self.ruleset is None:
            changed = {listener.index: sockets.by_path(listener) for listener in self.invocation.listeners}
        for index, argument in changed.items():
            arguments[index] = argument
        held = self.confined or self.ruleset is not None
        return (*arguments, *(hardening.sandbox(self.invocation, self.facts) if held else ()))


def _folder_name(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[:64].lstrip(".") or "vm"
