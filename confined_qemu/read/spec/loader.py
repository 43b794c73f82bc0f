"""A spec's YAML text to a VM, or every problem that it has, each at its line and column."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from confined_qemu.read.spec.table import SPEC
from confined_qemu.read.spec.yamlnodes import Mapping, Problems, Scalar, Sequence, TooMany, compose

if TYPE_CHECKING:
    from confined_qemu.read.spec.vm import VM


def parse(text: str, file: str) -> VM:
    """Return the VM that `text` describes; `file` is only named in messages, nothing is opened.

    A file's bytes are best decoded as UTF-8 with surrogateescape, so that a stray byte gets its place too.

    Raises:
        SpecError: the text is no spec; `problems` holds `file:line:column: key: what; how to mend` for each.
    """
    problems = Problems(file)
    vm: Any = None
    with suppress(TooMany):
        root = compose(text, problems)
        if isinstance(root, Mapping):
            vm = SPEC.read(root, "", problems)
        elif isinstance(root, Scalar | Sequence):
            problems.add(root.mark, "", "a spec is a mapping (key: value)", "it starts with name: NAME")
    if (error := problems.error) is not None:
        raise error
    checked: VM = vm
    return checked
