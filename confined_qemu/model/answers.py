"""Why the loaded policy denies something, as values."""

from __future__ import annotations

from confined_qemu.model.lean import Enum, dataclass


class Reason(Enum):
    """Why the loaded policy denies something, in audit2why(8)'s distinctions."""

    ALLOWED = "allowed"
    """It does not, now."""
    TYPES = "types"
    """No rule allows it."""
    NO_RULE_NOW = "no rule now"
    """No rule that is on allows it; whether one does that a boolean has switched off, could not be had."""
    BOOLEANS = "booleans"
    """Rules allow it that a boolean has switched off."""
    CONSTRAINT = "constraint"
    """Rules allow it, and a constraint on levels, roles or users forbids it."""
    ROLES = "roles"
    BOUNDS = "bounds"
    """The type is bounded by another that may not do it."""
    SILENT = "silent"
    """No rule allows it, and one keeps it out of the log (dontaudit)."""
    UNKNOWN = "unknown"
    """The policy does not know a type, class or permission of the question."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A boolean of the policy, and the value that it would have to have."""

    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the loaded policy says about a denial; with BOOLEANS each of `booleans` alone would be enough."""

    reason: Reason
    booleans: tuple[Setting, ...] = ()
