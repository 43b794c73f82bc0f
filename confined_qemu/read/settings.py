"""What the user of an emulator's name wants of the launcher: said beside QEMU's command line, never in it. Pure.

`/etc/confined-qemu.yaml`, then the user's own file, then `CONFINED_QEMU_*` variables, each key's name in capitals: what
is said later replaces what was said of that key before.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from confined_qemu.model.errors import UsageError
from confined_qemu.model.frozen import dataclass, replace
from confined_qemu.model.invocation import Confinement

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "CONFINED_QEMU_"


class UnknownOptions(StrEnum):
    """What happens to an option of QEMU that is not known, so that it may name a file."""

    REFUSE = "refuse"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Settings:
    """The launcher's options. `confinement` is None where nobody chose.

    `extra_paths` and `extra_readonly` are files that the VM will be told to open while it runs (QMP), `label_trees`
    folders whose whole tree may be labelled for a VM that shares it. With `require_domain` nothing is started where
    the launcher's own domain is missing.
    """

    confinement: Confinement | None = None
    unknown_options: UnknownOptions = UnknownOptions.REFUSE
    extra_paths: tuple[str, ...] = ()
    extra_readonly: tuple[str, ...] = ()
    label_trees: tuple[str, ...] = ()
    require_domain: bool = False


_WORDS: Mapping[str, type[StrEnum]] = {"confinement": Confinement, "unknown_options": UnknownOptions}
_PATHS = ("extra_paths", "extra_readonly", "label_trees")
_TRUTH = {"yes": True, "no": False}


def from_environment(environment: Mapping[str, str], before: Settings | None = None) -> Settings:
    """Return `before` with what the environment sets in its place; lists are separated by colons, as in PATH.

    Raises:
        UsageError: a variable has a value that it cannot have.
    """
    given: dict[str, Any] = {}
    for key, kind in _WORDS.items():
        if (text := environment.get(variable(key))) is not None:
            given[key] = kind(_one_of(key, text, tuple(kind)))
    for key in _PATHS:
        if (text := environment.get(variable(key))) is not None:
            given[key] = tuple(path for path in text.split(":") if path)
    if (text := environment.get(variable("require_domain"))) is not None:
        given["require_domain"] = _TRUTH[_one_of("require_domain", text, tuple(_TRUTH))]
    return replace(before or Settings(), **given)


def variable(key: str) -> str:
    """Return the name of the variable that sets `key`."""
    return f"{PREFIX}{key.upper()}"


def _one_of(key: str, text: str, words: tuple[str, ...]) -> str:
    if text not in words:
        raise UsageError(f"{variable(key)} is {text!r}", hint=f"set it to {' or '.join(words)}")
    return text
