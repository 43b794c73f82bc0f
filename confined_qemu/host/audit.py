"""Reads what SELinux denied: auditd's log from its end back to a moment, and the kernel's own log.

While auditd runs the kernel hands it every record; without it, and before it started, they are in the kernel's log.
What cannot be read is an error, never "no denials".
"""

from __future__ import annotations

import os
import re
import select
import time

from confined_qemu.denials import avc
from confined_qemu.model.errors import HostError, why
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG = "/var/log/audit/audit.log"
KERNEL_LOG = "/dev/kmsg"
_CONFIGURATION = "/etc/audit/auditd.conf"
_PIDFILE = "/run/auditd.pid"
"""There while auditd runs. One that a crash left makes the audit log required, and the kernel's not."""
_BLOCK = 1 << 18
_MOST = 1 << 26
"""Bytes of the audit log that are read at most: more than auditd keeps by default (5 files of 8 MiB)."""
_ROTATED = 99
"""auditd keeps no more files (auditd.conf(5), num_logs)."""
_PATIENCE = 3.0
"""Seconds to wait for a record that the kernel has queued and auditd not yet written: it does so within
milliseconds, unless it is stopped or its disk is full."""
_LOOK_AGAIN = 0.02
_TAIL = 1 << 16
_KERNEL_FACILITY = 0
"""Anyone who may write to the kernel's log may write lines like its own, under another facility (printk.c)."""
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_SUPPRESSED = b"kauditd_printk_skb: "
_RELEVANT = re.compile(rb"avc:|type=PATH|type=CWD|type=1302|type=1307")


@dataclass(frozen=True, slots=True)
class Log:
    """The denials since a moment. `gap`: a sentence about what could not be had any more, None when all is there."""

    denials: tuple[avc.Denial, ...]
    gap: str | None = None


def read(since: int) -> Log:
    """Return the denials since `since` (milliseconds of the clock's time).

    Raises:
        HostError: they cannot be read; with the way out.
    """
    path = _log_path()
    lines, gap = _audit_log(path, since)
    if lines is None and _auditd_runs():
        raise HostError("no audit log here, although auditd runs", where=path, hint=f"see log_file in {_CONFIGURATION}")
    kernel = _kernel_log(required=not _auditd_runs())
    found = avc.denials([*kernel.lines, *(lines or ())])
    since_then = tuple(denial for denial in found if denial.stamp.time >= since)
    if not _auditd_runs():
        if kernel.began is not None and kernel.began > since:
            gap = "the kernel's log has lost what came before its first line, which auditd would have kept"
        elif kernel.suppressed >= since:
            gap = "the kernel's log drops records when many come at once, which auditd would have kept"
    return Log(since_then, gap)


def await_own_entry(domain: str) -> bool:
    """Wait until the record of this process's entry into `domain` is in the log, and with it all earlier ones.

    The policy asks for that record (auditallow), and neither kernel nor auditd changes the order. False when it
    does not come in time.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        for line in _tail():
            entry = avc.granted(line)
            if entry is not None and entry.pid == os.getpid() and entry.target.type == domain:
                return True
        if time.monotonic() > deadline:
            return False
        select.select((), (), (), _LOOK_AGAIN)


def _tail() -> list[str]:
    """Return the last lines of the log that records go to now; none where they are unreadable: `read` says why."""
    path = _log_path()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = os.pread(file.fileno(), _TAIL, max(0, size - _TAIL))
    except OSError:
        data = b""
    lines = [_text(line) for line in data.split(b"\n") if b"granted" in line]
    if not lines and not _auditd_runs():
        lines = _kernel_log(required=False).lines
    return lines


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


# ---- auditd's log


def _log_path() -> str:
    """Return where auditd writes, as its configuration says where that can be read."""
    try:
        with open(_CONFIGURATION, encoding="utf-8", errors="replace") as file:
            settings = dict(_setting(line) for line in file if "=" in line and not line.startswith("#"))
    except OSError:
        return LOG
    return settings.get("log_file", LOG)


def _setting(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip()


def _audit_log(path: str, since: int) -> tuple[list[str] | None, str | None]:
    """Return the relevant lines of the log and its rotated files, and what was left out; None where there is no log."""
    found: list[bytes] = []
    seen: set[tuple[int, int]] = set()
    left = _MOST
    for number in range(_ROTATED):
        try:
            with open(path if number == 0 else f"{path}.{number}", "rb") as file:
                state = os.fstat(file.fileno())
                if (state.st_dev, state.st_ino) in seen:
                    continue  # rotated while this is read
                seen.add((state.st_dev, state.st_ino))
                done, left = _backwards(file.fileno(), state.st_size, since, left, found.append)
        except FileNotFoundError:
            if number == 0 and _rotating(path):
                continue
            break
        except OSError as error:
            raise HostError(
                f"the audit log cannot be read: {why(error)}",
                where=path,
                hint="run it as root: sudo confined-qemu denials",
            ) from error
        if done:
            break
        if left <= 0:
            return _in_order(found), f"only the last {_MOST >> 20} MiB of {path} were read"
    return (_in_order(found) if seen else None), None


def _rotating(path: str) -> bool:
    """Tell whether the log has just been renamed and not yet made anew."""
    return os.path.exists(f"{path}.1")


def _in_order(found: list[bytes]) -> list[str]:
    return [_text(line) for line in reversed(found)]


def _backwards(descriptor: int, size: int, since: int, left: int, add: Callable[[bytes], None]) -> tuple[bool, int]:
    """Hand the relevant lines of a file to `add`, the last one first.

    Returns whether a line older than `since` was met, and how many bytes may still be read of other files.
    """
    for line in _lines_backwards(descriptor, size, min(size, left)):
        if _RELEVANT.search(line) is None:
            continue
        time_of_it = avc.time_of(_text(line))
        if time_of_it is not None and time_of_it < since:
            return True, left
        add(line)
    return False, left - size


def _lines_backwards(descriptor: int, size: int, most: int) -> Iterator[bytes]:
    """Yield the whole lines of the last `most` bytes, the last one first."""
    rest, at, ended = b"", size, False
    while at > size - most:
        start = max(size - most, at - _BLOCK)
        # the first part may have begun before this block
        rest, *lines = (os.pread(descriptor, at - start, start) + rest).split(b"\n")
        if lines and not ended:
            lines.pop()  # behind the last newline: still being written
            ended = True
        yield from reversed(lines)
        at = start
    if ended and at == 0:
        yield rest


def _auditd_runs() -> bool:
    return os.path.exists(_PIDFILE)


# ---- the kernel's log


@dataclass(frozen=True, slots=True)
class _Kernel:
    lines: list[str]
    began: int | None = None
    """When its first line was written, in milliseconds of the clock; None when no line was lost."""
    suppressed: int = -1
    """When it last said that it left audit records out (printk_ratelimit); -1: never."""


def _kernel_log(*, required: bool) -> _Kernel:
    """Return the audit records in the kernel's log (dev-kmsg of the kernel's ABI documents).

    Raises:
        HostError: it is `required` and cannot be read.
    """
    try:
        descriptor = os.open(KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if required:
            raise HostError(
                f"auditd does not run, and the kernel's log cannot be read: {why(error)}",
                where=KERNEL_LOG,
                hint="run it as root: sudo confined-qemu denials",
            ) from error
        return _Kernel([])
    lines: list[str] = []
    began: int | None = None
    suppressed, first = -1, True
    try:
        while True:
            try:
                record = os.read(descriptor, 1 << 13)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # overwritten before it was read: the next read goes on behind it
            head, _, text = record.partition(b";")
            priority, sequence, microseconds = head.split(b",")[:3]
            if first and int(sequence) > 0:
                began = _clock(int(microseconds))
            first = False
            if int(priority) >> 3 == _KERNEL_FACILITY and text.startswith(b"audit: type="):
                lines.append(_unescaped(text.partition(b"\n")[0]))
            elif text.startswith(_SUPPRESSED) and int(priority) >> 3 == _KERNEL_FACILITY:
                suppressed = _clock(int(microseconds))
    except (OSError, ValueError) as error:
        raise HostError(f"the kernel's log cannot be read: {error}", where=KERNEL_LOG) from error
    finally:
        os.close(descriptor)
    return _Kernel(lines, began, suppressed)


def _clock(microseconds: int) -> int:
    """Return the clock's time, in milliseconds, of a moment counted from the boot."""
    booted = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return (booted + microseconds * 1000) // 1_000_000


def _unescaped(text: bytes) -> str:
    r"""Undo the kernel log's own `\x0a` for bytes that a line cannot hold."""
    return _text(_ESCAPE.sub(lambda match: bytes.fromhex(_text(match[1])), text))
