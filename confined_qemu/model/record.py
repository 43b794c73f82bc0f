"""What the journal says of one VM, as values and as JSON. Pure."""

from __future__ import annotations

from confined_qemu.model.context import Context
from confined_qemu.model.facts import FileKind, Identity
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, defaults, names
from confined_qemu.model.steps import (
    Bind,
    Create,
    JournalStep,
    KeepFolder,
    LabelTree,
    MakeFolder,
    OwnGroup,
    Relabel,
    Sweep,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_FORMAT = 1
MOST_STEPS = 10_000
"""Steps of a VM; a launch has some hundreds."""
_LONGEST = 4096
"""Characters of a path or a context: PATH_MAX bytes, where the kernel ends."""
_LONGEST_NAME = 1 << 17
"""Bytes of a VM's name, which is a word of QEMU's command line: MAX_ARG_STRLEN of execve(2)."""
_LONGEST_WORD = 64
_MOST_PIDS = 1 << 22
"""The highest pid of a 64-bit Linux (proc(5), pid_max)."""
_MOST = (1 << 64) - 1
_ALL_BITS = 0o7777
_NOT_FIELDS = frozenset({"step", "truncate"})
"""`truncate` is in journals of older versions."""
_STEPS: dict[str, type[JournalStep]] = {
    "relabel": Relabel,
    "create": Create,
    "folder": MakeFolder,
    "bind": Bind,
    "keep-folder": KeepFolder,
    "sweep": Sweep,
    "tree": LabelTree,
    "group": OwnGroup,
}


@dataclass(frozen=True, slots=True)
class Grant:
    """A file that a running VM was given (`allow`): its path without links, and the steps for it and its chain."""

    path: str
    steps: tuple[JournalStep, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What the journal says of one VM. `pid` and `start_ticks` are the launcher's, which becomes QEMU.

    `steps` are the launch's, `grants` what came later. `static`: its label was chosen by hand, and other
    VMs may have the same, so that no context tells its processes: they hold its live file locked (`journal.hold`).
    `domain`: the uuid of a Xen domain, which ends before its labels go back; None for QEMU's VMs. `landlock`: that
    holds the VM as well, so that it opens nothing more by a path.
    """

    name: str
    boot_id: str
    pid: int
    start_ticks: int
    accel: str
    context: Context
    steps: tuple[JournalStep, ...]
    static: bool = False
    grants: tuple[Grant, ...] = ()
    domain: str | None = None
    landlock: bool = False

    @property
    def all_steps(self) -> tuple[JournalStep, ...]:
        """All that was done for the VM, in its order."""
        return (*self.steps, *(step for grant in self.grants for step in grant.steps))


def encode(record: Record) -> dict[str, Any]:
    """Return a record, without its grants, as a value for JSON."""
    return {
        "format": _FORMAT,
        "name": record.name,
        "boot_id": record.boot_id,
        "pid": record.pid,
        "start_ticks": record.start_ticks,
        "accel": record.accel,
        "context": str(record.context),
        "shared": record.static,
        **({"domain": record.domain} if record.domain is not None else {}),
        **({"landlock": True} if record.landlock else {}),
        "steps": [_encode_step(step) for step in record.steps],
    }


def encode_grants(grants: tuple[Grant, ...]) -> dict[str, Any]:
    """Return what a running VM was given as a value for JSON."""
    rows = [{"path": grant.path, "steps": [_encode_step(step) for step in grant.steps]} for grant in grants]
    return {"format": _FORMAT, "grants": rows}


def _encode_step(step: JournalStep) -> dict[str, Any]:
    name = next(name for name, kind in _STEPS.items() if kind is type(step))
    return {"step": name, **_plain(step)}


def _plain(step: JournalStep) -> dict[str, Any]:
    return {name: _plain_value(getattr(step, name)) for name in names(step)}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Identity):
        return {name: getattr(value, name) for name in names(value)}
    return str(value) if isinstance(value, Context) else value


def decode(data: Any) -> Record:
    """Return the record of a value that `encode` made.

    Whoever owns the folder can write anything there, and root reads it: each field is of its type and in its bounds.

    Raises:
        ValueError, ValueProblem: it is no such value; the text quotes it, so it is to be made printable.
    """
    fields = _object(data, "a journal")
    if fields.get("format") != _FORMAT:
        raise ValueError(f"format {_shown(fields.get('format'))}")
    return Record(
        _text(fields.get("name"), "name", _LONGEST_NAME),
        _word(fields.get("boot_id"), "boot_id"),
        _number(fields.get("pid"), "pid", 1, _MOST_PIDS),
        _number(fields.get("start_ticks"), "start_ticks"),
        _word(fields.get("accel"), "accel"),
        _context(fields.get("context"), "context"),
        _steps(fields.get("steps")),
        _truth(fields.get("shared", False), "shared"),
        domain=_word(fields["domain"], "domain") if "domain" in fields else None,
        landlock=_truth(fields.get("landlock", False), "landlock"),
    )


def decode_grants(data: Any) -> tuple[Grant, ...]:
    """Return the grants of a value that `encode_grants` made.

    Raises:
        ValueError, ValueProblem: as `decode`.
    """
    fields = _object(data, "a list of grants")
    if fields.get("format") != _FORMAT:
        raise ValueError(f"format {_shown(fields.get('format'))}")
    rows = [_object(row, "a grant") for row in _rows(fields.get("grants"), "grants")]
    return tuple(Grant(_text(row.get("path"), "path"), _steps(row.get("steps"))) for row in rows)


# ---- what a stranger may have written


def _steps(value: Any) -> tuple[JournalStep, ...]:
    return tuple(_step(_object(row, "a step")) for row in _rows(value, "steps"))


def _step(values: dict[str, Any]) -> JournalStep:
    name = values.get("step")
    kind = _STEPS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"step {_shown(name)}")
    given = {key: value for key, value in values.items() if key not in _NOT_FIELDS}
    if not given.keys() <= set(names(kind)):
        raise ValueError(f"{name} has no {_shown(min(given.keys() - set(names(kind))))}")
    missing = set(names(kind)) - given.keys() - set(defaults(kind))
    if missing:
        raise ValueError(f"{name} without {min(missing)}")
    fields: dict[str, Any] = {
        key: None if value is None and (kind, key) in _MAY_BE_NONE else _FIELDS[key](value, key)
        for key, value in given.items()
    }
    return kind(**fields)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)} is not {what}")  # noqa: TRY004 - as all else that is wrong in a file
    return value


def _rows(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_STEPS:
        raise ValueError(f"{name} {_shown(value)}")
    return value


def _text(value: Any, name: str, longest: int = _LONGEST) -> str:
    """Return a name or a path: what the kernel could have handed over, which is no NUL and no half of a character."""
    if not isinstance(value, str) or "\0" in value or len(value) > longest:
        raise ValueError(f"{name} {_shown(value)}")
    value.encode("utf-8", "surrogateescape")  # a UnicodeError is a ValueError
    return value


def _word(value: Any, name: str) -> str:
    """Return a short word of a machine's: it is printed and compared, and has no space and no escape sequence."""
    if not isinstance(value, str) or len(value) > _LONGEST_WORD or not (value.isascii() and value.isprintable()):
        raise ValueError(f"{name} {_shown(value)}")
    return value


def _number(value: Any, name: str, least: int = 0, most: int = _MOST) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} {_shown(value)}")
    return value


def _truth(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} {_shown(value)}")  # noqa: TRY004 - as all else that is wrong in a file
    return value


def _context(value: Any, name: str) -> Context:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"{name} {_shown(value)}")
    return Context.parse(value)


def _identity(value: Any, name: str) -> Identity:
    fields = _object(value, name)
    if not fields.keys() <= set(names(Identity)):
        raise ValueError(f"{name} {_shown(value)}")
    generation = fields.get("generation")
    return Identity(
        _number(fields.get("device"), "device"),
        _number(fields.get("inode"), "inode"),
        None if generation is None else _number(generation, "generation"),
    )


def _kind(value: Any, name: str) -> FileKind:
    if not isinstance(value, str):
        raise ValueError(f"{name} {_shown(value)}")  # noqa: TRY004 - as all else that is wrong in a file
    return FileKind(value)


def _mode(value: Any, name: str) -> int:
    return _number(value, name, 0, _ALL_BITS)


def _shown(value: Any) -> str:
    """Return a value as a message quotes it: its start, so that nobody's gigabyte is repeated."""
    if isinstance(value, list | dict):
        return f"({len(value)} values)"
    return repr(value)[:_LONGEST_WORD]


_FIELDS: dict[str, Callable[[Any, str], Any]] = {
    "path": _text,
    "inner": _text,
    "name": _text,
    "identity": _identity,
    "kind": _kind,
    "mode": _mode,
    **dict.fromkeys(("links", "number", "count"), _number),
    **dict.fromkeys(("exclusive", "remove", "remove_empty", "by_qemu", "deep", "kills"), _truth),
    **dict.fromkeys(("before", "after", "restore", "context", "file_context", "socket_context", "given"), _context),
}
"""What reads a field of a step: one name means one thing in all of them."""
_MAY_BE_NONE: frozenset[tuple[type, str]] = frozenset(
    {(Relabel, "restore"), (Bind, "file_context"), (Bind, "socket_context"), (Bind, "inner"), (Sweep, "identity")}
)
