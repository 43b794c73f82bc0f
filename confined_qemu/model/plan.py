"""The plan: what will be run, in which context, and every step before and after; it can print itself.

Below it what planners make it of: an Outcome for each file, socket, descriptor or helper, put together as they come.
"""

from __future__ import annotations

from confined_qemu.model.errors import printable
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from confined_qemu.model.context import Context
    from confined_qemu.model.hardening import Hardening
    from confined_qemu.model.mcs import Pair
    from confined_qemu.model.resource import Resource
    from confined_qemu.model.ruleset import Ruleset
    from confined_qemu.model.steps import Step

SCHEMA = 1
"""The version of the JSON object; raised when a key changes its meaning."""


@dataclass(frozen=True, slots=True)
class AccelChoice:
    """The accelerator that QEMU will use and why; `tcg` tells whether it may generate code (TCG)."""

    chosen: str
    why: str
    tcg: bool


@dataclass(frozen=True, slots=True)
class PlannedResource:
    """A resource with its absolute path and the labels it gets; None where the file is left alone."""

    resource: Resource
    path: str
    context: Context | None
    restore: Context | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Frozen: `run` executes exactly this. A plan with refusals is never executed.

    `arguments` are the emulator's, without itself; a descriptor opened at launch shows as `fd={NAME}`. `given` are the
    caller's own, None where they are the same.
    `process` is None where nothing confines the VM; `back_to` is then the caller's context, where the launcher has
    left it for its own domain. `live` is the label of the file that tells the VM's processes, where others may run in
    its context too (static labels). `temporary` is the folder that TMPDIR will name.
    """

    name: str
    emulator: str
    arguments: tuple[str, ...]
    accel: AccelChoice
    confinement: str
    process: Context | None
    pair: Pair | None
    given: tuple[str, ...] | None = None
    back_to: Context | None = None
    live: Context | None = None
    resources: tuple[PlannedResource, ...] = ()
    steps: tuple[Step, ...] = ()
    landlock: Ruleset | None = None
    hardening: Hardening | None = None
    temporary: str | None = None
    user: str | None = None
    daemonize: bool = False
    warnings: tuple[str, ...] = ()
    """Messages: a line, and beneath it a line for each hint."""
    refusals: tuple[str, ...] = ()
    """Messages likewise."""

    def describe(self) -> str:
        """Return the plan as text for a person, a line for each step."""
        import shlex

        lines = [
            f"name     {self.name}",
            f"accel    {self.accel.chosen}: {self.accel.why}",
            f"process  {self.held_by}",
            *(self.landlock.describe() if self.landlock is not None else []),
            *(self.hardening.describe() if self.hardening is not None else []),
            *(step.describe() for step in self.steps),
            *([f"given    {shlex.join((self.emulator, *self.given))}"] if self.given is not None else []),
            f"exec     {shlex.join((self.emulator, *self.arguments))}",
        ]
        said = (
            *(f"warning  {warning}" for warning in self.warnings),
            *(f"refused  {refusal}" for refusal in self.refusals),
        )
        return "\n".join([*map(printable, lines), *(text.replace("\n", "\n" + " " * 9) for text in said)])

    @property
    def held_by(self) -> str:
        """Return what confines the VM, in words: its context, or Landlock."""
        if self.process is not None:
            return str(self.process)
        return "held by Landlock" if self.landlock is not None else "not confined"

    def to_json(self) -> dict[str, Any]:
        """Return the object that `plan --json` prints."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "emulator": self.emulator,
            "argv": [self.emulator, *self.arguments],
            **({"given": [self.emulator, *self.given]} if self.given is not None else {}),
            "accel": {"chosen": self.accel.chosen, "why": self.accel.why},
            "confinement": self.confinement,
            "process_context": _text(self.process),
            **({"landlock": self.landlock.to_json()} if self.landlock is not None else {}),
            **({"hardening": self.hardening.to_json()} if self.hardening is not None else {}),
            "resources": [
                {
                    "path": planned.path,
                    "role": planned.resource.role,
                    "access": planned.resource.access,
                    "class": planned.resource.sharing,
                    "source": planned.resource.source,
                    "context": _text(planned.context),
                    "restore": _text(planned.restore),
                }
                for planned in self.resources
            ],
            "warnings": list(self.warnings),
            "refusals": list(self.refusals),
        }


def _text(context: Context | None) -> str | None:
    return None if context is None else str(context)


# ---- what it is made of


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
