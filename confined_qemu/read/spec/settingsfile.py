"""A settings file's YAML text to the settings, or every problem that it has, each at its line and column. Pure."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from confined_qemu.model.frozen import replace
from confined_qemu.model.invocation import Confinement
from confined_qemu.read.settings import Settings, UnknownOptions
from confined_qemu.read.spec.kinds import Choice, Key, ListOf, Table, Text, YesNo
from confined_qemu.read.spec.yamlnodes import Mapping, Problems, Scalar, Sequence, TooMany, compose

# a relative one would start wherever a client happens to start QEMU
_PATHS = ListOf(Text("an absolute path", r"/[\s\S]*"))


def _as_written(values: dict[str, Any], _: str) -> dict[str, Any]:
    return values


KEYS = Table(
    Settings,
    (
        Key("confinement", Choice(Confinement), "what must hold the VM"),
        Key("unknown_options", Choice(UnknownOptions), "what happens to an option of QEMU that is not known"),
        Key("extra_paths", _PATHS, "files that VMs will be told to open while they run", ("extra_files",)),
        Key("extra_readonly", _PATHS, "the same, only to be read"),
        Key("label_trees", _PATHS, "folders whose whole tree may be labelled for a VM that shares it"),
        Key("require_domain", YesNo(), "start nothing where the launcher's own domain is missing"),
    ),
    _as_written,
    "the launcher's options",
)
"""The keys of a settings file. `build` keeps what was written: what is left out stays as an earlier file has it."""


def parse(text: str, file: str, before: Settings) -> Settings:
    """Return `before` with what `text` sets in its place; `file` is only named in messages, nothing is opened.

    Raises:
        SpecError: the text is no such file; `problems` holds `file:line:column: key: what; how to mend` for each.
    """
    if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
        return before  # all of it is commented out
    problems = Problems(file)
    values: Any = {}
    with suppress(TooMany):
        root = compose(text, problems)
        if isinstance(root, Mapping):
            values = KEYS.read(root, "", problems)
        elif isinstance(root, Scalar | Sequence):
            problems.add(root.mark, "", "settings are a mapping (key: value)", "for example: unknown_options: warn")
    if (error := problems.error) is not None:
        raise error
    return replace(before, **values)
