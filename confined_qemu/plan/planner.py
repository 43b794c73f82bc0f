"""`plan(invocation, facts, policy)`: every decision about one VM, made before anything is done. Pure.

What would fail is found here by asking the policy (`Policy.denied`), and refused with the command that mends it.
"""

from __future__ import annotations

from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.plan.draft import Draft

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.policy import Policy


def plan(invocation: Invocation, facts: Facts, policy: Policy) -> Plan:
    """Return the plan for one VM.

    A VM that is to start elsewhere (`plan --policy-root`) is refused nothing that only its host can answer.
    """
    draft = _draft(invocation, facts, policy)
    draft.found.warnings += invocation.remarks
    draft.choose_accelerator()
    draft.choose_confinement()
    if draft.label():
        return draft.finish()
    if draft.by_landlock is not None:
        draft.go_back()
        draft.add_helpers()
        draft.add_landlock(draft.by_landlock)
    else:
        draft.go_back()
        draft.leave_files()
        if draft.process is None:
            draft.add_helpers()
    return draft.finish()


def _draft(invocation: Invocation, facts: Facts, policy: Policy) -> Draft:
    if facts.selinux.mode is SelinuxMode.DISABLED:
        return Draft(invocation, facts, policy)
    from confined_qemu.plan.labelling import Labelling

    return Labelling(invocation, facts, policy)


def plan_files(invocation: Invocation, facts: Facts, policy: Policy, process: Context) -> Plan:
    """Return the plan for the files of `invocation` alone, which a VM that runs as `process` is given now."""
    from confined_qemu.plan.labelling import Labelling

    draft = Labelling(invocation, facts, policy, process=process, confined=True)
    draft.add_files()
    return draft.finish()
