"""A Xen domain as it is wanted, what Xen said of the host, and the plan for the domain: values, and nothing is done."""

from __future__ import annotations

from confined_qemu.model.errors import printable
from confined_qemu.model.invocation import Confinement, Seclabel
from confined_qemu.model.lean import TYPE_CHECKING, Protocol, StrEnum, dataclass, field
from confined_qemu.model.plan import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

    from confined_qemu.model.context import Context
    from confined_qemu.model.mcs import Pair
    from confined_qemu.model.steps import Step

IMAGE_TYPE: Final = "xen_image_t"
"""The type of a domain's images in dom0's policy: the reference policy's module `xen`."""
DOMAIN: Final = "system_u:system_r:domU_t"
"""What a domain is labelled that its spec gives no label: the sample policy's guest, and Flask's own default."""
ACCEL: Final = "xen"
"""In the place of an accelerator, in journals and in `ps`."""
FLASK: Final = "flask"
"""In the place of a wall, in `ps`."""


class XenType(StrEnum):
    """How the guest sees its machine; `hvm` is known, and refused."""

    PV = "pv"
    PVH = "pvh"
    HVM = "hvm"


class FlaskMode(StrEnum):
    """What Xen's Flask does; "could not read" is an error, never one of these."""

    DISABLED = "disabled"
    """This Xen has no XSM, or runs another module than Flask: labels mean nothing to it."""
    PERMISSIVE = "permissive"
    ENFORCING = "enforcing"


class Shutdown(StrEnum):
    """How a domain ended."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"
    SUSPEND = "suspend"
    CRASH = "crash"
    WATCHDOG = "watchdog"
    SOFT_RESET = "soft_reset"
    DESTROYED = "destroyed"
    """Somebody destroyed it: `xl destroy`."""


EXIT: Final = {
    Shutdown.POWEROFF: 0,
    Shutdown.REBOOT: 1,
    Shutdown.SUSPEND: 2,
    Shutdown.CRASH: 3,
    Shutdown.WATCHDOG: 4,
    Shutdown.SOFT_RESET: 5,
    Shutdown.DESTROYED: 137,
}
"""The exit status of `run` for each: Xen's own reason codes (xen/include/public/sched.h), and for a destroyed domain
what a shell says of a killed program."""


@dataclass(frozen=True, slots=True)
class XenDisk:
    """One raw disk. `path` is absolute, `device` its name in the guest, `source` its place in the spec."""

    path: str
    device: str
    readonly: bool
    source: str


@dataclass(frozen=True, slots=True)
class XenDomain:
    """A domain as it is wanted. Paths are absolute, `memory` is in MiB; `confinement` is never `none`."""

    name: str
    type: XenType
    kernel: str
    initrd: str | None = None
    cmdline: str | None = None
    memory: int = 128
    cpus: int = 1
    disks: tuple[XenDisk, ...] = ()
    seclabel: Seclabel = field(default_factory=Seclabel)
    confinement: Confinement = Confinement.SELINUX


@dataclass(frozen=True, slots=True)
class LiveDomain:
    """A domain as `xl list -v` shows it. `label` is the text that Xen gives, None where it has no Flask."""

    name: str
    number: int
    uuid: str
    memory: int
    """In MiB."""
    state: str
    """xl's letters: `r` running, `b` blocked, `p` paused, `s` shut down, `d` dying."""
    label: str | None


class FlaskPolicy(Protocol):
    """The policy that Flask has loaded."""

    def knows(self, label: str) -> bool:
        """Tell whether `label` is one of its contexts."""

    def categories(self) -> int:
        """Return how many categories it has: 0 for a policy without levels."""

    def hides_one(self, listed: Iterable[int]) -> bool:
        """Tell whether there is a domain besides those `listed` that dom0 may not see."""


@dataclass(frozen=True, slots=True)
class XenFacts:
    """What Xen said of the host. What was not asked, because an earlier answer was no, is as for no."""

    control: bool = False
    """This is the control domain, dom0."""
    flask: FlaskMode = FlaskMode.DISABLED
    categories: int = 0
    domains: tuple[LiveDomain, ...] = ()
    hidden: bool = False
    """There is one more at least, that Flask does not let dom0 see."""
    uuid: str = ""
    """For the new domain; no other has it."""


@dataclass(frozen=True, slots=True)
class XenPlan:
    """Frozen: `run` does exactly this. A plan with refusals is never executed.

    `label` is what Flask is asked for and what must be read back, `config` the text of xl.cfg, `pair` the images'.
    """

    name: str
    type: XenType
    uuid: str
    label: str | None
    pair: Pair | None
    config: str
    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the plan as text for a person, a line for each step."""
        lines = [
            f"name     {self.name}",
            f"xen      {self.type}",
            f"label    {self.label if self.label is not None else 'none: Flask cannot be asked'}",
            *(step.describe() for step in self.steps),
            *(f"xl.cfg   {line}" for line in self.config.splitlines()),
            "create   xl create -F -p: paused",
            f"compare  xl list -v: {self.label}, or it is destroyed",
            "unpause  xl unpause",
            "wait     for its end, or destroy it; then the labels go back",
        ]
        said = (
            *(f"warning  {warning}" for warning in self.warnings),
            *(f"refused  {refusal}" for refusal in self.refusals),
        )
        return "\n".join([*map(printable, lines), *(text.replace("\n", "\n" + " " * 9) for text in said)])

    def to_json(self) -> dict[str, Any]:
        """Return the object that `plan --json` prints."""
        return {
            "schema": SCHEMA,
            "hypervisor": "xen",
            "name": self.name,
            "type": str(self.type),
            "label": self.label,
            "config": self.config,
            "steps": [step.describe() for step in self.steps],
            "warnings": list(self.warnings),
            "refusals": list(self.refusals),
        }


def labels_of(domains: Iterable[LiveDomain]) -> tuple[str, ...]:
    """Return the labels of domains that have one."""
    return tuple(domain.label for domain in domains if domain.label is not None)


def with_level(base: Context, pair: Pair | None) -> Context:
    """Return a dynamic domain's context: `base` at the pair, or without a level where Flask has no categories."""
    from confined_qemu.model.lean import replace

    sensitivity = base.range.low.sensitivity if base.range is not None else 0
    return base.at(pair.level(sensitivity)) if pair is not None else replace(base, range=None)
