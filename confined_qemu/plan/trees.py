"""Whether a shared folder and all that is in it is labelled for a VM, and what a VM sees of one that is not. Pure.

A tree is labelled where the user says so (`relabel: yes`, `CONFINED_QEMU_LABEL_TREES`), and never a system's folder, a
home, or the root of a mount.
"""

from __future__ import annotations

from confined_qemu.model import hostpaths
from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.facts import FileFacts, FileKind, FolderFacts, believed
from confined_qemu.model.lean import TYPE_CHECKING, dataclass
from confined_qemu.model.plan import Outcome
from confined_qemu.model.policy import denied
from confined_qemu.model.resource import Sharing
from confined_qemu.model.steps import LabelTree
from confined_qemu.plan import places, svirt

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts, Holder
    from confined_qemu.model.policy import Policy

_SYSTEM = (
    *hostpaths.SYSTEM_TREES,
    *("/var/lib/confined-qemu", "/var/lib/selinux", "/var/log", "/var/mail", "/var/spool"),
)
"""What belongs to the system, with all that is in it."""
_MANY = hostpaths.CROWDED | {
    *("/tmp", "/var/cache", "/var/lib/libvirt", "/var/lib/libvirt/images", "/var/tmp"),  # noqa: S108 - named only
}
"""Folders of many things; one in them may be labelled."""
_PROGRAMS = frozenset({"/var/lib", "/var/cache"})
"""Where each program has a folder."""
_KEPT = frozenset({FileKind.FIFO, FileKind.SOCKET, FileKind.BLOCK, FileKind.CHARACTER})
READS = {
    FileKind.DIRECTORY: ("getattr", "open", "read", "search"),
    FileKind.REGULAR: ("getattr", "open", "read"),
    FileKind.SYMLINK: ("getattr", "read"),
}
WRITES = {
    FileKind.DIRECTORY: ("write", "add_name", "remove_name"),
    FileKind.REGULAR: ("write",),
}


def never(path: str, found: FolderFacts | None = None) -> str | None:
    """Return why the tree at `path`, absolute and without links, is never labelled; None where it may be."""
    parent, _, _ = path.rpartition("/")
    homes = found.homes if found is not None else ()
    reasons = (
        (any(path == folder or path.startswith(f"{folder}/") for folder in _SYSTEM), "it is a part of the system"),
        (path == "/", "it is the host's root folder"),
        (path in homes or parent == "/home" or path == "/root", "it is a home"),
        (path in _MANY, "it is a folder of many things"),
        (parent in _PROGRAMS, "it belongs to a program"),
        (bool(homes), f"a home lies in it ({homes[0] if homes else ''})"),
        (found is not None and found.mount, "it is the root of a mount"),
    )
    return next((reason for holds, reason in reasons if holds), None)


@dataclass(frozen=True)
class TreePlanner:
    """Decides about one folder that `who` (QEMU or a helper) shares for the VM `process`."""

    facts: Facts
    policy: Policy
    process: Context
    who: Context

    def label(self, found: FolderFacts, place: str, number: int, *, readonly: bool) -> Outcome | None:
        """Return how the tree is labelled, as the user said; None where it is left alone, being readable."""
        folder, contexts = found.folder, self.facts.selinux.contexts
        why = never(folder.real, found)
        if why is not None:
            hint = root_hint() if folder.real == "/" else "share a folder that was made for it"
            return Outcome(refusals=(f"{place}: {why}, so it is never labelled{HINT}{hint}",))
        sharing = Sharing.CONTENT if readonly else Sharing.PRIVATE
        given = svirt.file_context(contexts, self.process, sharing) if contexts is not None else None
        if given is None or folder.identity is None or (readonly and folder.label != given and self._open(found)):
            return None
        if folder.label is None:
            unlabelled = f"{place}: its file system has no SELinux labels{HINT}share a folder on another"
            return Outcome(given, refusals=() if self.facts.elsewhere else (unlabelled,))
        refusal = self._bound(found) or self._in_use(found, readonly=readonly)
        denial = self._unlabelable(found, given) if refusal is None else None
        count = sum(found.counts) + 1
        step = LabelTree(folder.real, folder.identity, folder.label, given, not readonly, number, count)
        return Outcome(
            given,
            folder.label,
            last=(step,),
            refusals=(f"{place}: {refusal}",) if refusal is not None else (),
            denials=(f"{place}: {denial}",) if denial is not None else (),
            warnings=tuple(f"{place}: {line}" for line in _kept(found)),
        )

    def _open(self, found: FolderFacts) -> bool:
        """Tell whether all of it may be read as it is."""
        whole = not found.more and found.closed is None and found.folder.label is not None
        return whole and not any(self.missing(entry, readonly=True) for entry in (found.folder, *found.entries))

    def _bound(self, found: FolderFacts) -> str | None:
        if found.more:
            return f"more than {sum(found.counts):,} entries, the most that are labelled{HINT}share a smaller folder"
        if found.closed is not None:
            return f"part of it cannot be read ({found.closed})"
        return None

    def _in_use(self, found: FolderFacts, *, readonly: bool) -> str | None:
        """Return which other VM has the tree, a part of it, or one that it lies in."""
        contexts, holders = self.facts.selinux.contexts, self.facts.holders
        same = holders.get(found.folder.identity, ()) if found.folder.identity is not None else ()
        for holder in believed(same, found.folder.label):
            if holder.exclusive or not readonly:
                return _busy("it is", holder)
        for identity in found.above:
            for holder in believed(holders.get(identity, ()), None):
                return _busy("a folder that it lies in is", holder)
        for entry in (found.folder, *found.entries):
            inside = believed(holders.get(entry.identity, ()), entry.label) if entry.identity is not None else ()
            if entry is not found.folder and inside:
                return _busy(f"{entry.path} is", inside[0])
            if entry.label is not None and contexts is not None and contexts.is_a_vms(entry.label):
                live = next((p for p in self.facts.selinux.live if p.context.range == entry.label.range), None)
                if live is None:
                    return f"{entry.path} still has the label of a VM that ended{HINT}run: restorecon -RF {entry.path}"
                return f"{entry.path} is labelled for the process {live.pid} ({live.context}){HINT}stop it first"
        return None

    def _unlabelable(self, found: FolderFacts, given: Context) -> str | None:
        """Return why the launcher may not label something in the tree, or the VM would not get at it then."""
        own = self.facts.selinux.own
        for entry in (found.folder, *found.entries):
            if entry.label is None or _keeps(entry) or entry.label == given:
                continue
            if any(denied(self.policy, own, to, entry.kind, "relabelfrom", "relabelto") for to in (entry.label, given)):
                mend = places.mend(f"{found.folder.real}/x", found.folder.label.type if found.folder.label else "")
                what = f"{entry.path} ({entry.label}) to {given} and back"
                return f"the launcher may not relabel {what}{HINT}{mend}"
            if self.facts.uid not in (0, entry.owner):
                return f"{entry.path} belongs to uid {entry.owner}, and only its owner or root may relabel it"
            missing = self.policy.denied(self.who, given, entry.kind, READS.get(entry.kind, ()))
            if missing:
                return f"{self.who} may not {' and '.join(missing)} what is labelled {given}"
        return None

    # ---- folders that keep their labels

    def seen(self, found: FolderFacts, place: str, *, readonly: bool) -> str | None:
        """Return a line about what of the folder the VM will not get, None where nothing is known to be missing."""
        if found.closed == found.folder.real:
            return f"{place}: it keeps its labels; the launcher may not read it, so what the VM can read is unknown"
        reads = writes = total = 0
        first: FileFacts | None = None
        for entry, count in zip(found.entries, found.counts, strict=False):
            total += count
            if self.missing(entry, readonly=True):
                first = first or entry
                continue
            reads += count
            if readonly or not self.missing(entry, readonly=False):
                writes += count
            else:
                first = first or entry
        if first is None:
            return None
        of = f"the first {total:,} entries" if found.more else f"{total:,} entries"
        may = f"read {reads:,}" if readonly else f"read {reads:,} and write {writes:,}"
        return (
            f"{place}: it keeps its labels: of {of} the VM may {may}; "
            f"the first that it may not is {first.path}, labelled {first.label}"
        )

    def missing(self, entry: FileFacts, *, readonly: bool) -> tuple[str, ...]:
        """Return what the policy denies on an entry."""
        needs = READS.get(entry.kind, ())
        if not readonly:
            needs += WRITES.get(entry.kind, ())
        return denied(self.policy, self.who, entry.label, entry.kind, *needs)


def _keeps(entry: FileFacts) -> bool:
    return entry.kind in _KEPT or (entry.links > 1 and entry.kind is not FileKind.DIRECTORY)


def _kept(found: FolderFacts) -> tuple[str, ...]:
    """Say what in the tree keeps its label."""
    linked = [
        (entry, count)
        for entry, count in zip(found.entries, found.counts, strict=False)
        if entry.links > 1 and entry.kind is not FileKind.DIRECTORY
    ]
    if not linked:
        return ()
    count = sum(count for _, count in linked)
    keep = "file has other names (hard links) and keeps its label" if count == 1 else (
        "files have other names (hard links) and keep their labels"
    )  # fmt: skip
    return (f"{count:,} {keep}, first {linked[0][0].path}{HINT}copy what the VM shall have",)


def _busy(what: str, holder: Holder) -> str:
    return f"{what} in use by the VM {holder.name} (pid {holder.pid}){HINT}stop it first"


def root_hint() -> str:
    """Return how a VM gets the host's root all the same."""
    return (
        "with readonly=on it is shared as it is, and the VM reads what SELinux lets it"
        f"{HINT}for all of it, or to write, share a view of it that has one label "
        "(confined-qemu help shares: mount -t overlay -o context=…)"
    )


def ways(folder: FileFacts, label: Context, *, spec: bool) -> str:
    """Return how a folder is shared of which a VM may have nothing."""
    if never(folder.real) is not None:
        return f"a system's folder or a home keeps its labels{HINT}share a folder of its own"
    path = shell_word(folder.real)
    ask = "say relabel: yes" if spec else f"set CONFINED_QEMU_LABEL_TREES={path}"
    command = f"chcon -R -t {label.type} -l {label.range} {path}"
    return f"to have it labelled for this VM {ask}{HINT}for every VM and for good, run: {command}"
