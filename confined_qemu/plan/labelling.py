"""What SELinux asks of a VM's plan: its domain, and a label for every file, socket and descriptor. Pure."""

from __future__ import annotations

from confined_qemu.model import hostpaths, policynames
from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import FileKind, SelinuxMode
from confined_qemu.model.invocation import SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.plan import PlannedResource
from confined_qemu.model.resource import Access, Resource, Sharing
from confined_qemu.model.steps import MakeFolder, OwnGroup, StartHelper
from confined_qemu.plan import descriptors, hardening, svirt
from confined_qemu.plan import files as fileplan
from confined_qemu.plan import process as processplan
from confined_qemu.plan.draft import Draft
from confined_qemu.plan.svirt import Levels

if TYPE_CHECKING:
    from confined_qemu.model.context import Context, PolicyContexts
    from confined_qemu.model.hardening import Hardening
    from confined_qemu.model.plan import Outcome


class Labelling(Draft):
    """The plan of a VM on a host that has SELinux."""

    def label(self) -> bool:
        """Decide all that SELinux asks of the VM."""
        if self.process is None or not self.check_domain():
            return False
        self.check_emulator()
        self.add_files()
        self.add_listeners()
        self.add_descriptors()
        self.add_temporary_folder()
        self.add_helpers()
        self.harden()
        return True

    def _levels(self, process: Context) -> Levels:
        return Levels(self.facts.selinux, self.invocation.seclabel, process)

    def kvm_mislabelled(self) -> bool:
        """Tell whether it is the node's label that keeps the launcher out; `check_domain` says that better."""
        selinux = self.facts.selinux
        return bool(self.denied(selinux.own, selinux.kvm_node, "chr_file", "open"))

    def _choose_selinux(self, contexts: PolicyContexts) -> None:
        """Choose the VM's context."""
        seclabel = self.invocation.seclabel
        self.confined = True
        self.process = svirt.process_context(contexts, seclabel, self.facts.pair, tcg=self.accel.tcg)
        if self.process is not None and seclabel.type is SeclabelType.DYNAMIC:
            self.process = self._levels(self.process).dynamic(self.facts.pair)
        if self.facts.selinux.mode is SelinuxMode.PERMISSIVE:
            self.found.warnings.append("SELinux is permissive: labels are set and not enforced")

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
        if not self.accel.tcg and (self.kvm_mislabelled() or self.denied(process, selinux.kvm_node, "chr_file", *use)):
            line = f"/dev/kvm is labelled {selinux.kvm_node}, which {process.type} may not use"
            self.deny(f"{line}{HINT}run: restorecon -v /dev/kvm")
        if self.accel.tcg and not self.invocation.query and self.denied(process, process, "process", "execmem"):
            self.deny(
                f"TCG generates code and runs it, which the policy denies to {process.type} "
                f"(avc: denied {{ execmem }}){HINT}run: {policynames.turned_on(policynames.USE_EXECMEM)}"
            )
        return True

    def check_emulator(self) -> None:
        """Ask whether QEMU's program may be executed in the domain."""
        emulator = self.facts.emulator
        process = self.process
        if process is not None and self.denied(process, emulator.label, "file", "entrypoint", "execute", "read", "map"):
            self.deny(
                f"{emulator.real}: labelled {emulator.label}, which {process.type} may not execute"
                f"{HINT}run: semanage fcontext -a -t qemu_exec_t '{emulator.real}' && restorecon {emulator.real}"
            )

    # ---- files

    def add_files(self) -> None:
        """Decide about every file."""
        process = self.process
        if process is None:
            return
        self.found.refusals.extend(self.invocation.problems)
        files, handed = self.files(), {descriptor.number for descriptor in self.facts.descriptors}
        # what a path names that the caller handed over: what may be done with that is decided there
        handed_over = [one for one in files if handed and hostpaths.descriptor(one.path) in handed]
        uses = [fileplan.wanted(one, self.facts.files[one.path]) for one in files if one not in handed_over]
        merged: dict[object, fileplan.Wanted] = {}
        for use in uses:
            if (clash := fileplan.clash(merged.get(use.key), use)) is not None:
                self.found.refusals.append(clash)
            merged[use.key] = fileplan.merge(merged.get(use.key), use)
        planner = fileplan.FilePlanner(self.invocation, self.facts, self.policy, process)
        outcomes = {key: planner.decide(wanted) for key, wanted in merged.items()}
        self._copy_what_is_denied(merged, uses, outcomes)
        for outcome in outcomes.values():
            self.take(outcome)
        self.found.resources += [PlannedResource(resource, resource.path, None, None) for resource in handed_over]
        for use in uses:
            if use.resource.optional and use.found.kind is FileKind.MISSING:
                continue  # QEMU does without it
            outcome = outcomes[use.key]
            self.found.resources.append(PlannedResource(use.resource, use.found.path, outcome.context, outcome.restore))

    def _copy_what_is_denied(
        self, merged: dict[object, fileplan.Wanted], uses: list[fileplan.Wanted], outcomes: dict[object, Outcome]
    ) -> None:
        """Give the VM a copy of each file that it may not use as it lies, where a copy helps."""
        denied = [key for key, outcome in outcomes.items() if outcome.denials and not outcome.refusals]
        if not denied:
            return
        from confined_qemu.plan.copies import CopyPlanner

        planner = CopyPlanner(self.invocation, self.facts, self.policy, self._private(), self._temporary_folder)
        for key in denied:
            of_it = [use.resource for use in uses if use.key == key]
            outcomes[key] = planner.instead(merged[key], of_it, outcomes[key])

    def files(self) -> list[Resource]:
        """Return the resources as `Draft` does, and the files that the VM gets by number."""
        return [*super().files(), *self._handed_files().values()]

    def _handed_files(self) -> dict[int, Resource]:
        """Return the files that the VM gets by number and that need its label; none where nothing is labelled."""
        own = self.facts.selinux.own
        if self.process is None or own is None:
            return {}
        return descriptors.files(self.facts.descriptors, self.process, own, self.policy)

    # ---- sockets, descriptors and folders

    def add_listeners(self) -> None:
        """Decide about every socket."""
        left = any(resource.access is Access.LISTEN for resource in self.invocation.resources)
        if self.process is None or not (left or self.invocation.listeners or self.invocation.taps):
            return
        from confined_qemu.plan import sockets

        planner = sockets.SocketPlanner(self.invocation, self.facts, self.policy, self.process, self.own_folder)
        self.take(planner.plan(self._private()))

    def add_descriptors(self) -> None:
        """Decide about what the caller handed over."""
        if self.process is None or not self.facts.descriptors:
            return
        at = self._levels(self.process)
        labelled = frozenset(self._handed_files())
        to = descriptors.Recipient(
            self.process, self._private(), at, self.policy, self.facts.uid, self._opened_by_name(), labelled
        )
        for descriptor in self.facts.descriptors:
            self.take(descriptors.decide(descriptor, to))

    def _opened_by_name(self) -> frozenset[int]:
        """Return the descriptors that the command line names as files (`/proc/self/fd/4`): QEMU opens those anew."""
        numbers = (hostpaths.descriptor(resource.path) for resource in self.invocation.resources)
        return frozenset(number for number in numbers if number is not None)

    def _private(self) -> Context | None:
        """Return the label of a file of the VM's own."""
        contexts, process = self.facts.selinux.contexts, self.process
        if contexts is None or process is None:
            return None
        return svirt.file_context(contexts, process, Sharing.PRIVATE)

    def own_folder(self) -> str:
        """Return the folder of the VM's own sockets, which is made for it with its label."""
        folder = f"{self.facts.runtime_folder}/{self.folder_name()}"
        label = self._private() or self.process
        if label is not None and (step := MakeFolder(folder, label)) not in self.found.steps:
            self.found.steps.append(step)
        return folder

    def live(self) -> Context | None:
        """Return the label of the live file, for a VM whose context another may have too."""
        return self._private() if self.invocation.seclabel.type is SeclabelType.STATIC else None

    def add_temporary_folder(self) -> None:
        """Give the VM a folder for its temporary files, where it will make some."""
        if self.invocation.needs_tmpdir and self._private() is not None:
            self.temporary = self._temporary_folder()

    def _temporary_folder(self) -> str:
        """Return the VM's folder for what may be big, which is made for it."""
        name = self.folder_name().replace(",", "-")  # it may stand in a comma list
        folder = f"{self.facts.temporary_folder}/confined-qemu.{name}"
        label = self._private()
        if label is not None and (step := MakeFolder(folder, label)) not in self.found.steps:
            self.found.steps.append(step)
        return folder

    # ---- what it gives up

    def harden(self) -> None:
        """Decide what a VM that SELinux holds gives up; a question to QEMU starts none."""
        if self.process is not None and not self.invocation.query:
            privileges = hardening.privileges(self.invocation, self.facts, self.process, self.policy)
            self.hardening = hardening.plan(self.invocation, self.facts, self.reach(), privileges)
            self._add_second_wall(self.hardening)
            self._add_group()

    def _add_group(self) -> None:
        """Give the VM a control group of its own where it may have one, and its context or its live file is its own."""
        if self.facts.group is not None and (self.facts.pair is not None or self.live() is not None):
            self.found.last.append(OwnGroup(self.facts.group, kills=not self.invocation.daemonize))

    def _add_second_wall(self, hardened: Hardening) -> None:
        """Have Landlock hold the VM as well, and its helpers where they may enter their domain then."""
        if problem := hardening.second_wall_refused(self.invocation, self.facts, hardened):
            self.found.refusals.append(problem)
        if self.facts.landlock is None or not hardening.second_wall_wanted(self.invocation, self.facts, hardened):
            return
        from confined_qemu.plan.landlock import LandlockPlanner

        made, own = (*self.found.first, *self.found.steps), self.facts.selinux.own
        kvm, name = not self.accel.tcg, self.folder_name()
        planner = LandlockPlanner(
            self.invocation, self.facts, self.facts.landlock, self.reach(), kvm, name, already_made=made
        )
        self.ruleset = planner.plan()
        serving = {helper.name: helper for helper in self.invocation.helpers}

        def held(step: StartHelper) -> StartHelper:
            # its domain is entered with no_new_privs, as the VM's
            closed = own is not None and self.denied(own, step.context, "process2", "nnp_transition")
            return step if closed else planner.helped(step, serving[step.name])

        self.found.last = [held(step) if isinstance(step, StartHelper) else step for step in self.found.last]
