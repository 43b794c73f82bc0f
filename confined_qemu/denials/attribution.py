"""Whose denials they are: each goes to the VM that ran in that context at that time, equal ones become one. Pure."""

from __future__ import annotations

from confined_qemu.denials.explain import explain
from confined_qemu.denials.verdict import Case, Explanation, Verdict
from confined_qemu.model import policynames
from confined_qemu.model.answers import Reason
from confined_qemu.model.errors import message, printable
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from confined_qemu.denials.avc import Denial
    from confined_qemu.model.answers import Answer
    from confined_qemu.model.context import Context
    from confined_qemu.model.mcs import Range
    from confined_qemu.model.pastvm import GivenFile, PastVm

    Ask = Callable[[Denial], Answer]
    Default = Callable[[str, str], Context | None]


@dataclass(slots=True)
class Line:
    """Equal denials: the latest of them, how often, and what there is to say."""

    denial: Denial
    path: str | None
    explanation: Explanation
    count: int = 0
    first: int = 0
    running: str | None = None
    """The name of its VM, if that may still run: of several runs the latest counts, as for `denial`."""

    @property
    def matters(self) -> bool:
        """Tell whether a VM may have failed of it."""
        return self.explanation.verdict is not Verdict.HARMLESS

    def describe(self) -> str:
        """Return a message: what was denied to whom on what, and beneath it what mends it."""
        denial = self.denial
        times = f" ({self.count} times)" if self.count > 1 else ""
        verb = "would have denied" if denial.permissive else "denied"
        who = printable(denial.comm) if denial.comm is not None else denial.source.type
        what = f"{verb} {{ {' '.join(denial.permissions)} }} to {who} on {self._object()}{times}"
        return message(f"{what}: {self.explanation.describe()}")

    def _object(self) -> str:
        denial = self.denial
        if denial.source == denial.target:
            return f"itself ({denial.kind})"
        target = denial.target
        label = target.type if target.range is None else f"{target.type}:{target.range}"
        name = self.path or denial.path or denial.name
        if name is None and denial.inode is not None:
            name = f"inode {denial.inode}"
        return f"{denial.kind} {printable(name)} ({label})" if name is not None else f"{denial.kind} of {label}"

    def to_json(self) -> dict[str, Any]:
        """Return the object that `denials --json` prints; times in seconds."""
        denial, explanation = self.denial, self.explanation
        return {
            "permissions": list(denial.permissions),
            "comm": denial.comm,
            "source": str(denial.source),
            "target": str(denial.target),
            "class": denial.kind,
            "path": self.path or denial.path or denial.name,
            "permissive": denial.permissive,
            "count": self.count,
            "first": self.first / 1000,
            "last": denial.stamp.time / 1000,
            "verdict": str(explanation.verdict),
            "why": explanation.why,
            "advice": explanation.advice,
            "command": explanation.command,
        }


@dataclass(slots=True)
class VmDenials:
    """The denials of one VM (of its latest run: `vm`), of the launcher, or of a context that no known VM has."""

    title: str
    vm: PastVm | None = None
    lines: dict[tuple[object, ...], Line] = field(default_factory=dict)

    def describe(self) -> list[str]:
        """Return the group as lines, its title first."""
        title = self.title if self.vm is None else f"{self.title} ({self.vm.context})"
        return [f"{printable(title)}:", *("  " + line.describe().replace("\n", "\n  ") for line in self.lines.values())]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `denials --json` prints for this group; a `name` of null is no known VM's."""
        vm = self.vm
        return {
            "name": vm.name if vm is not None else None,
            "context": str(vm.context) if vm is not None else self.title,
            "pid": vm.pid if vm is not None else None,
            "started": vm.start / 1000 if vm is not None else None,
            "ended": vm.end / 1000 if vm is not None and vm.end is not None else None,
            "denials": [line.to_json() for line in self.lines.values()],
        }


class PastVms:
    """The VMs that are known, in the order of their start, found without going through all of them for each denial."""

    def __init__(self, vms: Iterable[PastVm]) -> None:
        """Take them in."""
        self._by_pid: dict[int, list[PastVm]] = {}
        self._by_range: dict[Range | None, list[PastVm]] = {}
        self._by_inode: dict[int, list[GivenFile]] = {}
        self.types: set[str] = set()
        for vm in vms:
            self.types.add(vm.context.type)
            self._by_pid.setdefault(vm.pid, []).append(vm)
            self._by_range.setdefault(vm.context.range, []).append(vm)
            for file in vm.files:
                self._by_inode.setdefault(file.inode, []).append(file)

    def of(self, denial: Denial) -> PastVm | None:
        """Return the VM whose process was denied; of several in one context (static labels) the one with its pid.

        The launcher, before it becomes QEMU, counts as the VM: the pid is the same.
        """
        time = denial.stamp.time
        if denial.source.type in policynames.OWN_DOMAINS:
            mine = self._by_pid.get(denial.pid, ()) if denial.pid is not None else ()
            return next((vm for vm in mine if vm.lived(time)), None)
        # whoever runs as a VM has its range
        same = self._by_range.get(denial.source.range, ())
        found = [vm for vm in same if vm.lived(time) and vm.runs_as(denial.source)]
        return next((vm for vm in found if vm.pid == denial.pid), found[-1] if found else None)

    def at(self, level: Range) -> list[PastVm]:
        """Return those that had this level."""
        return self._by_range.get(level, [])

    def path(self, denial: Denial) -> str | None:
        """Return the whole path of what was denied: the kernel's, or that of a VM's file with the same inode and name.

        Of several VMs with such a file the last one tells.
        """
        if denial.path is not None:
            # the kernel's own words for what has no path: `socket:[7]`, and for what had one
            return denial.path if denial.path.startswith("/") and not denial.path.endswith(" (deleted)") else None
        same = self._by_inode.get(denial.inode, ()) if denial.inode is not None else ()
        return next((file.path for file in reversed(same) if denial.name in (None, file.path.rpartition("/")[2])), None)


@dataclass(frozen=True, slots=True)
class Known:
    """What denials are judged by.

    `domains` are the types that VMs run in: a denial of theirs without a known VM
    is a group of its own. `ask` is the policy, `default` its label for a path and class.
    """

    vms: PastVms
    domains: frozenset[str]
    ask: Ask
    default: Default


def grouped(denials: Iterable[Denial], known: Known) -> list[VmDenials]:
    """Return the denials of VMs and of the launcher, explained: VMs first, in the order of their names."""
    groups: dict[tuple[str, str], VmDenials] = {}
    for denial in denials:
        vm = known.vms.of(denial)
        key, title = _place(denial, vm, known.domains)
        if title is None:
            continue
        group = groups.setdefault(key, VmDenials(title, vm))
        group.vm = vm
        _add(group, denial, known)
    return [groups[key] for key in sorted(groups)]


def _place(denial: Denial, vm: PastVm | None, domains: frozenset[str]) -> tuple[tuple[str, str], str | None]:
    if vm is not None:
        return ("0", vm.name), vm.name
    if denial.source.type in policynames.OWN_DOMAINS:
        return ("2", denial.source.type), f"confined-qemu itself ({denial.source.type})"
    if denial.source.type in domains:
        return ("1", str(denial.source)), f"no VM that is known ({denial.source})"
    return ("", ""), None


def _add(group: VmDenials, denial: Denial, known: Known) -> None:
    path = known.vms.path(denial)
    same: tuple[object, ...] = (
        denial.permissions,
        denial.comm,
        denial.kind,
        # two runs of a VM differ in nothing but their level
        denial.target.type if denial.source.range == denial.target.range else denial.target,
        path or denial.path or denial.name or denial.inode,
        denial.permissive,
    )
    line, running = group.lines.get(same), _running(group.vm)
    if line is None or line.running != running:
        answer, owner = known.ask(denial), _owner(denial, group.vm, known.vms)
        # looked up only where it may matter: reading all file contexts takes time
        by_type = answer.reason in (Reason.TYPES, Reason.NO_RULE_NOW) and owner is None
        label = known.default(path, denial.kind) if by_type and path is not None else None
        case = Case(denial, answer, owner, path, label, _given(group.vm, path), running)
        explanation = explain(case)
        if explanation.verdict is Verdict.HARMLESS:  # on what is of no interest
            same = (denial.permissions, denial.kind, explanation.why)
        line = group.lines.setdefault(same, Line(denial, path, explanation, first=denial.stamp.time))
        line.explanation, line.running = explanation, running
    line.count += 1
    line.denial = denial


def _owner(denial: Denial, vm: PastVm | None, vms: PastVms) -> str | None:
    """Return the name of the other VM that has the target's level: the one of that time, else the last one known."""
    level = denial.target.range
    if level is None or not level.low.categories:
        return None
    found = [other for other in vms.at(level) if vm is None or other.context != vm.context]
    then = [other for other in found if other.lived(denial.stamp.time)]
    return (then or found)[-1].name if found else None


def _given(vm: PastVm | None, path: str | None) -> str | None:
    """Return the label that the VM's own file at `path` got at its start; None for any other."""
    return next((file.label for file in vm.files if file.path == path), None) if vm is not None else None


def _running(vm: PastVm | None) -> str | None:
    return vm.name if vm is not None and vm.end is None else None
