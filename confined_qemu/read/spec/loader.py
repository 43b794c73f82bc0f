"""A spec's YAML text to a VM, or every problem that it has, each at its line and column."""

from __future__ import annotations

from confined_qemu.model.errors import SpecError
from confined_qemu.model.invocation import Hypervisor
from confined_qemu.model.lean import TYPE_CHECKING, suppress
from confined_qemu.read.spec.table import SPEC
from confined_qemu.read.spec.yamlnodes import Mapping, Problems, Scalar, Sequence, TooMany, compose

if TYPE_CHECKING:
    from typing import Any

    from confined_qemu.read.spec.kinds import Table
    from confined_qemu.read.spec.vm import VM
    from confined_qemu.read.spec.xenvm import XenVM


def parse(text: str, file: str) -> VM:
    """Return the VM of QEMU's that `text` describes.

    Raises:
        SpecError: the text is no spec, or a Xen domain's.
    """
    found = load(text, file)
    if found.hypervisor is Hypervisor.XEN:
        raise SpecError((f"{file}:1:1: hypervisor: expected qemu, got xen",))
    return found


def load(text: str, file: str) -> VM | XenVM:
    """Return the VM, or with `hypervisor: xen` the domain, that `text` describes.

    `file` is only named in messages, nothing is opened.

    A file's bytes are best decoded as UTF-8 with surrogateescape, so that a stray byte gets its place too.

    Raises:
        SpecError: the text is no spec; `problems` holds `file:line:column: key: what` for each, and how to mend it.
    """
    problems = Problems(file)
    vm: Any = None
    with suppress(TooMany):
        root = compose(text, problems)
        if isinstance(root, Mapping):
            vm = _table(root).read(root, "", problems)
        elif isinstance(root, Scalar | Sequence):
            problems.add(root.mark, "", "a spec is a mapping (key: value)", "it starts with name: NAME")
    if (error := problems.error) is not None:
        raise error
    checked: VM | XenVM = vm
    return checked


def _table(root: Mapping) -> Table:
    """Return the table that a spec is read by: it says its hypervisor in one of its keys."""
    for key, value in root.pairs:
        if isinstance(key, Scalar) and key.text == "hypervisor":
            if isinstance(value, Scalar) and value.text == Hypervisor.XEN:
                from confined_qemu.read.spec.xentable import XEN

                return XEN
            break
    return SPEC
