"""Becomes QEMU by an accepted plan whose steps were done (`performing`). Nothing is decided here."""

from __future__ import annotations

import os

from confined_qemu.host import emulator, lsm
from confined_qemu.host import signals as signal
from confined_qemu.model.errors import EmulatorNotExecutable, Refused, why
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn, TypeVar

    from confined_qemu.labels.journal import Hold
    from confined_qemu.launch.collect import Caller
    from confined_qemu.launch.helpers import RunningHelper
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.xen import XenPlan

    _AnyPlan = TypeVar("_AnyPlan", Plan, XenPlan)

_BEFORE_NUMBER = ("fd=", "addr.str=", '"str": "', '"fd": "')
"""What stands before a descriptor's number: in a character device, and in a network, its address, and their JSON."""


@dataclass
class Performed:
    """What came of the steps: descriptors that QEMU inherits, by name, and the relay's work."""

    numbers: dict[str, int] = field(default_factory=dict)
    relayed: list[str] = field(default_factory=list)
    """The relay's arguments: `pair:OUTER:INNER` or `listen:OUTER:PATH`."""
    relay_keeps: list[int] = field(default_factory=list)
    swaps: list[tuple[int, int]] = field(default_factory=list)
    """Descriptors to put in the place of inherited ones: (ours, the inherited number)."""
    helpers: list[RunningHelper] = field(default_factory=list)
    hold: Hold | None = None
    """The live file of a VM that may share its context."""
    given_up: bool = False
    """This process can put nothing back any more: that is the watcher's."""

    def end_helpers(self) -> None:
        """End them: the VM will not be started."""
        for helper in self.helpers:
            helper.end()


def _numbered(arguments: Iterable[str], done: Performed) -> list[str]:
    """Return QEMU's arguments with the numbers of the descriptors that it inherits."""
    numbered = list(arguments)
    for name, number in done.numbers.items():
        os.set_inheritable(number, True)  # noqa: FBT003 - positional by definition
        for before in _BEFORE_NUMBER:
            numbered = [argument.replace(f"{before}{{{name}}}", f"{before}{number}") for argument in numbered]
    return numbered


def accepted(plan: _AnyPlan, warn: Callable[[str], None]) -> _AnyPlan:
    """Return a plan that may be executed; its warnings are said.

    Raises:
        Refused: it may not.
    """
    for line in plan.warnings:
        warn(line)
    if plan.refusals:
        raise Refused(plan.refusals)
    return plan


def argv0(invocation: Invocation, plan: Plan, caller: Caller) -> str:
    """Return what QEMU is started as: the caller's own word where there is one."""
    return caller.argv0 or emulator.argv0(invocation.emulator, plan.emulator)


def become(plan: Plan, done: Performed, environment: Mapping[bytes, bytes], argv0: str) -> NoReturn:
    """Execute QEMU in this process, in the plan's context.

    Raises:
        EmulatorNotExecutable: the kernel refuses.
        LsmError: the context cannot be chosen.
        HostError: the user of the plan cannot be become, or what the plan gives up cannot be.
    """
    variables = dict(environment)
    if plan.temporary is not None:
        variables[b"TMPDIR"] = os.fsencode(plan.temporary)
    arguments = _numbered(plan.arguments, done)
    if done.hold is not None:
        os.set_inheritable(done.hold.held, True)  # noqa: FBT003 - positional by definition
    ruleset = -1
    gives_up = plan.hardening is not None or plan.landlock is not None
    if gives_up:
        from confined_qemu.launch import walls

        ruleset = walls.prepared(plan)
    if plan.user is not None:
        from confined_qemu.launch import spawn

        spawn.become_user(plan.user)
    context = plan.process or plan.back_to
    if context is not None:
        lsm.set_exec_context(context)
    if gives_up:
        done.given_up = not walls.may_undo(plan)
        walls.enter(plan.hardening, plan.landlock, ruleset)
    # Python ignores these two; QEMU must find them as the caller had them
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execve(plan.emulator, [argv0 or plan.emulator, *arguments], variables)
    except OSError as error:
        if context is not None and plan.landlock is None:
            lsm.set_exec_context(None)
        as_whom = f" as {context}" if context is not None else ""
        raise EmulatorNotExecutable(
            f"cannot be executed{as_whom}: {why(error)}",
            where=plan.emulator,
            hint=f"see: ls -lZ {plan.emulator}",
        ) from error
