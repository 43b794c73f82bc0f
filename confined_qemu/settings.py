"""What the user of an emulator's name wants of the launcher: said beside QEMU's command line, never in it. Pure.

`CONFINED_QEMU_*` variables; each key's variable is its name in capitals.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from confined_qemu.errors import UsageError
from confined_qemu.invocation import Confinement

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "CONFINED_QEMU_"
_Word = TypeVar("_Word", bound=StrEnum)


class UnknownOptions(StrEnum):
    """What happens to an option of QEMU that is not known, so that it may name a file."""

    REFUSE = "refuse"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Settings:
    """The launcher's options. `confinement` is None where nobody chose.

    `extra_paths` and `extra_readonly` are files that the VM will be told to open while it runs (QMP), `label_trees`
    folders whose whole tree may be labelled for a VM that shares it.
    """

    confinement: Confinement | None = None
    unknown_options: UnknownOptions = UnknownOptions.REFUSE
    extra_paths: tuple[str, ...] = ()
    extra_readonly: tuple[str, ...] = ()
    label_trees: tuple[str, ...] = ()


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings that the environment makes; lists are separated by colons, as in PATH.

    Raises:
        UsageError: a variable has a value that it cannot have.
    """
    return Settings(
        confinement=_word(environment, "confinement", Confinement),
        unknown_options=_word(environment, "unknown_options", UnknownOptions) or UnknownOptions.REFUSE,
        extra_paths=_paths(environment, "extra_paths"),
        extra_readonly=_paths(environment, "extra_readonly"),
        label_trees=_paths(environment, "label_trees"),
    )


def _word(environment: Mapping[str, str], key: str, kind: type[_Word]) -> _Word | None:
    name = f"{PREFIX}{key.upper()}"
    text = environment.get(name)
    if text is None:
        return None
    if text not in list(kind):
        raise UsageError(f"{name} is {text!r}", hint=f"set it to {' or '.join(kind)}")
    return kind(text)


def _paths(environment: Mapping[str, str], key: str) -> tuple[str, ...]:
    return tuple(path for path in environment.get(f"{PREFIX}{key.upper()}", "").split(":") if path)
