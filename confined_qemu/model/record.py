"""What the journal says of one VM, as values and as JSON. Pure."""

from __future__ import annotations

from typing import Any

from confined_qemu.model.context import Context
from confined_qemu.model.facts import FileKind, Identity
from confined_qemu.model.frozen import dataclass, names
from confined_qemu.model.steps import Bind, Create, JournalStep, KeepFolder, LabelTree, MakeFolder, Relabel, Sweep

_FORMAT = 1
_CONTEXTS = frozenset({"before", "after", "restore", "context", "file_context", "socket_context", "given"})
_STEPS: dict[str, type[JournalStep]] = {
    "relabel": Relabel,
    "create": Create,
    "folder": MakeFolder,
    "bind": Bind,
    "keep-folder": KeepFolder,
    "sweep": Sweep,
    "tree": LabelTree,
}


@dataclass(frozen=True, slots=True)
class Grant:
    """A file that a running VM was given (`allow`): its path without links, and the steps for it and its chain."""

    path: str
    steps: tuple[JournalStep, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What the journal says of one VM. `pid` and `start_ticks` are the launcher's, which becomes QEMU.

    `steps` are the launch's, `grants` what came later. `shared`: other VMs may run in its context too (static labels),
    so that no context tells its processes: they hold its live file locked (`journal.hold`).
    """

    name: str
    boot_id: str
    pid: int
    start_ticks: int
    accel: str
    context: Context
    steps: tuple[JournalStep, ...]
    shared: bool = False
    grants: tuple[Grant, ...] = ()

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
        "shared": record.shared,
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
    """Return the record of a value that `encode` made; other values raise whatever Python raises for them."""
    if data["format"] != _FORMAT:
        raise ValueError(f"format {data['format']}")
    return Record(
        str(data["name"]),
        str(data["boot_id"]),
        int(data["pid"]),
        int(data["start_ticks"]),
        str(data["accel"]),
        Context.parse(data["context"]),
        tuple(_step(dict(step)) for step in data["steps"]),
        bool(data.get("shared", False)),
    )


def decode_grants(data: Any) -> tuple[Grant, ...]:
    """Return the grants of a value that `encode_grants` made; other values raise whatever Python raises for them."""
    if data["format"] != _FORMAT:
        raise ValueError(f"format {data['format']}")
    return tuple(
        Grant(_path(grant["path"]), tuple(_step(dict(step)) for step in grant["steps"])) for grant in data["grants"]
    )


def _path(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"path {value!r}")
    return value


def _step(values: dict[str, Any]) -> JournalStep:
    kind = _STEPS[values.pop("step")]
    values.pop("truncate", None)  # in journals of older versions
    for name, value in values.items():
        if name in _CONTEXTS and value is not None:
            values[name] = Context.parse(value)
        elif name == "identity" and value is not None:
            values[name] = Identity(**value)
        elif name == "kind":
            values[name] = FileKind(value)
        elif name == "path":
            _path(value)
    return kind(**values)
