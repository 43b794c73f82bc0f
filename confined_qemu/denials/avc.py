"""SELinux's denials as the kernel records them: lines of the audit log or of the kernel log, to values. Pure.

The kernel quotes what others chose (a program's name, a file's), or writes it in hexadecimal where it holds a quote,
a space or a control character (audit_log_n_untrustedstring of kernel/audit.c). Values here are as they were chosen,
stray bytes as surrogates: what prints them escapes them.
"""

from __future__ import annotations

import re

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.context import Context
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.frozen import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_AVC, _PATH, _CWD = ("AVC", "1400"), ("PATH", "1302"), ("CWD", "1307")
"""Record types by name (the audit log's) and by number (linux/audit.h, the kernel log's). USER_AVC is none of them:
it is a daemon's word about its own objects, not the kernel's."""
_RECORD = re.compile(
    r"(?:node=\S+ )?(?:audit: )?type=(\w+) (?:msg=)?audit\(([0-9]{1,12})\.([0-9]{3}):([0-9]{1,20})\): ?(.*)", re.DOTALL
)
_DENIED = re.compile(r"avc: +(denied|granted) +\{ ?([a-z0-9_ ]*)\} for +(.*)", re.DOTALL)
_FIELD = re.compile(r"(?:^| )([a-z_][a-z0-9_-]*)=(\"[^\"]*\"|\S*)")
_HEXADECIMAL = re.compile(r"(?:[0-9A-F]{2})+")
_CHOSEN = frozenset({"comm", "exe", "path", "name", "dev", "cwd"})
"""The fields that hold text of others: unquoted it is hexadecimal."""
_ENRICHED = "\x1d"
"""What parts a record from what auditd adds to it for readers (log_format = ENRICHED)."""


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """Which event of the kernel: when, in milliseconds of the clock's time, and its number."""

    time: int
    serial: int


@dataclass(frozen=True, slots=True)
class Denial:
    """One access that was denied, or that a permissive kernel or domain would have denied.

    `pid` is the process, not the thread. `path` is whole where the kernel knew it; else `name` is the last part of
    it, on the file system that the kernel calls `device`. None stands for what the record does not say.
    """

    stamp: Stamp
    permissions: tuple[str, ...]
    source: Context
    target: Context
    kind: str
    pid: int | None = None
    comm: str | None = None
    path: str | None = None
    name: str | None = None
    device: str | None = None
    inode: int | None = None
    permissive: bool = False


@dataclass(frozen=True, slots=True)
class _Record:
    kind: str
    stamp: Stamp
    text: str


def _record(line: str) -> _Record | None:
    match = _RECORD.match(line)
    if match is None:
        return None
    stamp = Stamp(int(match[2]) * 1000 + int(match[3]), int(match[4]))
    return _Record(match[1], stamp, match[5].partition(_ENRICHED)[0].rstrip("\n"))


def stamp_of(line: str) -> Stamp | None:
    """Return which event a line belongs to; None where it is no record."""
    record = _record(line)
    return record.stamp if record is not None else None


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _FIELD.finditer(text):
        # the first counts: what follows may be others' words
        found.setdefault(match[1], _value(match[1], match[2]))
    return found


def _value(key: str, text: str) -> str:
    if text.startswith('"'):
        return text.strip('"')
    if key in _CHOSEN and _HEXADECIMAL.fullmatch(text):
        return bytes.fromhex(text).decode("utf-8", "surrogateescape")
    return text


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _known(fields: dict[str, str], key: str) -> str | None:
    value = fields.get(key)
    return None if value in (None, "", "(null)", "?") else value


def _verdict(record: _Record, word: str) -> Denial | None:
    match = _DENIED.match(record.text) if record.kind in _AVC else None
    if match is None or match[1] != word:
        return None
    fields = _fields(match[3])
    try:
        source, target = (Context.parse(fields[key]) for key in ("scontext", "tcontext"))
        kind = fields["tclass"]
    except (KeyError, ValueProblem):
        return None  # cut off, or of a policy without names for it
    return Denial(
        record.stamp,
        tuple(sorted(set(match[2].split()))),
        source,
        target,
        kind,
        _number(fields.get("pid")),
        _known(fields, "comm"),
        _known(fields, "path"),
        _known(fields, "name"),
        _known(fields, "dev"),
        _number(fields.get("ino")),
        fields.get("permissive") == "1",
    )


def granted(line: str) -> Denial | None:
    """Return what a line says was allowed (a rule of the policy asks for the record); None for any other line."""
    record = _record(line)
    return _verdict(record, "granted") if record is not None else None


def denials(lines: Iterable[str]) -> tuple[Denial, ...]:
    """Return every denial among these lines, in the order of events; what is no denial is passed over.

    The other records of the same event (PATH, CWD: there where the host audits system calls) complete a path.
    """
    found: dict[Denial, None] = {}
    paths: dict[Stamp, list[dict[str, str]]] = {}
    folders: dict[Stamp, str] = {}
    for line in lines:
        record = _record(line)
        if record is None:
            continue
        if record.kind in _PATH:
            paths.setdefault(record.stamp, []).append(_fields(record.text))
        elif record.kind in _CWD:
            folders[record.stamp] = _fields(record.text).get("cwd", "")
        elif (denial := _verdict(record, "denied")) is not None:
            found[denial] = None
    whole = (_completed(denial, paths.get(denial.stamp, []), folders.get(denial.stamp)) for denial in found)
    return tuple(sorted(whole, key=lambda denial: denial.stamp))


def _completed(denial: Denial, paths: list[dict[str, str]], folder: str | None) -> Denial:
    if denial.path is not None or denial.inode is None:
        return denial
    for path in _absolute(paths, denial.inode, folder):
        return replace(denial, path=path)
    return denial


def _absolute(paths: list[dict[str, str]], inode: int, folder: str | None) -> Iterator[str]:
    for fields in paths:
        name = _known(fields, "name")
        if name is None or _number(fields.get("inode")) != inode:
            continue
        if name.startswith("/"):
            yield name
        elif folder:
            yield f"{folder.rstrip('/')}/{name}"
