"""Reading the audit log from its end, the rotated files, the kernel's log, and what cannot be read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.host import audit
from confined_qemu.model.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 1000


def record(second: int, serial: int, *, word: str = "denied", pid: int = 1) -> str:
    return (
        f'type=AVC msg=audit({second}.000:{serial}): avc:  {word}  {{ read }} for  pid={pid} comm="q" ino=9 '
        "scontext=u:r:svirt_t:s0 tcontext=u:r:domain_t:s0 tclass=file permissive=0\n"
    )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the logs of a host where auditd runs: `audit.log`, `kmsg` and `auditd.pid`."""
    for name, value in (("LOG", "audit.log"), ("KERNEL_LOG", "kmsg"), ("_PIDFILE", "auditd.pid")):
        monkeypatch.setattr(audit, name, str(tmp_path / value))
    monkeypatch.setattr(audit, "_CONFIGURATION", str(tmp_path / "auditd.conf"))
    monkeypatch.setattr(audit, "_kernel_log", lambda **_: audit._Kernel([]))
    (tmp_path / "auditd.pid").write_text("1\n")
    return tmp_path


def serials(since: int) -> list[int]:
    return [denial.stamp.serial for denial in audit.read(since * SECOND).denials]


def test_only_what_came_since(host: Path) -> None:
    (host / "audit.log").write_text("".join(record(second, second) for second in range(100, 120)))
    assert serials(115) == [115, 116, 117, 118, 119]
    assert serials(0) == list(range(100, 120))
    assert serials(120) == []


def test_rotated_files_newest_first(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, seconds in (("", (30, 31)), (".1", (20, 21)), (".2", (10, 11))):
        (host / f"audit.log{number}").write_text("".join(record(second, second) for second in seconds))
    assert serials(0) == [10, 11, 20, 21, 30, 31]
    monkeypatch.setattr(audit, "_ROTATED", 2)  # the third is not needed
    assert serials(21) == [21, 30, 31]


def test_a_log_that_is_being_rotated(host: Path) -> None:
    (host / "audit.log.1").write_text(record(20, 20))
    assert serials(0) == [20]


def test_a_record_that_is_being_written_is_not_read(host: Path) -> None:
    (host / "audit.log").write_text(record(20, 20) + record(21, 21)[:-1])
    assert serials(0) == [20]


def test_the_log_lies_where_auditd_puts_it(host: Path) -> None:
    (host / "other.log").write_text(record(20, 20))
    (host / "auditd.conf").write_text(f"# x = y\nlocal_events = yes\nlog_file = {host}/other.log\n")
    assert serials(0) == [20]


def test_more_than_may_be_read_is_said(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_MOST", 2 * len(record(20, 20)))
    (host / "audit.log").write_text("".join(record(second, second) for second in range(20, 30)))
    found = audit.read(0)
    assert [denial.stamp.serial for denial in found.denials] == [29]
    assert found.gap is not None


def test_no_log_while_auditd_runs_is_an_error(host: Path) -> None:
    with pytest.raises(HostError, match=r"audit.log: no audit log here, although auditd runs\n  see log_file"):
        audit.read(0)
    (host / "audit.log").mkdir()
    with pytest.raises(HostError, match=r"Is a directory\n  run it as root: sudo confined-qemu denials"):
        audit.read(0)


def test_without_auditd_the_kernels_log_must_be_there(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(audit, "LOG", str(host / "audit.log"))
    monkeypatch.setattr(audit, "KERNEL_LOG", str(host / "kmsg"))
    monkeypatch.setattr(audit, "_PIDFILE", str(host / "none.pid"))
    monkeypatch.setattr(audit, "_CONFIGURATION", str(host / "none.conf"))
    with pytest.raises(HostError, match=r"kmsg: auditd does not run, and the kernel's log cannot be read"):
        audit.read(0)


class Kmsg:
    """A kernel's log: each read is a record, until none is left."""

    def __init__(self, *records: bytes | OSError) -> None:
        self.records = list(records)

    def read(self, _descriptor: int, _most: int) -> bytes:
        if not self.records:
            raise BlockingIOError
        found = self.records.pop(0)
        if isinstance(found, OSError):
            raise found
        return found


def kernel(monkeypatch: pytest.MonkeyPatch, *records: bytes | OSError) -> audit._Kernel:
    with monkeypatch.context() as patch:
        patch.setattr(audit, "KERNEL_LOG", os.devnull)
        patch.setattr(os, "read", Kmsg(*records).read)
        return audit._kernel_log(required=True)


LINE = record(20, 20).replace("type=AVC msg=audit", "audit: type=1400 audit").rstrip("\n").encode()


def test_the_kernels_own_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernel(
        monkeypatch,
        b"5,0,100,-;Linux version\n",
        b"5,1,200,-;" + LINE + b"\n SUBSYSTEM=x\n",
        BrokenPipeError(),
        b"13,2,300,-;" + LINE + b"\n",  # somebody's own writing
    )
    assert found.lines == [LINE.decode()]
    assert found.began is None


def test_a_kernels_log_that_lost_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernel(monkeypatch, b"5,77,100,-;" + LINE.replace(b'"q"', b"\\x22q\\x5c\\x22") + b"\n")
    assert found.began is not None
    assert 'comm="q\\"' in found.lines[0]


def test_a_kernels_log_that_left_records_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel(monkeypatch, b"5,0,100,-;kauditd_printk_skb: 12 callbacks suppressed\n").suppressed > 0


def test_that_records_were_left_out_is_said(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = audit._Kernel([], suppressed=5000)
    (host / "auditd.pid").unlink()
    monkeypatch.setattr(audit, "_kernel_log", lambda **_: found)
    assert audit.read(found.suppressed).gap is not None
    assert audit.read(found.suppressed + 1).gap is None


def test_what_is_no_kernels_log(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="cannot be read"):
        kernel(monkeypatch, b"garbage\n")


def test_the_own_entry_is_awaited(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host / "audit.log").write_text(record(20, 20, word="granted", pid=os.getpid()))
    assert audit.await_own_entry("domain_t")
    monkeypatch.setattr(audit, "_PATIENCE", 0.0)
    assert not audit.await_own_entry("other_t")
    (host / "audit.log").unlink()
    assert not audit.await_own_entry("domain_t")


@given(st.binary(max_size=300), st.integers(1, 40), st.integers(0, 320))
def test_lines_backwards_are_the_lines(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, block: int, most: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    before, audit._BLOCK = audit._BLOCK, block
    try:
        found = list(audit._lines_backwards(descriptor, len(data), min(most, len(data))))
    finally:
        audit._BLOCK = before
        os.close(descriptor)
    whole = data.split(b"\n")[:-1]
    if most >= len(data):
        assert found[::-1] == whole
    else:
        assert found[::-1] == data[len(data) - most :].split(b"\n")[1:-1]
