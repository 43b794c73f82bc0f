"""What libvirt remembers of a file's label, and what is to become of it once nobody uses the file. Pure.

After libvirt's security_util.c (9.0): three extended attributes hold the label from before its first VM, how many
VMs use the file, and when the host was booted. A crashed libvirt, a killed host and a copied image leave them behind.
"""

from __future__ import annotations

import re

from confined_qemu.model.context import Context
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

    from confined_qemu.model.context import PolicyContexts
    from confined_qemu.model.facts import LiveProcess
    from confined_qemu.read.libvirt.xmltree import Element

LABEL: Final = "trusted.libvirt.security.selinux"
COUNT: Final = "trusted.libvirt.security.ref_selinux"
BOOTED: Final = "trusted.libvirt.security.timestamp_selinux"
ATTRIBUTES: Final = (LABEL, COUNT, BOOTED)
_NUMBER: Final = re.compile("[0-9]{1,18}")
TOLERANCE: Final = 60
"""Seconds between two readings of one boot's time: the clock is set after the boot, and libvirt rounds."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What libvirt noted on a file: the label to put back, how many VMs use it, the boot's time in epoch seconds."""

    label: Context
    count: int
    booted: int | None


class Action(StrEnum):
    """What `recover --libvirt` does about a file."""

    LEFT = "left"
    """Somebody uses it, and what is noted is right."""
    LOWERED = "lowered"
    """Fewer VMs use it than are counted."""
    FORGOTTEN = "forgotten"
    """Nobody uses it, and it carries no VM's label any more: only the note goes."""
    RESTORED = "restored"
    """Nobody uses it: the label goes back, and the note goes."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A file with a note.

    `holders` are libvirt's VMs that use it, `ours` those that we started; `default` is the policy's label for the
    path, `valid` tells whether the policy knows the remembered label.
    """

    label: Context | None
    memory: Memory
    holders: tuple[LiveProcess, ...]
    ours: tuple[LiveProcess, ...]
    default: Context | None
    valid: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done: `label` is set where it is not None, `count` is written where it is not None, else removed."""

    action: Action
    why: str
    label: Context | None = None
    count: int | None = None


def parse(values: Mapping[str, bytes]) -> Memory | None:
    """Return what the attributes say, None where there is none of them.

    Raises:
        ValueProblem: they make no note: one is missing, or holds something else. libvirt refuses such a file.
    """
    if not values:
        return None
    for name in (COUNT, LABEL):
        if name not in values:
            raise ValueProblem(f"{name} is missing beside the others")
    try:
        texts = {name: value.rstrip(b"\0").decode("ascii") for name, value in values.items()}
    except UnicodeDecodeError:
        raise ValueProblem("an attribute of libvirt's is not ASCII text") from None
    for name in (COUNT, BOOTED):
        if name in texts and _NUMBER.fullmatch(texts[name]) is None:
            raise ValueProblem(f"{name} is {texts[name][:40]!r}, not a number")
    if int(texts[COUNT]) == 0:
        raise ValueProblem(f"{COUNT} is 0, and libvirt counts from 1")
    return Memory(Context.parse(texts[LABEL]), int(texts[COUNT]), int(texts[BOOTED]) if BOOTED in texts else None)


def is_of_boot(memory: Memory, boots: tuple[int, ...]) -> bool:
    """Tell whether the note is of this boot, whose time (epoch seconds) was read in several ways.

    libvirt compares exactly with one reading (utmp's, else by uptime), and forgets good notes when the clock was set.
    """
    return memory.booted is not None and any(abs(memory.booted - boot) <= TOLERANCE for boot in boots)


def decide(found: Noted, contexts: PolicyContexts, boots: tuple[int, ...]) -> Decision:
    """Return what becomes of a file with a note.

    A live user keeps it as it is, whatever the note says of the time. Without one, a label that a VM's file gets
    goes back to the remembered one; libvirt itself would take a dead VM's label for the file's own at its next start.
    """
    memory = found.memory
    users = (*found.holders, *found.ours)
    if users:
        shown = ", ".join(f"pid {process.pid} ({process.context})" for process in users)
        why = f"used by {shown}"
        if found.holders and len(found.holders) < memory.count:
            return Decision(Action.LOWERED, f"{why}; {memory.count} were counted", count=len(found.holders))
        return Decision(Action.LEFT, why, count=memory.count)
    when = "noted in this boot" if is_of_boot(memory, boots) else "noted in another boot"
    why = f"no VM uses it ({memory.count} counted, {when})"
    if found.label is None or not contexts.is_given(found.label):
        return Decision(Action.FORGOTTEN, f"{why}; its label is its own")
    target = _target(found, contexts)
    if target == found.label:
        return Decision(Action.FORGOTTEN, f"{why}; it has its label")
    return Decision(Action.RESTORED, why, label=target)


def _target(found: Noted, contexts: PolicyContexts) -> Context:
    """Return the label to put back: the remembered one, unless it is a dead VM's or the policy does not know it."""
    label = found.memory.label
    dead = contexts.is_given(label) and label.range is not None and bool(label.range.low.categories)
    if found.valid and not dead:
        return label
    if found.default is not None and "image" in found.default.type and not contexts.is_given(found.default):
        return found.default
    return contexts.restored()


def paths_in(root: Element) -> Iterator[str]:
    """Yield every absolute path that a domain's XML, or libvirt's record of a running one, names anywhere."""
    stack = [root]
    while stack:
        element = stack.pop()
        stack.extend(element.children)
        for text in (*element.attributes.values(), element.text.strip()):
            if text.startswith("/"):
                yield text
