"""The loaded policy as a function: what a plan asks of it, and the answers of a kernel without one."""

from __future__ import annotations

from confined_qemu.model.facts import Boolean
from confined_qemu.model.lean import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confined_qemu.model.context import Context


class Policy(Protocol):
    """The policy's decisions; they depend on nothing but the question. `lsm` is the real one."""

    def denied(self, source: Context, target: Context, kind: str, permissions: Iterable[str]) -> tuple[str, ...]:
        """Return those of `permissions` that it denies `source` on an object of class `kind` labelled `target`."""

    def created(self, source: Context, folder: Context, kind: str) -> Context:
        """Return the label that a new object of class `kind` would get in `folder` from `source`."""

    def boolean(self, name: str) -> Boolean:
        """Return whether a boolean of the policy is on or off, or that the policy has none of this name."""

    def is_valid(self, context: Context) -> bool:
        """Tell whether `context` is a valid one."""

    def is_permissive(self, context: Context) -> bool:
        """Tell whether the type of `context` is permissive: what it is denied is logged, and done."""

    def user_type(self, role: str) -> str | None:
        """Return the type that a person's shell gets in `role`; None for a role that is no person's."""


class _NoPolicy:
    """A kernel without SELinux: it denies nothing and labels nothing."""

    def denied(self, source: Context, target: Context, kind: str, permissions: Iterable[str]) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def created(self, source: Context, folder: Context, kind: str) -> Context:  # noqa: ARG002
        return folder

    def boolean(self, name: str) -> Boolean:  # noqa: ARG002
        return Boolean.ABSENT

    def is_valid(self, context: Context) -> bool:  # noqa: ARG002
        return True

    def is_permissive(self, context: Context) -> bool:  # noqa: ARG002
        return False

    def user_type(self, role: str) -> str | None:  # noqa: ARG002
        return None


NO_POLICY: Policy = _NoPolicy()


def denied(
    policy: Policy, source: Context | None, target: Context | None, kind: str, *permissions: str
) -> tuple[str, ...]:
    """Ask a policy; nothing is denied to nobody, or on what has no label."""
    return () if source is None or target is None else policy.denied(source, target, kind, permissions)
