"""`check` on a host that runs under Xen: dom0, xenstored, Flask and its policy, and what devices lack."""

from __future__ import annotations

from confined_qemu.cli.findings import Finding, Grade
from confined_qemu.host import flask, pcidevices, xl
from confined_qemu.model.errors import HINT, message
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.xen import DOMAIN, FlaskMode
from confined_qemu.plan.xenplan import HIDDEN, NO_FLASK, NOT_DOM0, WATCHING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_DEVICE: Final = "system_u:object_r:nic_dev_t"
"""What the sample policy lets guests use."""


def findings() -> Iterator[Finding]:
    """Look at Xen; the first thing missing is the last one that is asked."""
    if not xl.is_control():
        yield Finding(Grade.WARN, "xen", NOT_DOM0)
        return
    yield Finding(Grade.OK, "xen", "dom0")
    problem = xl.xenstored()
    if problem is not None:
        yield Finding(Grade.FAIL, "xenstored", message(problem, "run: systemctl start xen"))
        return
    mode = xl.flask_mode()
    if mode is FlaskMode.DISABLED:
        yield Finding(Grade.FAIL, "flask", NO_FLASK)
        return
    if mode is FlaskMode.PERMISSIVE:
        yield Finding(Grade.WARN, "flask", WATCHING)
    else:
        yield Finding(Grade.OK, "flask", "enforcing")
    policy = flask.loaded()
    if policy.hides_one(domain.number for domain in xl.domains()):
        yield Finding(Grade.FAIL, "domains", HIDDEN)
    yield from _policy(policy)
    yield from _devices(policy)


def _policy(policy: flask.LoadedFlask) -> Iterator[Finding]:
    count = policy.categories()
    label = f"{DOMAIN}:s0" if count else DOMAIN
    if not policy.knows(label):
        yield Finding(Grade.WARN, "flask policy", message(f"it knows no {label}", "give each domain its seclabel"))
    if count:
        yield Finding(Grade.OK, "flask policy", f"{count} categories, c0.c{count - 1}")
    else:
        text = message("no categories: domains of one type are not kept apart by it", "see: confined-qemu help xen")
        yield Finding(Grade.WARN, "flask policy", text)


def _devices(policy: flask.LoadedFlask) -> Iterator[Finding]:
    """Say what stands between a PCI device that dom0 gives away and a domain that may use it."""
    label = f"{_DEVICE}:s0" if policy.categories() else _DEVICE
    label = label if policy.knows(label) else "LABEL"
    for device in pcidevices.assignable():
        if not pcidevices.iommu():
            yield Finding(Grade.FAIL, device, "Xen has no IOMMU, so a domain could write all memory through it")
        yield Finding(
            Grade.WARN,
            device,
            message(
                f"Flask lets no {DOMAIN.rpartition(':')[2]} use it before it has a label of its own",
                f"run: flask-label-pci {device} {label}{HINT}see: confined-qemu help xen",
            ),
        )
