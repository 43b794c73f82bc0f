"""What happens to the folders of a VM that helpers serve or QEMU shares, and which helper is started. Pure.

A shared folder keeps its labels, and the plan finds out whether they will do, unless the user has it labelled
(`trees`). A TPM's state is the VM's own.
"""

from __future__ import annotations

import posixpath

from confined_qemu.model import distribution
from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.facts import FileFacts, FileKind, FolderFacts
from confined_qemu.model.helper import PROGRAMS, STATE_FILES, Helper, HelperKind, arguments
from confined_qemu.model.lean import TYPE_CHECKING, Enum, dataclass, field, replace
from confined_qemu.model.plan import Collected, Outcome, PlannedResource
from confined_qemu.model.policy import denied
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.model.steps import KeepFolder, LabelTree, StartHelper, Sweep
from confined_qemu.plan import fixedlabels, svirt
from confined_qemu.plan import trees as treeplan
from confined_qemu.plan.files import FilePlanner, Wanted
from confined_qemu.plan.svirt import Levels, Lowered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.policy import Policy

_STATE_NEEDS = {
    FileKind.DIRECTORY: ("open", "read", "search", "write", "add_name", "remove_name"),
    FileKind.REGULAR: ("open", "read", "write", "create", "unlink", "rename"),
}


class FolderUse(Enum):
    """What a folder that must be looked into is to a VM."""

    STATE = "state"
    """A TPM's."""
    SHARE = "share"
    LABELLED_SHARE = "labelled share"
    """Labelled with all that is in it."""


def folders(invocation: Invocation) -> Mapping[str, FolderUse]:
    """Return each folder that must be looked into, and what it is."""
    found = {
        resource.path: FolderUse.LABELLED_SHARE if resource.label_tree else FolderUse.SHARE
        for resource in invocation.shares
    }
    for helper in invocation.helpers:
        if helper.kind is HelperKind.SWTPM:
            found[helper.folder] = FolderUse.STATE
        elif found.get(helper.folder) is not FolderUse.LABELLED_SHARE:
            found[helper.folder] = FolderUse.LABELLED_SHARE if helper.label_tree else FolderUse.SHARE
    return found


@dataclass
class HelperPlanner:
    """Decides about folders and helpers. `process` is None for a VM that nothing confines."""

    invocation: Invocation
    facts: Facts
    policy: Policy
    process: Context | None
    own_folder: str | None
    found: Collected = field(default_factory=Collected)
    starts: list[StartHelper] = field(default_factory=list)

    def plan(self) -> Outcome:
        """Return what happens."""
        for resource in self.invocation.shares:
            self._share_of_qemu(resource)
        for helper in self.invocation.helpers:
            self._helped(helper)
        self.found.last += self.starts
        return self.found.outcome()

    # ---- shares

    def _share_of_qemu(self, resource: Resource) -> None:
        found, readonly = self.facts.folders[resource.path], resource.access is Access.READ
        if self._share(resource, found, self.process) and not readonly:
            self._sweep_what_qemu_makes(found.folder)

    def _share(self, resource: Resource, found: FolderFacts, who: Context | None) -> bool:
        """Decide about a folder that `who` shares; tell whether it is to be used with the labels that it has."""
        outcome = self._labelled(resource, found, who) if resource.label_tree else None
        given, restore = (outcome.context, outcome.restore) if outcome is not None else (None, None)
        self.found.resources.append(PlannedResource(resource, found.folder.path, given, restore))
        if outcome is not None:
            return False
        return self._usable(found, who, resource, readonly=resource.access is Access.READ)

    def _labelled(self, resource: Resource, found: FolderFacts, who: Context | None) -> Outcome | None:
        """Label the folder and all that is in it, as the user said; None where it keeps its labels."""
        place = f"{found.folder.path} ({resource.source})"
        readonly = resource.access is Access.READ
        if who is None or self.process is None or self._no_folder(found, place) is not None:
            return None
        inside = f"{found.folder.real}/"
        trees = [step for step in self.found.last if isinstance(step, LabelTree)]
        for other in trees:
            if inside.startswith(f"{other.path}/") or other.path.startswith(inside):
                line = f"{place}: it overlaps {other.path}, which the VM shares too{HINT}share one of the two"
                self.found.refusals.append(line)
                return Outcome()
        planner = treeplan.TreePlanner(self.facts, self.policy, self.process, who)
        outcome = planner.label(found, place, len(trees), readonly=readonly)
        if outcome is not None:
            self.found.take(outcome)
            self._note_lowered(found, place, outcome)
        return outcome

    def _note_lowered(self, found: FolderFacts, place: str, outcome: Outcome) -> None:
        """Note, of a tree that the VM writes to, the first entry that goes back to a lower level."""
        writes = any(isinstance(step, LabelTree) and step.exclusive for step in outcome.last)
        if not writes or self.process is None or outcome.context is None:
            return
        levels = Levels(self.facts.selinux, self.invocation.seclabel, self.process)
        for entry in (found.folder, *found.entries):
            lowered = levels.lowered(outcome.context, entry.label, entry, f"{place}: {entry.path}", self.policy)
            if lowered != Lowered():
                self.found.refusals += lowered.refusals
                self.found.warnings += lowered.warnings
                return

    def _no_folder(self, found: FolderFacts, place: str) -> str | None:
        """Return, and note, why there is no folder to share."""
        folder = found.folder
        problem = folder.problem or found.problem
        if problem is None and folder.kind is FileKind.MISSING:
            problem = f"no such folder{HINT}run: mkdir {shell_word(folder.path)}"
        elif problem is None and folder.kind is not FileKind.DIRECTORY:
            problem = "not a folder"
        if problem is not None and f"{place}: {problem}" not in self.found.refusals:
            self.found.refusals.append(f"{place}: {problem}")
        return problem

    def _usable(self, found: FolderFacts, who: Context | None, resource: Resource, *, readonly: bool) -> bool:
        """Tell whether `who` may use the folder with the labels that it has; note why not, and what it will not see."""
        folder = found.folder
        place = f"{folder.path} ({resource.source})"
        if self._no_folder(found, place) is not None:
            return False
        if who is None or self.process is None:
            return True
        planner = treeplan.TreePlanner(self.facts, self.policy, self.process, who)
        missing = planner.missing(folder, readonly=readonly)
        if missing:
            self.found.denials.append(
                f"{place}: {who} may not {' and '.join(missing)} this folder, labelled {folder.label}{HINT}"
                + self._ways(folder, resource, readonly=readonly)
            )
            return False
        seen = planner.seen(found, place, readonly=readonly)
        self.found.warnings += [seen] if seen is not None else []
        return True

    def _ways(self, folder: FileFacts, resource: Resource, *, readonly: bool) -> str:
        contexts = self.facts.selinux.contexts
        if folder.real == "/":
            return treeplan.root_hint()
        if contexts is None:
            return "share a folder of its own"
        label = contexts.content if readonly else contexts.image
        return treeplan.ways(folder, label, spec=not resource.source.startswith("-"))

    def _sweep_what_qemu_makes(self, folder: FileFacts) -> None:
        """What QEMU makes has its own level, which dies with the VM: at the end it gets the folder's label.

        Where the mount gives all one label, what is made has that one: nobody goes through the whole of it then.
        """
        contexts, process = self.facts.selinux.contexts, self.process
        if contexts is None or process is None or folder.label is None or not self.invocation.seclabel.relabel:
            return
        given = svirt.file_context(contexts, process, Sharing.PRIVATE)
        if given is None or folder.label.type != given.type or folder.label.range == given.range:
            return
        if fixedlabels.fixed(folder):
            return
        self.found.first.append(
            Sweep(folder.real, folder.identity, given, replace(folder.label, user=given.user), deep=True)
        )

    # ---- helpers

    def _helped(self, helper: Helper) -> None:
        program = PROGRAMS[helper.kind]
        found, binary = self.facts.folders[helper.folder], self.facts.programs.get(helper.kind)
        context = self._context(program.readonly_type if helper.readonly else program.type)
        if binary is None or binary.kind is FileKind.MISSING:
            command = distribution.command(self.facts.distribution, program.package)
            self.found.refusals.append(f"{helper.source}: {helper.kind} is not installed{HINT}run: {command}")
        elif context is not None:
            self._startable(helper, context, binary)
        if helper.kind is HelperKind.SWTPM:
            self._state(helper, found, context)
        else:
            self._served(helper, found, context)
        self.starts.append(
            StartHelper(
                helper.kind,
                helper.name,
                binary.path if binary is not None else helper.kind,
                arguments(helper),
                found.folder.real,
                found.folder.identity,
                context,
                self.process,
                self.own_folder,
            )
        )

    def _served(self, helper: Helper, found: FolderFacts, context: Context | None) -> None:
        access = Access.READ if helper.readonly else Access.DIRECTORY
        resource = Resource(
            helper.folder, Role.SHARE, access, Sharing.UNLABELLED, helper.source, label_tree=helper.label_tree
        )
        self._share(resource, found, context)
        if found.runs_setuid and not helper.readonly:
            self.found.warnings.append(
                f"{found.folder.path} ({helper.source}): the guest's root may leave setuid programs there, "
                f"which every user of this host could start{HINT}mount it with nosuid, or close it: "
                f"chmod o-x {shell_word(found.folder.path)}"
            )

    def _context(self, type_name: str) -> Context | None:
        """Return the helper's context: its own domain at the VM's level."""
        if self.process is None:
            return None
        return replace(self.process, user="system_u", role="system_r", type=type_name)

    def _startable(self, helper: Helper, context: Context, binary: FileFacts) -> None:
        own = self.facts.selinux.own
        if own is not None and self.policy.denied(own, context, "process", ("transition",)):
            self.found.denials.append(
                f"{helper.source}: {own.type} may not transition to {context.type}"
                f"{HINT}run: confined-qemu policy install"
            )
        elif denied(self.policy, context, binary.label, "file", "entrypoint", "execute"):
            self.found.denials.append(
                f"{binary.path} ({helper.source}): labelled {binary.label}, which {context.type} may not execute"
                f"{HINT}run: restorecon -F {binary.path}"
            )

    # ---- a TPM's state

    def _state(self, helper: Helper, found: FolderFacts, context: Context | None) -> None:
        folder = found.folder
        place = f"{folder.path} ({helper.source})"
        problem = folder.problem or found.problem
        strange = next((e.path for e in found.entries if posixpath.basename(e.path) not in STATE_FILES), None)
        if problem is None and folder.kind not in (FileKind.DIRECTORY, FileKind.MISSING):
            problem = "not a folder"
        if problem is None and strange is not None:
            problem = f"{strange} does not belong to a TPM's state{HINT}give the TPM a folder of its own"
        if problem is not None:
            self.found.refusals.append(f"{place}: {problem}")
            return
        resource = Resource(helper.folder, Role.TPM_STATE, Access.DIRECTORY, Sharing.PRIVATE, helper.source)
        if self.process is None or context is None:
            self.found.resources.append(PlannedResource(resource, folder.path, None, None))
            if folder.kind is FileKind.MISSING:
                self.found.refusals.append(f"{place}: no such folder{HINT}run: mkdir -m 700 {shell_word(folder.path)}")
            return
        if folder.kind is FileKind.MISSING:
            self._new_state(resource, folder)
            return
        planner = FilePlanner(self.invocation, self.facts, self.policy, self.process)
        outcome = planner.decide(Wanted(resource, folder))
        self.found.take(replace(outcome, first=outcome.steps, steps=()))
        self.found.resources.append(PlannedResource(resource, folder.path, outcome.context, outcome.restore))
        if outcome.context is not None and outcome.restore is not None:
            self.found.first.append(Sweep(folder.real, folder.identity, outcome.context, outcome.restore, deep=False))
        for entry in found.entries:
            file = Resource(entry.path, Role.TPM_STATE, Access.READ_WRITE, Sharing.PRIVATE, helper.source)
            self.found.take(planner.decide(Wanted(file, entry)))
        self._state_usable(place, context, outcome.context or folder.label)

    def _state_usable(self, place: str, context: Context, label: Context | None) -> None:
        for kind, needs in _STATE_NEEDS.items():
            missing = denied(self.policy, context, label, kind, *needs)
            if missing:
                self.found.denials.append(
                    f"{place}: {context} may not {' and '.join(missing)} what is labelled {label}"
                )
                return

    def _new_state(self, resource: Resource, folder: FileFacts) -> None:
        contexts = self.facts.selinux.contexts
        if contexts is None or self.process is None:
            return
        label = svirt.file_context(contexts, self.process, Sharing.PRIVATE)
        if label is None:
            return
        restore = self._restore_of_new(resource, folder)
        if self.invocation.user is not None:
            self.found.refusals.append(
                f"{folder.path} ({resource.source}): no such folder"
                f"{HINT}run: install -d -m 700 -o {self.invocation.user} {shell_word(folder.path)}"
            )
        self.found.first.append(KeepFolder(folder.real, label, restore))
        self.found.first.append(Sweep(folder.real, None, label, restore, deep=False))
        self.found.resources.append(PlannedResource(resource, folder.path, label, restore))

    def _restore_of_new(self, resource: Resource, folder: FileFacts) -> Context:
        """Return the label that the folder would have if the caller had made it; note where none can be made."""
        selinux = self.facts.selinux
        assert selinux.contexts is not None  # noqa: S101 - the caller looked
        restored = selinux.contexts.restored()
        own, parent = selinux.own, folder.folder_label
        if own is None or parent is None:
            return restored
        if self.policy.denied(own, parent, "dir", ("search", "write", "add_name")):
            self.found.denials.append(
                f"{folder.path} ({resource.source}): the launcher may not create folders in a folder of type "
                f"{parent.type}{HINT}choose another, for example one labelled virt_image_t"
            )
        wanted = self.policy.created(selinux.caller or own, parent, "dir")
        return restored if self.policy.denied(own, wanted, "dir", ("relabelto",)) else wanted
