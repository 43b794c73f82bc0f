"""SELinux's denials as the kernel records them: lines of the audit log or of the kernel log, to values. Pure.

The kernel quotes what others chose (a program's name, a file's), or writes it in hexadecimal where it holds a quote,
a space or a control character (audit_log_n_untrustedstring of kernel/audit.c). Values here are as they were chosen,
stray bytes as surrogates: what prints them escapes them.
"""

from __future__ import annotations

import re

from confined_qemu.model.context import Context
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace

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


# a log has hundreds of thousands of records, so one is a match of _RECORD, taken apart as far as it is needed


def _stamp(record: re.Match[str]) -> Stamp:
    return Stamp(int(record[2]) * 1000 + int(record[3]), int(record[4]))


def _text(record: re.Match[str]) -> str:
    return record[5].partition(_ENRICHED)[0].rstrip("\n")


def time_of(line: str) -> int | None:
    """Return when a line's event was, in milliseconds of the clock; None where it is no record."""
    record = _RECORD.match(line)
    return int(record[2]) * 1000 + int(record[3]) if record is not None else None


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


def _verdict(record: re.Match[str], word: str, known: dict[str, Context]) -> Denial | None:
    """Return what a record says that it `denied` or `granted`; `known` are the contexts that were parsed already."""
    match = _DENIED.match(_text(record)) if record[1] in _AVC else None
    if match is None or match[1] != word:
        return None
    fields = _fields(match[3])
    try:
        source, target = (_context(fields[key], known) for key in ("scontext", "tcontext"))
        kind = fields["tclass"]
    except (KeyError, ValueProblem):
        return None  # cut off, or of a policy without names for it
    return Denial(
        _stamp(record),
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


def _context(text: str, known: dict[str, Context]) -> Context:
    if text not in known:
        known[text] = Context.parse(text)
    return known[text]


def granted(line: str) -> Denial | None:
    """Return what a line says was allowed (a rule of the policy asks for the record); None for any other line."""
    record = _RECORD.match(line)
    return _verdict(record, "granted", {}) if record is not None else None


def denials(lines: Iterable[str]) -> tuple[Denial, ...]:
    """Return every denial among these lines, in the order of events; what is no denial is passed over.

    The other records of the same event (PATH, CWD: there where the host audits system calls) complete a path.
    """
    found: dict[tuple[str, ...], Denial] = {}
    others: dict[tuple[str, ...], list[re.Match[str]]] = {}
    contexts: dict[str, Context] = {}
    for line in lines:
        record = _RECORD.match(line)
        if record is None:
            continue
        event = record.group(2, 3, 4)
        if record[1] in _PATH or record[1] in _CWD:
            others.setdefault(event, []).append(record)
            continue
        same = (*event, _text(record))  # the audit log and the kernel's may both have it
        if same not in found and (denial := _verdict(record, "denied", contexts)) is not None:
            found[same] = denial
    whole = (_completed(denial, others.get(key[:3], [])) for key, denial in found.items())
    return tuple(sorted(whole, key=lambda denial: (denial.stamp.time, denial.stamp.serial)))


def _completed(denial: Denial, records: list[re.Match[str]]) -> Denial:
    """Return a denial with its path, as the other records of its event say it."""
    if denial.path is not None or denial.inode is None:
        return denial
    its = f"inode={denial.inode}"
    paths = [_fields(_text(record)) for record in records if record[1] in _PATH and its in record[5]]
    if not paths:
        return denial
    folders = [_fields(_text(record)).get("cwd", "") for record in records if record[1] in _CWD]
    for path in _absolute(paths, denial.inode, folders[-1] if folders else None):
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
