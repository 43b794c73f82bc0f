"""`xen_plan`: every decision about one Xen domain, made before anything is done. Pure.

What holds the domain is Flask, whose policy is Xen's own. Its images are files of dom0, and are labelled by the same
rules as QEMU's: xl stands where QEMU does.
"""

from __future__ import annotations

from confined_qemu.model import hostpaths
from confined_qemu.model.context import Context, PolicyContexts
from confined_qemu.model.errors import HINT, ValueProblem, message
from confined_qemu.model.facts import FileKind, SelinuxMode
from confined_qemu.model.invocation import Confinement, Invocation, SeclabelType
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.mcs import Level, Range
from confined_qemu.model.resource import Access, Role
from confined_qemu.model.xen import DOMAIN, IMAGE_TYPE, FlaskMode, XenPlan, with_level
from confined_qemu.plan import xlcfg
from confined_qemu.plan.planner import plan_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from confined_qemu.model.facts import Facts, FileFacts, SelinuxFacts
    from confined_qemu.model.mcs import Pair
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.policy import Policy
    from confined_qemu.model.resource import Resource
    from confined_qemu.model.xen import FlaskPolicy, XenDomain, XenFacts

_IMAGE: Final = Context("system_u", "object_r", IMAGE_TYPE, Range.single(Level(0)))
_READ: Final = (("kernel", Role.KERNEL), ("initrd", Role.INITRD))
NOT_DOM0: Final = message("this is not Xen's dom0, which alone starts domains", "boot the host under Xen")
NO_FLASK: Final = message(
    "this Xen has no Flask, and xl would start the domain without a label",
    f"boot a Xen built with XSM and Flask, with flask=enforcing{HINT}see: confined-qemu help xen",
)
WATCHING: Final = message("Flask is permissive: labels are set, and nothing enforces them", "run: xl setenforce 1")
HIDDEN: Final = message(
    "Flask keeps dom0 from seeing a domain, so whether its end has come, and which pair it has, is not known",
    "see which: xl dmesg | grep getdomaininfo",
)
_ALIKE: Final = message(
    "Flask's policy has no categories, so it does not keep domains of one type apart", "see: confined-qemu help xen"
)
_PERMISSIVE: Final = message(
    "SELinux is permissive in dom0: images are labelled, and nothing enforces it", "run: setenforce 1"
)
_UNLABELLED: Final = message(
    "SELinux is disabled in dom0, so its images would be open to every VM", "boot dom0 with SELinux"
)


def xen_contexts(contexts: PolicyContexts) -> PolicyContexts:
    """Return the contexts of images for Xen in dom0's policy, in the place of those for QEMU."""
    return replace(contexts, image=_IMAGE, at_rest=IMAGE_TYPE)


def invocation_of(domain: XenDomain) -> Invocation:
    """Return the domain's disks as an invocation whose files are planned for; xl opens them as root."""
    found = (
        hostpaths.resource(
            disk.path, Role.DISK, Access.READ if disk.readonly else Access.READ_WRITE, disk.source, format="raw"
        )
        for disk in domain.disks
    )
    resources: tuple[Resource, ...] = tuple(resource for resource in found if resource is not None)
    return Invocation(domain.name, "xl", (), resources, user="root")


def label_of(domain: XenDomain, pair: Pair | None) -> str:
    """Return the label that Flask is asked for; `pair` is None where its policy has no categories."""
    seclabel = domain.seclabel
    if seclabel.type is SeclabelType.STATIC and seclabel.label is not None:
        return str(seclabel.label)
    return str(with_level(seclabel.baselabel or Context.parse(DOMAIN), pair))


def xen_plan(domain: XenDomain, facts: Facts, xen: XenFacts, flask: FlaskPolicy, policy: Policy) -> XenPlan:
    """Return the plan for one domain; `facts.files` has its disks, kernel and initrd, `facts.pair` its images' pair."""
    pair = facts.pair
    label = label_of(domain, pair if xen.categories else None)
    refusals = list(_refusals(domain, facts, xen, flask, label))
    warnings = list(_warnings(domain, facts.selinux, xen))
    files = _files(domain, facts, policy)
    refusals += files.refusals if files is not None else ()
    warnings += files.warnings if files is not None else ()
    text = ""
    try:
        real = {disk.path: facts.files[disk.path].real for disk in domain.disks}
        text = xlcfg.config(domain, label, xen.uuid, real)
    except ValueProblem as problem:
        refusals.append(str(problem))
    return XenPlan(
        domain.name,
        domain.type,
        xen.uuid,
        label if xen.flask is not FlaskMode.DISABLED else None,
        pair,
        text,
        files.steps if files is not None else (),
        tuple(warnings),
        tuple(dict.fromkeys(refusals)),
    )


def _refusals(domain: XenDomain, facts: Facts, xen: XenFacts, flask: FlaskPolicy, label: str) -> Iterator[str]:
    """Yield what keeps the domain from being started confined; of Xen's the first thing only."""
    if not xen.control:
        yield NOT_DOM0
    elif xen.flask is FlaskMode.DISABLED:
        yield NO_FLASK
    elif xen.flask is FlaskMode.PERMISSIVE and domain.confinement is not Confinement.AUTO:
        yield f"{WATCHING}, or choose confinement: auto"
    elif not flask.knows(label):
        yield message(f"seclabel: Flask's loaded policy knows no context {label}", _mend(label, xen))
    if xen.hidden:
        yield HIDDEN
    taken = [other for other in xen.domains if other.name == domain.name]
    if taken:
        what = f"name: a domain named {domain.name} is there already (number {taken[0].number})"
        yield message(what, "stop it, or choose another name")
    if xen.control and facts.selinux.mode is SelinuxMode.DISABLED:
        yield _UNLABELLED
    for key, _ in _READ:
        path = getattr(domain, key)
        if path is not None and (problem := _unreadable(facts.files[path])):
            yield message(f"{path} ({key}): {problem}")


def _mend(label: str, xen: XenFacts) -> str:
    if label.count(":") < 3:  # noqa: PLR2004 - user:role:type has two
        level = f"its policy has levels, so write {label}:s0"
        return level if xen.categories else "see: confined-qemu help xen"
    if not xen.categories:
        return "its policy has no categories, so leave the level out"
    return f"its policy has {xen.categories} categories, c0.c{xen.categories - 1}"


def _unreadable(found: FileFacts) -> str | None:
    if found.problem is not None:
        return found.problem
    if found.kind is FileKind.MISSING:
        return "no such file"
    return None if found.kind is FileKind.REGULAR else f"a {found.kind} cannot be loaded"


def _warnings(domain: XenDomain, selinux: SelinuxFacts, xen: XenFacts) -> Iterator[str]:
    if xen.flask is FlaskMode.PERMISSIVE and domain.confinement is Confinement.AUTO:
        yield WATCHING
    if selinux.mode is SelinuxMode.PERMISSIVE:
        yield _PERMISSIVE
    if xen.flask is not FlaskMode.DISABLED and not xen.categories and domain.seclabel.type is SeclabelType.DYNAMIC:
        yield _ALIKE


def _files(domain: XenDomain, facts: Facts, policy: Policy) -> Plan | None:
    """Return the plan for the disks; None where dom0 has no SELinux, or no pair could be had."""
    selinux, pair = facts.selinux, facts.pair
    if selinux.mode is SelinuxMode.DISABLED or selinux.contexts is None or selinux.own is None or pair is None:
        return None
    facts = replace(facts, selinux=replace(selinux, contexts=xen_contexts(selinux.contexts)))
    return plan_files(invocation_of(domain), facts, policy, selinux.own.at(pair.level()))
