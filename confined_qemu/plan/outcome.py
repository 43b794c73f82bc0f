"""What comes of a file, a socket, a descriptor or a helper: the one shape in which every planner answers. Pure."""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.frozen import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.model.context import Context
    from confined_qemu.model.plan import PlannedResource
    from confined_qemu.model.steps import Step


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes of one thing that a VM uses.

    `context` is the label that a file gets and `restore` the one that it ends with; None where it keeps its own.
    `denials` are refusals that a permissive kernel would let pass.
    """

    context: Context | None = None
    restore: Context | None = None
    first: tuple[Step, ...] = ()
    """Done before all other steps, and so undone after them."""
    steps: tuple[Step, ...] = ()
    last: tuple[Step, ...] = ()
    """Done after all other steps: trees, once every file with a label of its own has it, and helpers."""
    resources: tuple[PlannedResource, ...] = ()
    arguments: Mapping[int, str] = field(default_factory=dict)
    """What QEMU's arguments become, by their index."""
    refusals: tuple[str, ...] = ()
    denials: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class Collected:
    """Outcomes of several things, put together one by one."""

    first: list[Step] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    last: list[Step] = field(default_factory=list)
    resources: list[PlannedResource] = field(default_factory=list)
    arguments: dict[int, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    denials: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def take(self, outcome: Outcome) -> None:
        """Add what comes of one more thing; its labels are its own."""
        self.first.extend(outcome.first)
        self.steps.extend(outcome.steps)
        self.last.extend(outcome.last)
        self.resources.extend(outcome.resources)
        self.arguments.update(outcome.arguments)
        self.refusals.extend(outcome.refusals)
        self.denials.extend(outcome.denials)
        self.warnings.extend(outcome.warnings)

    def outcome(self) -> Outcome:
        """Return them as one."""
        return Outcome(
            first=tuple(self.first),
            steps=tuple(self.steps),
            last=tuple(self.last),
            resources=tuple(self.resources),
            arguments=self.arguments,
            refusals=tuple(self.refusals),
            denials=tuple(self.denials),
            warnings=tuple(self.warnings),
        )
