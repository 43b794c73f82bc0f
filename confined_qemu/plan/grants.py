"""What happens to a file that a running VM is given: the launch's own rules, and what the VM has already. Pure."""

from __future__ import annotations

from confined_qemu.model.errors import HINT, message, shell_word
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace
from confined_qemu.model.steps import Create, JournalStep, LabelTree, Relabel
from confined_qemu.plan import openings
from confined_qemu.plan.planner import plan_files

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts, FileFacts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.policy import Policy
    from confined_qemu.model.resource import Resource


@dataclass(frozen=True, slots=True)
class Running:
    """A VM that runs as `process`: what was done for it at its start, and what was given to it since."""

    name: str
    process: Context
    launched: tuple[JournalStep, ...]
    granted: tuple[JournalStep, ...]


def plan(invocation: Invocation, facts: Facts, running: Running, policy: Policy) -> Plan:
    """Return the plan for the files of `invocation`; what the VM may use as it is gets no step.

    The VM's own hold on a file is not among the facts' `holders`.
    """
    wanted, refusals = [], []
    for resource in invocation.resources:
        found = facts.files[resource.path]
        if _label_given(found, (*running.launched, *running.granted)) is None:
            wanted.append(resource)
        elif policy.denied(running.process, found.label or running.process, found.kind, openings.needs(resource)):
            refusals.append(message(_read_only(resource, found, running)))
    made = plan_files(replace(invocation, resources=tuple(wanted)), facts, policy, running.process)
    return replace(made, refusals=(*refusals, *made.refusals))


def _label_given(found: FileFacts, steps: tuple[JournalStep, ...]) -> Context | None:
    """Return the label that the file got for this VM and still has; None also where it was changed since."""
    for step in steps:
        if isinstance(step, Relabel) and found.identity is not None and step.identity.same(found.identity):
            given = step.after
        elif isinstance(step, Create) and step.path in (found.path, found.real):
            given = step.context
        elif isinstance(step, LabelTree) and found.real.startswith(f"{step.path}/"):
            given = step.given
        else:
            continue
        if given == found.label:
            return given
    return None


def _read_only(resource: Resource, found: FileFacts, running: Running) -> str:
    place = f"{found.path} ({resource.source})"
    line = f"{place}: the VM {running.name} already has it for reading only, labelled {found.label}"
    if _label_given(found, running.granted) is None:
        return f"{line}, since its start: what it reads must not change under the guest{HINT}stop the VM first"
    path = shell_word(found.real)
    name = shell_word(running.name)
    return f"{line}{HINT}run: confined-qemu revoke {name} {path} && confined-qemu allow {name} {path}"
