"""The rules by which Landlock holds a VM: one for each file that the plan knows, and nothing else. Pure.

A rule is on the file, not on its folder. What QEMU would make there is made for it beforehand, as under SELinux.
"""

from __future__ import annotations

import posixpath

from confined_qemu.model import hostpaths
from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import FileKind
from confined_qemu.model.invocation import Confinement
from confined_qemu.model.labelrules import End
from confined_qemu.model.landlock import DEVICE, READ, RUN, TREE, WRITE, LandlockFacts, Right, Scope, lacking
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.plan import Collected, PlannedResource
from confined_qemu.model.resource import Access, Resource, Role, Takes
from confined_qemu.model.ruleset import Ports, Rule, Ruleset
from confined_qemu.plan.openings import unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from confined_qemu.model.facts import Facts, FileFacts
    from confined_qemu.model.helper import Helper
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.resource import Listener
    from confined_qemu.model.steps import StartHelper, Step
    from confined_qemu.read.qemu.reach import Reach

_DEVICES = frozenset({FileKind.CHARACTER, FileKind.BLOCK})
_BY_ACCESS = {
    Access.READ: READ,
    Access.READ_WRITE: READ | WRITE,
    Access.WRITE: READ | WRITE,  # QEMU opens some of them for both
    Access.CREATE: READ | WRITE,
    Access.DIRECTORY: READ,
    Access.CONNECT: Right(0),
    Access.LISTEN: Right(0),
}
_BY_WORD: dict[str, tuple[tuple[str, ...], Right, str]] = {
    "pty": (("/dev/ptmx", "/dev/pts"), DEVICE, "a pseudo-terminal"),
    "alsa": (("/dev/snd",), DEVICE | READ, "sound"),
    "usb-host": (("/dev/bus/usb",), Right.READ_DIR, "libusb looks for devices"),
}
"""Words of a command line, and the folders of devices that QEMU looks into for them."""
_SHELLS = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/libexec", "/usr/lib", "/lib")
"""What a script of QEMU's may run."""
_KVM = "/dev/kvm"
_WINDOW = (
    "the VM's window is on an X server, through which it can reach other windows, and abstract sockets of others"
    f"{HINT}use -display none, vnc or a Wayland session where that matters"
)


def problem(confinement: Confinement, found: LandlockFacts | None, selinux: str) -> str | None:
    """Say why Landlock cannot hold a VM here, and what to do; None where it can."""
    if found is not None and found.problem is not None:
        return found.problem
    if found is not None and found.abi > 0:
        return None
    if confinement is Confinement.LANDLOCK:
        return f"this kernel has no Landlock, so it cannot confine the VM{HINT}boot one that has it (lsm=landlock,…)"
    return (
        f"SELinux is {selinux} on this host and the kernel has no Landlock: nothing would confine the VM"
        f"{HINT}boot with either, or choose confinement: none"
    )


@dataclass
class LandlockPlanner:
    """Decides about a VM that Landlock holds; `kvm` tells whether it will use KVM, `folder_name` is its own."""

    invocation: Invocation
    facts: Facts
    landlock: LandlockFacts
    reach: Reach
    kvm: bool
    folder_name: str
    found: Collected = field(default_factory=Collected)
    rules: list[Rule] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    """What QEMU runs."""
    already_made: tuple[Step, ...] | None = None
    """SELinux holds the VM, whose plan says what is made for it: these steps; None where nothing but Landlock does."""
    temporary: str | None = None

    def plan(self) -> Ruleset:
        """Decide about everything but the shares and helpers, whose plan is taken first; return the rules."""
        self.found.refusals.extend(self.invocation.problems)
        made = {(listener.path, listener.access) for listener in self.invocation.listeners}
        shared = self.invocation.shares
        for resource in self.invocation.resources:
            if resource in shared:
                self._tree(resource)
            elif (resource.path, resource.access) not in made:
                self._file(resource)
        if self.already_made is None:
            for listener in self.invocation.listeners:
                self._socket(listener)
            self.found.arguments |= {tap.index: tap.given for tap in self.invocation.taps}
            self._temporary_folder()
            self._say_what_is_lacking()
        else:
            self._made_folders(self.already_made)
        self.rules += self._devices()
        if self.programs:
            self.rules += [Rule(path, RUN | READ, "what QEMU's programs run") for path in _SHELLS]
        return Ruleset.of(self.landlock.abi, (*self._installation(), *self.rules), self.reach.ports, self._scopes())

    def _installation(self) -> Iterator[Rule]:
        return (Rule(owned.path, owned.rights, owned.why) for owned in self.landlock.installation)

    def _scopes(self) -> Scope:
        abstract = self.reach.words & {"abstract=on", "abstract=yes", "abstract", "addr.abstract=on"}
        if self.invocation.window is not None:  # libxcb tries no other socket where this one is denied
            abstract |= {"X"}
        return Scope.SIGNALS if abstract else Scope.SIGNALS | Scope.ABSTRACT_SOCKETS

    def _say_what_is_lacking(self) -> None:
        if self.invocation.window is not None:
            self.found.warnings.append(_WINDOW)
            if self.invocation.x_key is not None:
                self.rules.append(Rule(self.invocation.x_key, READ, "the X server's key"))
        missing = lacking(self.landlock.abi)
        if missing:
            words = ", ".join(f"{one.what} (ABI {one.since})" for one in missing)
            self.found.warnings.append(
                f"this kernel's Landlock has ABI {self.landlock.abi}, which does not hold {words}"
            )

    def _devices(self) -> Iterator[Rule]:
        if self.kvm:
            yield Rule(_KVM, DEVICE, "KVM")
        for word, (paths, held, why) in _BY_WORD.items():
            if word in self.reach.words:
                yield from (Rule(path, held, why) for path in paths)

    # ---- files

    def _file(self, resource: Resource) -> None:
        found = self.facts.files[resource.path]
        place = f"{found.path} ({resource.source})"
        self.found.resources.append(PlannedResource(resource, found.path, None, None))
        handed = hostpaths.inherited(resource.path)
        if resource.access is Access.LISTEN:
            self._made_by_qemu(posixpath.join(self.facts.folder, resource.path), resource.source)
        elif resource.access is Access.CONNECT:
            pass  # a named socket takes no rule: its listener decides
        elif found.problem is not None and not handed:
            if not hostpaths.may_be_missing(resource):
                self.found.refusals.append(f"{place}: {found.problem}")
        elif found.kind is FileKind.MISSING and not handed:
            self._missing(resource, found, place)
        elif not handed and (problem := unusable(resource, found, self.facts)) is not None:
            self.found.refusals.append(f"{place}: {problem}")
        elif found.kind is FileKind.DIRECTORY and resource.role is Role.MEMORY:
            rights = READ | WRITE | Right.MAKE_REG | Right.REMOVE_FILE
            self.rules.append(Rule(found.real, rights, resource.source, found.identity))
        elif resource.role is Role.PROGRAM:
            self.programs.append(found.real)
            self.rules.append(Rule(found.real, RUN, resource.source, found.identity))
        else:
            rights = _BY_ACCESS[resource.access]
            if found.kind in _DEVICES:
                rights |= Right.IOCTL_DEV
            path = resource.path if handed else found.real
            self.rules.append(Rule(path, rights, resource.source, None if handed else found.identity))

    def _missing(self, resource: Resource, found: FileFacts, place: str) -> None:
        if resource.made_if_missing:
            from confined_qemu.model.steps import MakeFile

            rule = hostpaths.rule(resource)
            end = rule.end if rule is not None else End.BACK
            self.found.steps.append(
                MakeFile(
                    found.real,
                    hostpaths.MODES.get(resource.role, 0o666),
                    end is End.REMOVED,
                    end is End.BACK_OR_REMOVED,
                )
            )
            self.rules.append(Rule(found.real, READ | WRITE, resource.source))
        elif not hostpaths.may_be_missing(resource):
            self.found.refusals.append(f"{place}: no such file")

    def _tree(self, resource: Resource) -> None:
        folder = self.facts.folders[resource.path].folder
        if folder.kind is FileKind.DIRECTORY:
            rights = READ if resource.access is Access.READ else TREE
            if "security_model=passthrough" in self.reach.words:
                rights |= Right.MAKE_CHAR | Right.MAKE_BLOCK if rights != READ else Right(0)
            self.rules.append(Rule(folder.real, rights, resource.source, folder.identity))

    # ---- sockets

    def _socket(self, listener: Listener) -> None:
        from confined_qemu.model.steps import Listen
        from confined_qemu.plan import sockets

        planned = sockets.planned(listener, self.facts, None)
        self.found.resources.append(planned)
        if listener.access is Access.CONNECT:
            self.found.arguments[listener.index] = listener.by_path()
        elif listener.takes is Takes.DESCRIPTOR:
            self.found.steps.append(Listen(listener.name, planned.path))
        else:
            self.found.arguments[listener.index] = listener.made_by_qemu(listener.path)
            self._made_by_qemu(planned.path, listener.source)

    def _made_by_qemu(self, path: str, source: str) -> None:
        """Let QEMU make a socket for which it takes no descriptor: nothing but sockets in that folder."""
        from confined_qemu.model.steps import Listen

        self.found.steps.append(Listen("", path, by_qemu=True))
        self.rules.append(Rule(posixpath.dirname(path), Right.MAKE_SOCK, source))

    # ---- the VM's own folder

    def _made_folders(self, steps: Iterable[Step]) -> None:
        from confined_qemu.model.steps import MakeFolder

        folders = [step.path for step in steps if isinstance(step, MakeFolder)]
        self.rules += [Rule(path, TREE, "the VM's own folder") for path in folders]

    def _temporary_folder(self) -> None:
        if self.invocation.needs_tmpdir:
            from confined_qemu.model.steps import OwnFolder

            self.temporary = f"{self.facts.temporary_folder}/confined-qemu.{self.folder_name}"
            self.found.steps.append(OwnFolder(self.temporary))
            self.rules.append(Rule(self.temporary, TREE, "temporary files"))

    # ---- helpers

    def helped(self, step: StartHelper, helper: Helper) -> StartHelper:
        """Return the step with the rules of its program."""
        from confined_qemu.model.helper import HelperKind

        rules = [Rule(owned.path, owned.rights, owned.why) for owned in self.landlock.installation]
        rules += [Rule(step.program, RUN, "the helper")]
        rules += [Rule(step.folder, READ if helper.readonly else TREE, helper.source, step.identity)]
        if helper.kind is HelperKind.VIRTIOFSD and not helper.readonly:
            rules += [Rule(step.folder, Right.MAKE_CHAR | Right.MAKE_BLOCK, helper.source)]
        nothing = Ports(frozenset(), frozenset())
        scopes = Scope.SIGNALS | Scope.ABSTRACT_SOCKETS
        return replace(step, ruleset=Ruleset.of(self.landlock.abi, tuple(rules), nothing, scopes))
