"""What happens to each file of a VM: the label it gets, the label it ends with, or why it may not be used. Pure."""

from __future__ import annotations

from confined_qemu.model import hostpaths, labelrules
from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.facts import FileFacts, FileKind, Holder, believed
from confined_qemu.model.labelrules import End
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace
from confined_qemu.model.plan import Outcome
from confined_qemu.model.policy import denied
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.model.steps import Create, Relabel
from confined_qemu.plan import fixedlabels, openings, places, svirt
from confined_qemu.plan.openings import named, unusable, writes
from confined_qemu.plan.svirt import Levels, Lowered

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.policy import Policy

_STRENGTH = (Sharing.UNLABELLED, Sharing.CONTENT, Sharing.PRIVATE, Sharing.SHARED)
_NAME_FILES = f"{HINT}name the files in it: what is missing is made for the VM"
_IN_TREES = frozenset({FileKind.REGULAR, FileKind.DIRECTORY})


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file, and the resource that asks most of it."""

    resource: Resource
    found: FileFacts

    @property
    def key(self) -> object:
        """Return what tells the file from others, whatever it is called."""
        return self.found.identity or self.found.real


def wanted(resource: Resource, found: FileFacts) -> Wanted:
    """Return a use of a file as it turned out to be."""
    return Wanted(hostpaths.settled(resource, found.real, found.kind), found)


def merge(first: Wanted | None, second: Wanted) -> Wanted:
    """Return the stronger of two uses of one file in one VM: shared over private over content over unlabelled."""
    if first is None:
        return second
    return max(first, second, key=lambda wanted: (_STRENGTH.index(wanted.resource.sharing), writes(wanted.resource)))


def clash(first: Wanted | None, second: Wanted) -> str | None:
    """Return why one VM cannot use a file in both ways, None where it can: what it writes, no image builds on."""
    if first is None or not (writes(first.resource) or writes(second.resource)):
        return None
    layer, other = (second, first) if second.resource.named_by is not None else (first, second)
    if layer.resource.named_by is None:
        return None  # QEMU's own locks tell
    return (
        f"{layer.found.path} ({layer.resource.source}): an image of this VM is built on it, so the VM may not write it "
        f"as {other.resource.source}{HINT}give each its own file"
    )


@dataclass(frozen=True)
class FilePlanner:
    """Decides about files, one at a time, for a VM that runs as `process`."""

    invocation: Invocation
    facts: Facts
    policy: Policy
    process: Context

    @property
    def _levels(self) -> Levels:
        return Levels(self.facts.selinux, self.invocation.seclabel, self.process)

    def decide(self, wanted: Wanted) -> Outcome:
        """Return what happens to this file."""
        resource, found = wanted.resource, wanted.found
        without = resource.optional and found.kind is FileKind.MISSING
        problem = None if without else unusable(resource, found, self.facts)
        if problem is not None:
            return _refused(wanted, problem)
        if found.kind is FileKind.MISSING:
            return self._missing(wanted)
        if resource.sharing is Sharing.UNLABELLED:
            return self._left_alone(wanted)
        if found.kind not in labelrules.kinds(resource.role, resource.access, hostpaths.place(found.real)):
            instead = _NAME_FILES if resource.role is Role.EXTRA and found.kind is FileKind.DIRECTORY else ""
            return _refused(wanted, f"a {openings.word(found.kind)} cannot be used as {resource.role}{instead}")
        relabel = self.invocation.seclabel.relabel if resource.relabel is None else resource.relabel
        if not relabel and resource.label is None:
            return self._kept(wanted)
        return self._labelled(wanted)

    # ---- files that are not there

    def _missing(self, wanted: Wanted) -> Outcome:
        resource, found = wanted.resource, wanted.found
        contexts = self.facts.selinux.contexts
        if not resource.made_if_missing or contexts is None:
            if resource.sharing is Sharing.UNLABELLED and resource.access in (Access.CONNECT, Access.LISTEN):
                return Outcome()  # QEMU's own message about a socket is the better one
            if hostpaths.may_be_missing(resource):
                return Outcome()
            return _refused(wanted, f"no such file{named(resource)}")
        label = resource.label or svirt.file_context(contexts, self.process, resource.sharing)
        if label is None:
            return Outcome()
        if fixedlabels.fixed(found):
            return self._as_judged(wanted, label)  # QEMU makes it itself: no label can be set
        restore = contexts.restored()
        caller = self.facts.selinux.caller
        if caller is not None and found.folder_label is not None:
            restore = self.policy.created(caller, found.folder_label, "file")
            if self._denied_to_launcher(restore, FileKind.REGULAR, "relabelto"):
                restore = contexts.restored()
        restore = self._levels.kept(restore, label)
        rule = hostpaths.rule(resource)
        end = rule.end if rule is not None else End.BACK
        mode = hostpaths.MODES.get(resource.role, 0o666)
        step = Create(found.path, label, restore, end is End.REMOVED, end is End.BACK_OR_REMOVED, mode)
        denials: tuple[str, ...] = ()
        folder = found.folder_label
        if folder is not None and self._denied_in_folder(folder):
            denials = (
                f"{found.path} ({resource.source}): the launcher may not create files in a folder of type "
                f"{folder.type}{HINT}choose another folder, for example one labelled virt_image_t",
            )
        return Outcome(label, None if step.remove else restore, steps=(step,), denials=denials)

    # ---- files that keep their label

    def _kept(self, wanted: Wanted) -> Outcome:
        """An image that keeps its label on request (relabel: no): noted, so that nobody relabels it meanwhile.

        Whether two VMs that both keep it may use it at once is QEMU's own locks' business.
        """
        outcome, found, sharing = self._left_alone(wanted), wanted.found, wanted.resource.sharing
        if found.identity is None or found.label is None:
            return outcome
        holders = believed(self.facts.holders.get(found.identity, ()), found.label)
        busy = tuple(_in_use(wanted, holder) for holder in holders if holder.exclusive)
        if busy:
            return Outcome(refusals=busy)
        # a file that another VM labelled for reading ends with the last of its readers
        end = next((holder.original for holder in holders if holder.original is not None), None)
        step = Relabel(
            found.real, found.identity, found.kind, found.links, found.label, found.label,
            end if sharing is Sharing.CONTENT else None, exclusive=False,
        )  # fmt: skip
        return replace(outcome, steps=(step,))

    def _left_alone(self, wanted: Wanted) -> Outcome:
        resource, found = wanted.resource, wanted.found
        if found.label is None:
            return Outcome()
        if resource.role is Role.MEMORY and found.kind is FileKind.DIRECTORY:
            closed = openings.memory_folder(found.path, found.label, self.process, self.policy)
            return Outcome() if closed is None else Outcome(denials=(f"{found.path} ({resource.source}): {closed}",))
        needs = openings.needs(resource, opened=openings.by_qemu(resource, self.invocation, self.facts))
        missing = self.policy.denied(self.process, found.label, found.kind, needs)
        if not missing:
            return Outcome()
        denied = (
            f"{found.path} ({resource.source}): {self.process} may not {' and '.join(missing)} "
            f"what is labelled {found.label}"
        )
        mend = f"{HINT}{self._mend_label(wanted)}"
        return (
            Outcome(warnings=(f"{denied}, and QEMU goes on without it{mend}",))
            if resource.optional
            else Outcome(denials=(f"{denied}{mend}",))
        )

    def _mend_label(self, wanted: Wanted) -> str:
        if (opens := openings.to_vms(wanted.found.label, self.policy)) is not None:
            return opens
        contexts, found = self.facts.selinux.contexts, wanted.found
        mount = found.mount if fixedlabels.fixed(found) else None
        if mount is not None and found.kind in _IN_TREES and contexts is not None and found.label is not None:
            label = contexts.content if wanted.resource.access is Access.READ else contexts.image
            return fixedlabels.mend(mount, found.label, label, self.policy)
        if wanted.resource.named_by is not None:  # nobody is told to open what only an image asks for
            return named(wanted.resource).removeprefix(": ")
        if wanted.found.kind in (FileKind.CHARACTER, FileKind.DIRECTORY, FileKind.SOCKET):
            return f"this {openings.word(wanted.found.kind)} is not relabelled for a VM"
        if contexts is None:
            return "use another file"
        label = svirt.label_by_hand(contexts, self.process, wanted.resource.sharing, self.invocation.seclabel)
        path = shell_word(wanted.found.real)
        chcon = f"chcon -t {label.type} {path} && chcon -l {label.range} {path}"
        return f"it needs {label.type}:{label.range}{HINT}{self._levels.mend(wanted.found.label, path, chcon)}"

    # ---- files that get one

    def _labelled(self, wanted: Wanted) -> Outcome:
        resource, found = wanted.resource, wanted.found
        contexts = self.facts.selinux.contexts
        label = resource.label
        if contexts is not None and label is None:
            label = svirt.file_context(contexts, self.process, resource.sharing)
        if contexts is None or label is None:
            return Outcome()
        if resource.label is None:
            label = self._levels.given(resource.sharing, label, found.label)
        elif not self.policy.is_valid(label):
            return _refused(wanted, f"its seclabel.label is not a context of the loaded policy: {label}")
        shared = resource.sharing is Sharing.SHARED
        restore = None if shared else self._levels.ended(contexts, found.label, found.default)
        if found.identity is None or found.label is None:
            return self._unlabelled(wanted, label, restore)
        if fixedlabels.fixed(found):
            return self._fixed(wanted, label)
        known = (
            holder for key in (found.identity, *found.devices) for holder in self.facts.holders.get(key, ())
        )  # fmt: skip
        holders = believed(tuple(dict.fromkeys(known)), found.label)
        refusals = self._conflicts(wanted, holders)
        if resource.sharing is Sharing.CONTENT and not refusals:
            # what another user's VM labelled, that user's journal puts back
            ours = any(holder.claimed is None for holder in holders)
            lent = contexts.is_a_vms(found.label) or (ours and contexts.is_given(found.label))
            if not lent and self._readable(found.label, found.kind, openings.needs(resource)):
                # kept, and held: who wants it for itself meanwhile is told whose it is
                kept = Relabel(
                    found.real, found.identity, found.kind, found.links, found.label, found.label, found.label,
                    exclusive=False,
                )  # fmt: skip
                return Outcome(steps=(kept,))
            original = next((holder.original for holder in holders if holder.original is not None), None)
            restore = original or restore
        if found.in_use and not holders and not refusals and label != found.label:
            # libvirt's VM that reads it: its label has no pair that would name the VM
            refusals = [f"{found.path} ({resource.source}): locked by another QEMU{HINT}stop that first"]
        step = Relabel(
            found.real, found.identity, found.kind, found.links, found.label, label, restore,
            exclusive=resource.sharing is Sharing.PRIVATE,
        )  # fmt: skip
        obstacles = tuple(self._obstacles(wanted, label, restore))
        lowered = self._lowered(wanted, label, restore) if not obstacles else Lowered()
        refusals += lowered.refusals
        return Outcome(
            label, restore, (), (step,), refusals=tuple(refusals), denials=obstacles, warnings=lowered.warnings
        )

    def _lowered(self, wanted: Wanted, label: Context, restore: Context | None) -> Lowered:
        if not writes(wanted.resource):
            return Lowered()
        place = f"{wanted.found.path} ({wanted.resource.source})"
        return self._levels.lowered(label, restore, wanted.found, place, self.policy)

    def _fixed(self, wanted: Wanted, label: Context) -> Outcome:
        """A file that keeps its label, as its file system takes none; it is journalled, so that it has one holder."""
        found, exclusive = wanted.found, wanted.resource.sharing is Sharing.PRIVATE
        outcome = self._as_judged(wanted, label)
        if found.identity is None or found.label is None or outcome.refusals:
            return outcome
        hold = Relabel(
            found.real, found.identity, found.kind, found.links, found.label, found.label, None, exclusive=exclusive
        )
        conflicts = self._conflicts(wanted, believed(self.facts.holders.get(found.identity, ()), found.label))
        denials = outcome.denials or tuple(self._modes(wanted))
        return replace(outcome, steps=(hold,), refusals=tuple(conflicts), denials=denials)

    def _as_judged(self, wanted: Wanted, label: Context) -> Outcome:
        return fixedlabels.judge(wanted.resource, wanted.found, label, self.process, self.policy)

    def _unlabelled(self, wanted: Wanted, label: Context, restore: Context | None) -> Outcome:
        """A file whose label could not be read: where it lies on another host, that is all there is to say."""
        if self.facts.elsewhere:
            return Outcome(label, restore)
        return _refused(wanted, f"its file system has no SELinux labels{HINT}move it to one that does")

    def _readable(self, label: Context, kind: FileKind, needs: tuple[str, ...]) -> bool:
        """Tell whether any VM may read what has this label: then it is left alone."""
        reader = self._levels.reader()
        return not self.policy.denied(reader, label, kind, needs)

    def _conflicts(self, wanted: Wanted, holders: tuple[Holder, ...]) -> list[str]:
        mine_exclusive = wanted.resource.sharing is Sharing.PRIVATE
        lines = [_in_use(wanted, holder) for holder in holders if mine_exclusive or holder.exclusive]
        level = wanted.found.label.range.low if wanted.found.label is not None and wanted.found.label.range else None
        if lines or level is None or not level.categories:
            return lines
        if self.process.range is not None and self.process.range.low == level:
            return []  # a static VM's own level, as it was left after the last time
        return [
            f"{wanted.found.path} ({wanted.resource.source}): labelled for the running process {process.pid} "
            f"({process.context}){HINT}stop it first"
            for process in self.facts.selinux.live
            if process.context.range is not None and process.context.range.low == level
        ][:1]

    def _obstacles(self, wanted: Wanted, label: Context, restore: Context | None) -> list[str]:
        """Say why the launcher could not label the file, or QEMU not use it; the first reason is the one to mend."""
        found, resource = wanted.found, wanted.resource
        place = f"{found.path} ({resource.source})"
        if found.links > 1 and found.kind is not FileKind.DIRECTORY:
            return [f"{place}: it has {found.links} hard links, which would all get the label{HINT}use a copy of it"]
        unlabelable = self._unlabelable(found, label, restore)
        if unlabelable is not None and resource.named_by is not None:
            return [f"{place}: the launcher may not relabel it ({found.label}){named(resource)}"]
        if unlabelable is not None:
            return [f"{place}: {unlabelable}"]
        missing = self.policy.denied(self.process, label, found.kind, openings.needs(resource))
        if missing:
            what = f"what is labelled {label}{self._levels.advice(resource.sharing)}"
            return [f"{place}: {self.process} may not {' and '.join(missing)} {what}"]
        return self._modes(wanted)

    def _unlabelable(self, found: FileFacts, label: Context, restore: Context | None) -> str | None:
        """Return why the launcher may not give the file these labels, None when it may."""
        if found.label == label:
            return None
        if found.label is not None and self._denied_to_launcher(found.label, found.kind, "relabelfrom"):
            below = self._levels.below(found.label, found.real)
            mend = places.mend(found.real, found.label.type)
            return (
                below
                or openings.to_launcher(found, found.label, self.policy)
                or f"the launcher may not relabel files of type {found.label.type}{HINT}{mend}"
            )
        for target in (label, restore):
            if target not in (None, found.label) and self._denied_to_launcher(target, found.kind, "relabelto"):
                return f"the launcher may not give it the label {target}"
        if self.facts.uid not in (0, found.owner):
            return f"it belongs to uid {found.owner}, and only its owner or root may relabel it"
        return None

    def _modes(self, wanted: Wanted) -> list[str]:
        """Root has no dac_override in a VM's domain: owner and mode decide for it too."""
        found, resource = wanted.found, wanted.resource
        if self.facts.uid != 0 or self.invocation.user is not None or found.owner == 0:
            return []
        if found.open_to_group(0, writes=writes(resource)):
            return []
        return [
            f"{found.path} ({resource.source}): it belongs to uid {found.owner} with mode "
            f"{found.mode & 0o777:04o}, and {self.process.type} has no capability to override that"
            f"{HINT}run QEMU as that user (user: in the spec), or chown it"
        ]

    def _denied_to_launcher(self, target: Context | None, kind: FileKind, permission: str) -> bool:
        return bool(denied(self.policy, self.facts.selinux.own, target, kind, permission))

    def _denied_in_folder(self, folder: Context) -> bool:
        return bool(denied(self.policy, self.facts.selinux.own, folder, "dir", "search", "write", "add_name"))


def _refused(wanted: Wanted, problem: str) -> Outcome:
    return Outcome(refusals=(f"{wanted.found.path} ({wanted.resource.source}): {problem}",))


def _in_use(wanted: Wanted, holder: Holder) -> str:
    mend = "share the image: shareable: true in both"
    if wanted.resource.role is Role.EXTRA:
        mend = "let both only read it"
    if wanted.resource.named_by is not None:
        mend = "build this image on a file that no VM writes"
    return (
        f"{wanted.found.path} ({wanted.resource.source}): in use by the VM {holder.name} (pid {holder.pid})"
        f"{HINT}stop it first, or {mend}"
    )
