"""A VM's plan while it is made, without what SELinux asks for: accelerator, confinement, Landlock, arguments. Pure.

A launch without SELinux loads no more of planning than this, so what few VMs have is imported where it is needed.
"""

from __future__ import annotations

from confined_qemu.model.errors import HINT, message
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.invocation import Accel, Confinement, Invocation, SeclabelType, SecondWall
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.plan import AccelChoice, Collected, Outcome, Plan, PlannedResource
from confined_qemu.model.policy import denied
from confined_qemu.model.resource import Access, Resource, Role

if TYPE_CHECKING:
    from confined_qemu.model.context import Context, PolicyContexts
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.hardening import Hardening
    from confined_qemu.model.landlock import LandlockFacts
    from confined_qemu.model.policy import Policy
    from confined_qemu.model.ruleset import Ruleset
    from confined_qemu.read.qemu.reach import Reach


@dataclass
class Draft:
    """The plan while it is being made."""

    invocation: Invocation
    facts: Facts
    policy: Policy
    accel: AccelChoice = field(default_factory=lambda: AccelChoice("tcg", "", tcg=True))
    process: Context | None = None
    confined: bool = False
    keeps_context: str | None = None
    """Why the VM keeps the caller's context on a host that has SELinux; None where it gets one of its own."""
    back_to: Context | None = None
    by_landlock: LandlockFacts | None = None
    """The kernel's Landlock, where that holds the VM."""
    ruleset: Ruleset | None = None
    hardening: Hardening | None = None
    found: Collected = field(default_factory=Collected)
    temporary: str | None = None
    _reach: Reach | None = None

    def deny(self, line: str) -> None:
        """Refuse; where SELinux only watches (permissive), warn."""
        watching = self.facts.selinux.mode is SelinuxMode.PERMISSIVE
        (self.found.warnings if watching else self.found.refusals).append(line)

    def take(self, outcome: Outcome) -> None:
        """Take over what comes of something."""
        self.found.take(replace(outcome, denials=()))
        for line in outcome.denials:
            self.deny(line)

    def denied(self, source: Context | None, target: Context | None, kind: str, *permissions: str) -> tuple[str, ...]:
        """Ask the policy."""
        return denied(self.policy, source, target, kind, *permissions)

    def reach(self) -> Reach:
        """Return what the command line asks for beside files: read once, for a VM that something holds."""
        if self._reach is None:
            from confined_qemu.read.qemu.reach import Reach as MakeReach

            strict = self.invocation.accel_index is not None
            self._reach = MakeReach.of(self.invocation.arguments, strict=strict)
        return self._reach

    # ---- what only SELinux has; `plan.labelling` says it

    def label(self) -> bool:
        """Decide all that SELinux asks of the VM; False where it does not hold it, or will not have it."""
        return False

    def live(self) -> Context | None:
        """Return the label of the live file, for a VM whose context another may have too."""
        return None

    def own_folder(self) -> str:
        """Return the folder of the VM's own sockets, which is made for it."""
        return f"{self.facts.runtime_folder}/{self.folder_name()}"

    def kvm_mislabelled(self) -> bool:
        """Tell whether it is the node's label that keeps the launcher out; `check_domain` says that better."""
        return False

    # ---- accelerator

    def choose_accelerator(self) -> None:
        """Choose KVM or TCG."""
        kvm, wanted = self.facts.kvm, self.invocation.accel
        if wanted is Accel.TCG:
            self.accel = AccelChoice("tcg", "asked for", tcg=True)
        elif kvm.usable:
            reason = f"the CPU has {kvm.flag} and /dev/kvm answers" if wanted is Accel.AUTO else "asked for"
            self.accel = AccelChoice("kvm", reason, tcg=False)
        elif wanted is Accel.KVM:
            self.accel = AccelChoice("kvm", "asked for", tcg=False)
            unconfined = self.invocation.confinement is Confinement.NONE
            if unconfined or not (self.facts.elsewhere or self.kvm_mislabelled()):
                self.found.refusals.append(f"accel: kvm: {kvm.problem}{HINT}{kvm.hint}{HINT}or use: accel: tcg")
        else:
            self.accel = AccelChoice("tcg", f"no KVM: {kvm.problem}", tcg=True)

    # ---- confinement and domain

    def choose_confinement(self) -> None:
        """Choose what holds the VM."""
        wanted, mode = self.invocation.confinement, self.facts.selinux.mode
        contexts, seclabel = self.facts.selinux.contexts, self.invocation.seclabel
        in_domain = self.facts.selinux.in_domain
        # a question to QEMU starts no VM: what the launch script can start answers it as well
        as_the_caller = wanted is Confinement.NONE or (self.invocation.query and contexts is None)
        if as_the_caller and not (self.invocation.query and in_domain):
            self.keeps_context = "confinement: none"
            self.found.warnings.append("confinement: none: nothing confines this VM; it has all of your rights")
        elif self.invocation.takes_landlock(enforced=mode is SelinuxMode.ENFORCING):
            self._choose_landlock()
        elif mode is SelinuxMode.DISABLED or contexts is None:
            self.found.refusals.append(
                "SELinux is disabled on this host, so it cannot confine the VM"
                f"{HINT}boot with SELinux, or choose confinement: landlock"
            )
        elif seclabel.type is SeclabelType.NONE:
            self.keeps_context = "seclabel type none"
            self.found.warnings.append("seclabel type none: the VM runs in your context, without a label of its own")
            if self.invocation.landlock is SecondWall.ALSO:
                hint = "leave it out, or choose confinement: landlock"
                self.found.refusals.append(
                    f"landlock: also needs SELinux to confine the VM, and its seclabel type is none{HINT}{hint}"
                )
        else:
            self._choose_selinux(contexts)

    def _choose_selinux(self, contexts: PolicyContexts) -> None:
        """Choose the VM's context; `plan.labelling` does, where there is SELinux."""

    def _choose_landlock(self) -> None:
        from confined_qemu.plan import landlock

        wanted, facts = self.invocation.confinement, self.facts.landlock
        if problem := landlock.problem(wanted, facts, self.facts.selinux.mode):
            self.found.refusals.append(problem)
        elif facts is not None:
            self.by_landlock = facts
            self.keeps_context = f"confinement: {wanted}"
        if self.invocation.require_domain:
            self.found.refusals.append(
                "require_domain: Landlock confines this VM, and the launcher enters a domain for SELinux only"
                f"{HINT}choose confinement: selinux, or leave out require_domain"
            )

    def go_back(self) -> None:
        """Give a VM that nothing confines the caller's own context, where the launcher has left it."""
        selinux = self.facts.selinux
        if self.keeps_context is None or not selinux.in_domain:
            return
        from confined_qemu.plan import process as processplan

        if problem := processplan.way_back(self.facts, self.policy, self.keeps_context):
            self.deny(problem)
        self.back_to = selinux.caller

    # ---- files

    def files(self) -> list[Resource]:
        """Return the resources without the sockets that the launcher makes or connects itself."""
        made = {(listener.path, listener.access) for listener in self.invocation.listeners}
        return [
            r
            for r in self.invocation.resources
            if (r.path, r.access) not in made and r.role is not Role.SHARE and r.access is not Access.LISTEN
        ]

    def leave_files(self) -> None:
        """Name the resources of a VM that nothing confines, or that is refused; none is touched."""
        for resource in self.files():
            self.found.resources.append(PlannedResource(resource, self.facts.files[resource.path].path, None, None))
        if not self.invocation.listeners:
            return
        from confined_qemu.plan import sockets

        for listener in self.invocation.listeners:
            self.found.resources.append(sockets.planned(listener, self.facts, None))

    def add_landlock(self, facts: LandlockFacts) -> None:
        """Have Landlock hold the VM and its helpers."""
        from confined_qemu.plan import hardening, landlock

        kvm, name = not self.accel.tcg, self.folder_name()
        planner = landlock.LandlockPlanner(self.invocation, self.facts, facts, self.reach(), kvm, name)
        self.ruleset = planner.plan()
        self.take(planner.found.outcome())
        self.temporary = planner.temporary
        self.hardening = hardening.plan(self.invocation, self.facts, self.reach(), None)
        if not self.invocation.helpers:
            return
        from confined_qemu.model.steps import StartHelper

        serving = {helper.name: helper for helper in self.invocation.helpers}
        self.found.last = [
            planner.helped(step, serving[step.name]) if isinstance(step, StartHelper) else step
            for step in self.found.last
        ]

    def folder_name(self) -> str:
        """Return a name that no other live VM's folder has: a dynamic VM's pair is its own, a static level is not."""
        return f"{_folder_name(self.invocation.name)}.{self.facts.pair or self.facts.instance}"

    # ---- shares, and the helpers that serve them

    def add_helpers(self) -> None:
        """Plan the helpers that serve the VM, and what of its shares must be said."""
        if not (self.invocation.shares or self.invocation.helpers):
            return
        from confined_qemu.plan import helpers

        folder = self.own_folder() if self.process is not None and self.invocation.helpers else None
        self.take(helpers.HelperPlanner(self.invocation, self.facts, self.policy, self.process, folder).plan())

    # ---- the end

    def finish(self) -> Plan:
        """Return the plan."""
        arguments, given = self._arguments(), self._given()
        return Plan(
            name=self.invocation.name,
            emulator=self.facts.emulator.path,
            arguments=arguments,
            given=given if given != arguments else None,
            accel=self.accel,
            confinement="selinux" if self.confined else "landlock" if self.ruleset is not None else "none",
            process=self.process,
            pair=self.facts.pair if self.process is not None else None,
            back_to=self.back_to,
            live=self.live(),
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
        """Return the caller's own arguments where QEMU may get others."""
        copied = self.invocation.accel_index is None and self._copies()
        return self.invocation.given or (self.invocation.arguments if copied else None)

    def _copies(self) -> bool:
        """Tell whether QEMU gets a copy in the place of a file."""
        if not self.found.steps:
            return False  # most VMs without labels have none, and a start loads no classes for them
        from confined_qemu.model.steps import Copy

        return any(isinstance(step, Copy) for step in self.found.steps)

    def _listens(self) -> bool:
        """Tell whether QEMU gets a socket as a descriptor in the place of its path."""
        if not self.found.steps:
            return False
        from confined_qemu.model.steps import Listen

        return any(isinstance(step, Listen) and step.name for step in self.found.steps)

    def _arguments(self) -> tuple[str, ...]:
        if not (self.confined or self._listens()) and self.invocation.given is not None:
            return self.invocation.given  # nobody labels a socket, so QEMU may as well make it itself
        changed: dict[int, str] = {}
        added: tuple[str, ...] = ()
        if self.confined or self.ruleset is not None:
            from confined_qemu.plan import hardening

            changed |= self.found.arguments
            added = hardening.sandbox(self.invocation, self.facts, self.reach())
        else:
            changed |= {tap.index: tap.given for tap in self.invocation.taps}
            changed |= {listener.index: listener.by_path() for listener in self.invocation.listeners}
        if self.invocation.accel_index is not None:
            changed[self.invocation.accel_index] = self.accel.chosen
        return (*(changed.get(index, one) for index, one in enumerate(self.invocation.arguments)), *added)


def _folder_name(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)[:64].lstrip(".") or "vm"
