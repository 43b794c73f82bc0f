"""Records of the audit log and of the kernel log to denials; whatever a VM calls itself and its files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.denials import avc
from confined_qemu.denials.avc import Denial, Stamp
from confined_qemu.model.context import Context
from tests.strategies import hostile, stray

VM = "system_u:system_r:svirt_t:s0:c1,c2"
IMAGE = "system_u:object_r:svirt_image_t:s0:c3,c4"
HEAD = "type=AVC msg=audit(1795532557.308:72): "
TAIL = f"scontext={VM} tcontext={IMAGE} tclass=file permissive=0"
READ = f'{HEAD}avc:  denied  {{ read }} for  pid=287 comm="qemu" name="b.img" dev="vda" ino=9 {TAIL}'


def one(*lines: str) -> Denial:
    (denial,) = avc.denials(lines)
    return denial


def test_a_record_of_the_audit_log() -> None:
    assert one(READ + "\n") == Denial(
        Stamp(1795532557308, 72),
        ("read",),
        Context.parse(VM),
        Context.parse(IMAGE),
        "file",
        pid=287,
        comm="qemu",
        name="b.img",
        device="vda",
        inode=9,
    )


def test_the_same_in_the_kernels_log() -> None:
    assert one(READ.replace("type=AVC msg=audit", "audit: type=1400 audit")) == one(READ)


@pytest.mark.parametrize("before", ["node=host.example ", ""])
@pytest.mark.parametrize("after", ['\x1dARCH=x86_64 SYSCALL=openat UID="root"', "", "\n"])
def test_what_auditd_adds_is_no_part_of_it(before: str, after: str) -> None:
    assert one(before + READ + after) == one(READ)


def test_permissions_and_a_permissive_kernel() -> None:
    found = one(READ.replace("{ read }", "{ write read append }").replace("permissive=0", "permissive=1"))
    assert (found.permissions, found.permissive) == (("append", "read", "write"), True)


def test_an_event_in_both_logs_is_one() -> None:
    assert one(READ, READ.replace("type=AVC msg=audit", "audit: type=1400 audit"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "type=SYSCALL msg=audit(1795532557.308:72): arch=c000003e syscall=257 success=no exit=-13",
        READ.replace("type=AVC", "type=USER_AVC"),
        f"type=USER msg=audit(1795532557.308:72): pid=1 msg='{READ}'",
        READ.replace("denied", "granted"),
        'type=AVC msg=audit(1795532557.308:72): apparmor="DENIED" operation="open" name="/x" pid=1 comm="x"',
        READ.partition(" tcontext")[0],
        READ.replace(IMAGE, "#17"),
        READ.replace("1795532557.308", "1795532557308"),
    ],
)
def test_what_is_no_denial(line: str) -> None:
    assert avc.denials([line]) == ()


def test_what_a_rule_allows_and_records() -> None:
    found = avc.granted(READ.replace("denied", "granted"))
    assert found is not None
    assert found.pid == 287
    assert avc.granted(READ) is None


PATHS = (
    'type=CWD msg=audit(1795532557.308:72): cwd="/var/lib/libvirt/images"',
    'type=PATH msg=audit(1795532557.308:72): item=0 name="/var/lib/libvirt/images" inode=2 nametype=PARENT',
    'type=PATH msg=audit(1795532557.308:72): item=1 name="sub/b.img" inode=9 nametype=NORMAL',
)


def test_the_records_of_the_same_event_complete_the_path() -> None:
    assert one(READ, *PATHS).path == "/var/lib/libvirt/images/sub/b.img"
    assert one(*PATHS, READ).path == "/var/lib/libvirt/images/sub/b.img"
    assert one(READ, PATHS[2].replace('"sub/b.img"', '"/b.img"')).path == "/b.img"
    assert one(READ, *(line.replace(":72)", ":73)") for line in PATHS)).path is None
    assert one(READ, PATHS[0], PATHS[2].replace("inode=9", "inode=8")).path is None


def test_denials_come_in_the_order_of_events() -> None:
    later = READ.replace(":72)", ":73)")
    assert [denial.stamp.serial for denial in avc.denials([later, READ])] == [72, 73]


def recorded(text: str) -> str:
    """Return how the kernel writes a text that somebody else chose (audit_log_n_untrustedstring)."""
    data = text.encode("utf-8", "surrogateescape")
    if any(byte < 0x21 or byte > 0x7E or byte == 0x22 for byte in data):
        return data.hex().upper()
    return f'"{text}"'


@given(hostile | stray, hostile | stray)
def test_any_name_is_read_as_it_was_chosen(comm: str, name: str) -> None:
    line = READ.replace('comm="qemu" name="b.img"', f"comm={recorded(comm)} name={recorded(name)}")
    expected = tuple(None if text in ("?", "(null)") else text for text in (comm, name))
    found = one(line)
    assert (found.comm, found.name) == expected
    assert (found.pid, str(found.source), str(found.target), found.kind) == (287, VM, IMAGE, "file")


@given(st.text() | hostile, st.integers(0, len(READ)))
def test_any_line_gets_an_answer(text: str, cut: int) -> None:
    for line in (text, READ[:cut] + text, READ[:cut] + text + READ[cut:], HEAD + text):
        avc.denials([line])
        avc.granted(line)
        avc.time_of(line)
