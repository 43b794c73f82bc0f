"""What a VM's process gives up before it becomes QEMU, beside what SELinux or Landlock takes from it. Pure."""

from __future__ import annotations

from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True, slots=True)
class HardeningFacts:
    """What a VM's process can give up.

    `capabilities` are those of the launcher, by name, `overridden` the resources' paths that are opened only by who may
    override owner and mode.
    """

    capabilities: frozenset[str] = frozenset()
    overridden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hardening:
    """`capabilities` are those that are kept, None where all are.

    `core`: QEMU may leave a core file as large as the caller's limit allows.
    """

    capabilities: frozenset[str] | None
    core: bool
    why: tuple[str, ...] = ()
    """For each capability that is kept, what needs it."""
    privileges: str | None = None
    """Why a program that QEMU runs may bring it new privileges; None where none may (no_new_privs)."""

    def describe(self) -> list[str]:
        """Return it as lines of the plan."""
        kept = "all capabilities of the caller"
        if self.capabilities is not None:
            kept = f"capabilities {' '.join(sorted(self.capabilities))}" if self.capabilities else "no capabilities"
        reasons = f" ({'; '.join(self.why)})" if self.why else ""
        gained = "no new privileges" if self.privileges is None else f"new privileges ({self.privileges})"
        return [f"harden   {gained}, {kept}{reasons}{'' if self.core else ', no core file'}"]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `plan --json` prints."""
        kept = sorted(self.capabilities) if self.capabilities is not None else None
        return {"no_new_privs": self.privileges is None, "capabilities": kept, "core": self.core}
