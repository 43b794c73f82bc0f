"""What the user of an emulator's name wants of the launcher: said beside QEMU's command line, never in it. Pure.

`/etc/confined-qemu.yaml`, then the user's own file, then `CONFINED_QEMU_*` variables, each key's name in capitals: what
is said later replaces what was said of that key before. YAML is loaded only where there is a file.
"""

from __future__ import annotations

from confined_qemu.model.errors import UsageError
from confined_qemu.model.invocation import Confinement, SecondWall
from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass, replace, suppress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from confined_qemu.read.spec.kinds import Table

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
    harden: bool = True
    """Give up capabilities that a VM does not need."""
    landlock: SecondWall = SecondWall.AUTO
    """Does Landlock hold a VM as well that SELinux holds?"""


_WORDS: Mapping[str, type[StrEnum]] = {
    "confinement": Confinement,
    "landlock": SecondWall,
    "unknown_options": UnknownOptions,
}
_PATHS = ("extra_paths", "extra_readonly", "label_trees")
_TRUTHS = ("require_domain", "harden")
_TRUTH = {"yes": True, "no": False}


def from_file(text: str, file: str, before: Settings) -> Settings:
    """Return `before` with what a file's text sets in its place; `file` is only named in messages, nothing is opened.

    Raises:
        SpecError: the text is no such file; `problems` holds `file:line:column: key: what; how to mend` for each.
    """
    if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
        return before  # all of it is commented out
    from confined_qemu.read.spec import yamlnodes

    problems = yamlnodes.Problems(file)
    values: Any = {}
    with suppress(yamlnodes.TooMany):
        root = yamlnodes.compose(text, problems)
        if isinstance(root, yamlnodes.Mapping):
            values = _keys().read(root, "", problems)
        elif isinstance(root, yamlnodes.Scalar | yamlnodes.Sequence):
            problems.add(root.mark, "", "settings are a mapping (key: value)", "for example: unknown_options: warn")
    if (error := problems.error) is not None:
        raise error
    return replace(before, **values)


def _keys() -> Table:
    """Return the keys of a settings file. `build` keeps what was written: what is left out stays as it was before."""
    from confined_qemu.read.spec.kinds import Choice, Key, ListOf, Table, Text, YesNo

    # a relative one would start wherever a client happens to start QEMU
    files = ListOf(Text("an absolute path", r"/[\s\S]*"))
    return Table(
        Settings,
        (
            Key("confinement", Choice(Confinement), "what must hold the VM"),
            Key("landlock", Choice(SecondWall), "does Landlock hold a VM beside SELinux"),
            Key("unknown_options", Choice(UnknownOptions), "what happens to an option of QEMU that is not known"),
            Key("extra_paths", files, "files that VMs will be told to open while they run", ("extra_files",)),
            Key("extra_readonly", files, "the same, only to be read"),
            Key("label_trees", files, "folders whose whole tree may be labelled for a VM that shares it"),
            Key("require_domain", YesNo(), "start nothing where the launcher's own domain is missing"),
            Key("harden", YesNo(), "give up capabilities and privileges that a VM does not need"),
        ),
        "the launcher's options",
        build=dict,
    )


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
    for key in _TRUTHS:
        if (text := environment.get(variable(key))) is not None:
            given[key] = _TRUTH[_one_of(key, text, tuple(_TRUTH))]
    return replace(before or Settings(), **given)


def variable(key: str) -> str:
    """Return the name of the variable that sets `key`."""
    return f"{PREFIX}{key.upper()}"


def _one_of(key: str, text: str, words: tuple[str, ...]) -> str:
    if text not in words:
        raise UsageError(f"{variable(key)} is {text!r}", hint=f"set it to {' or '.join(words)}")
    return text
