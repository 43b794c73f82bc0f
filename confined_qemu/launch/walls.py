"""What a process gives up for good before it becomes QEMU, as the plan says: rights of root's, and Landlock's rules."""

from __future__ import annotations

import os

from confined_qemu.host import capabilities, processcontrol
from confined_qemu.model.errors import HostError, why
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from confined_qemu.model.hardening import Hardening
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.ruleset import Ruleset

_ANYWAY = "to start it with all that you may do: harden: no, or CONFINED_QEMU_HARDEN=no"


def prepared(plan: Plan) -> int:
    """Return the kernel's ruleset for a plan, made while this process still reaches every path; -1 without one.

    The bounding set is narrowed here, too: who has become another user can no more.

    Raises:
        HostError: the kernel refuses, or a file is not the one that was planned for.
    """
    if plan.user is not None and plan.hardening is not None and plan.hardening.capabilities is not None:
        capabilities.bound(plan.hardening.capabilities)
    if plan.landlock is None:
        return -1
    from confined_qemu.host import landlock

    return landlock.made(plan.landlock)


def enter(hardening: Hardening | None, planned: Ruleset | None, ruleset: int) -> None:
    """Give up for good what the plan says, in this process; what was set is read back or tried.

    Raises:
        HostError: the kernel refuses, or something is not as it was set.
    """
    if hardening is not None:
        try:
            _harden(hardening)
        except OSError as error:
            raise HostError(f"what the VM does not need cannot be given up: {why(error)}", hint=_ANYWAY) from error
    if planned is not None:
        _enforce(ruleset, planned)


def _harden(hardening: Hardening) -> None:
    if not hardening.core:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if hardening.capabilities is not None:
        capabilities.keep(hardening.capabilities)
    if hardening.privileges is None:
        _no_new_privs()


def may_undo(plan: Plan) -> bool:
    """Tell whether this process can still put labels back once it has entered its walls: root's takes capabilities."""
    kept = plan.hardening is None or plan.hardening.capabilities is None
    return plan.landlock is None and (kept or os.geteuid() != 0)


def hold(planned: Ruleset, ruleset: int) -> None:
    """Have Landlock hold a helper, in its process; its capabilities it gives up itself, as it needs some to begin.

    Raises:
        HostError: the kernel refuses.
    """
    _no_new_privs()
    _enforce(ruleset, planned)


def _enforce(ruleset: int, planned: Ruleset) -> None:
    from confined_qemu.host import landlock

    landlock.enforce(ruleset, planned)


def _no_new_privs() -> None:
    try:
        processcontrol.set_no_new_privs()
    except OSError as error:
        raise HostError(f"no_new_privs cannot be set: {why(error)}") from error
