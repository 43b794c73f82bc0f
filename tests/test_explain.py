"""Each denial in one line: what mends it, or why it must stay denied; as reviewed text in tests/golden/denials."""

from __future__ import annotations

import shlex
import subprocess
from textwrap import indent
from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from confined_qemu.denials import avc
from confined_qemu.denials.attribution import Line
from confined_qemu.denials.explain import explain
from confined_qemu.denials.verdict import Case, Verdict, quoted
from confined_qemu.model.answers import Answer, Reason, Setting
from confined_qemu.model.context import Context
from confined_qemu.model.lean import dataclass, replace
from tests.messages import is_message
from tests.strategies import contexts, hostile, stray

if TYPE_CHECKING:
    from collections.abc import Callable

VM = "system_u:system_r:svirt_t:s0:c1,c2"
LAUNCHER = "unconfined_u:unconfined_r:confined_qemu_t:s0"
TYPES, CONSTRAINT, SILENT = Answer(Reason.TYPES), Answer(Reason.CONSTRAINT), Answer(Reason.SILENT)
IMAGES = "/var/lib/libvirt/images"


def on(*names: str) -> Answer:
    return Answer(Reason.BOOLEANS, tuple(Setting(name, on=True) for name in names))


@dataclass(frozen=True)
class Example:
    """A denial: permissions, the target's type and range (or a whole context), class, and what is known."""

    permissions: str
    target: str
    kind: str
    answer: Answer = TYPES
    path: str | None = None
    owner: str | None = None
    source: str = VM
    fields: str = ""
    default: str | None = None
    given: str | None = None
    running: str | None = None

    def case(self) -> Case:
        target = self.target if ":" in self.target.partition("_t")[0] else f"system_u:object_r:{self.target}"
        record = (
            f"type=AVC msg=audit(1795532557.308:72): avc:  denied  {{ {self.permissions} }} for  pid=287 "
            f'comm="qemu-system-x86" {self.fields} scontext={self.source} tcontext={target} tclass={self.kind}'
        )
        (denial,) = avc.denials([record])
        default = Context.parse(self.default) if self.default is not None else None
        return Case(denial, self.answer, self.owner, self.path, default, self.given, self.running)


EXAMPLES = {
    "the page's example": Example("execmem", VM, "process", on("virt_use_execmem")),
    "the same after the boolean": Example("execmem", VM, "process", Answer(Reason.ALLOWED)),
    "execstack in Fedora's TCG domain": Example("execmem", VM, "process", TYPES),
    "another VM's image": Example("read", "svirt_image_t:s0:c3,c4", "file", CONSTRAINT, f"{IMAGES}/b.img", "b"),
    "an image at a level nobody is known by": Example("read", "svirt_image_t:s0:c3,c4", "file", CONSTRAINT),
    "another VM's process": Example("ptrace", "system_u:system_r:svirt_t:s0:c3,c4", "process", CONSTRAINT, None, "b"),
    "another VM's socket": Example(
        "connectto", "system_u:system_r:svirt_t:s0:c3,c4", "unix_stream_socket", CONSTRAINT, None, "b"
    ),
    "a secret at another VM's level": Example("read", "shadow_t:s0:c3,c4", "file"),
    "a client of a login shell": Example(
        "read write", "system_u:system_r:svirt_t:s0-s0:c0.c1023", "unix_stream_socket", CONSTRAINT
    ),
    "a pipe of a login shell": Example(
        "write", "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023", "fifo_file", CONSTRAINT
    ),
    "MLS, read up": Example(
        "read", "svirt_image_t:s3:c1", "file", CONSTRAINT, "/x.img", source="system_u:system_r:svirt_t:s2:c1.c5"
    ),
    "MLS, write down": Example(
        "write", "svirt_image_t:s1:c1", "file", CONSTRAINT, "/x.img", source="system_u:system_r:svirt_t:s2:c1.c5"
    ),
    "NFS": Example("read", "nfs_t:s0", "file", on("use_nfs_home_dirs", "virt_use_nfs"), "/mnt/x.img"),
    "SMB": Example("open", "cifs_t:s0", "file", on("use_samba_home_dirs", "virt_use_samba")),
    "FUSE": Example("write", "fusefs_t:s0", "file", on("virt_use_fusefs")),
    "sysfs": Example("read", "sysfs_t:s0", "file", on("virt_use_sysfs", "virt_use_usb"), "/sys/x"),
    "memory nodes": Example("read", "sysfs_t:s0", "file", on("virt_use_sysfs"), fields='name="meminfo"'),
    "VFIO": Example("open", "vfio_device_t:s0", "chr_file", on("virt_use_vfio"), "/dev/vfio/7"),
    "evdev": Example("read", "event_device_t:s0", "chr_file", on("virt_use_evdev")),
    "a broad boolean": Example("read", "odd_t:s0", "file", on("domain_reads_odd")),
    "a boolean to switch off": Example(
        "read", "odd_t:s0", "file", Answer(Reason.BOOLEANS, (Setting("virt_secure", on=False),))
    ),
    "io_uring": Example("create", VM, "anon_inode", on("confined_qemu_use_io_uring"), fields="anonclass=[io_uring]"),
    "root without DAC": Example("dac_override", VM, "capability"),
    "tap by name": Example("net_admin", VM, "capability"),
    "runas": Example("setuid", VM, "capability"),
    "chroot": Example("sys_chroot", VM, "capability"),
    "an odd capability": Example("wake_alarm", VM, "capability2"),
    "secrets": Example("read", "shadow_t:s0", "file", path="/etc/shadow"),
    "a system's file": Example("write", "etc_t:s0", "file", path="/etc/passwd"),
    "the journal": Example("read", "confined_qemu_var_lib_t:s0", "file"),
    "enforcing mode": Example("write", "security_t:s0", "file", path="/sys/fs/selinux/enforce"),
    "a signal to init": Example("signal", "system_u:system_r:init_t:s0", "process"),
    "an unlabelled file": Example("read", "unlabeled_t:s0", "file", path="/srv/x y.img"),
    "an unlabelled file whose path is unknown": Example("read", "unlabeled_t:s0", "file", fields='name="x.img"'),
    "a device without a label": Example("read", "device_t:s0", "chr_file", path="/dev/kvm"),
    "a moved image": Example(
        "read", "user_home_t:s0", "file", path=f"{IMAGES}/a.img", default="system_u:object_r:virt_image_t:s0"
    ),
    "its own image after a restorecon": Example(
        "write", "virt_image_t:s0", "file", path=f"{IMAGES}/a.img", given="system_u:object_r:svirt_image_t:s0:c1,c2"
    ),
    "its own image on NFS": Example(
        "write", "nfs_t:s0", "file", on("virt_use_nfs"), f"{IMAGES}/a.img", given="system_u:object_r:nfs_t:s0"
    ),
    "an image opened later": Example(
        "read", "virt_image_t:s0", "file", path=f"{IMAGES}/c.img", default="system_u:object_r:virt_image_t:s0"
    ),
    "the same, and the VM runs": Example(
        "read write", "virt_image_t:s0", "file", path=f"{IMAGES}/it's\n.img", running="a b",
        default="system_u:object_r:virt_image_t:s0",
    ),
    "the same, moved there": Example(
        "read", "user_home_t:s0", "file", path=f"{IMAGES}/c.img", running="a",
        default="system_u:object_r:virt_image_t:s0",
    ),
    "the same, path unknown": Example("read", "virt_image_t:s0", "file", fields='name="c.img" ino=7', running="a"),
    "a screen's file, and the VM runs": Example("write", "virt_image_t:s0", "dir", path=IMAGES, running="a"),
    "a disk of the host, and the VM runs": Example(
        "read", "fixed_disk_device_t:s0", "blk_file", path="/dev/sdb", running="a"
    ),
    "an image opened later, path unknown": Example("read", "virt_image_t:s0", "file", fields='name="c.img" ino=7'),
    "a place for other things": Example("read", "default_t:s0", "file", path="/builds/it's/x.img"),
    "a name with a newline": Example("read", "virt_image_t:s0", "file", path="/x\ny\x1b[31m.img"),
    "content": Example("write", "virt_content_t:s0", "file", path="/x.iso"),
    "a program": Example("execute", "shell_exec_t:s0", "file", path="/bin/sh"),
    "a new file": Example("add_name", "var_spool_t:s0", "dir", path="/var/spool"),
    "a folder on the way": Example("search", "admin_home_t:s0", "dir", path="/root"),
    "a disk of the host": Example("read", "fixed_disk_device_t:s0", "blk_file", path="/dev/sda"),
    "what nothing knows": Example("name_connect", "system_u:object_r:ssh_port_t:s0", "tcp_socket"),
    "a silent one": Example("read", "odd_t:s0", "file", SILENT),
    "a type that went away": Example("read", "odd_t:s0", "file", Answer(Reason.UNKNOWN)),
    "no audit2why to ask": Example("read", "odd_t:s0", "file", Answer(Reason.NO_RULE_NOW)),
    "roles": Example("transition", "system_u:system_r:svirt_t:s0:c1,c2", "process", Answer(Reason.ROLES), source=VM),
    "the launcher on a secret": Example("relabelfrom", "shadow_t:s0", "file", source=LAUNCHER, path="/etc/shadow"),
    "the launcher at /srv": Example("relabelfrom", "var_t:s0", "file", source=LAUNCHER, path="/srv/vms/a.img"),
    "the launcher looks at /proc": Example(
        "search", "system_u:system_r:init_t:s0", "dir", source=LAUNCHER, fields='name="1" dev="proc"'
    ),
}  # fmt: skip


def line(case: Case) -> str:
    return Line(case.denial, case.path, explain(case), 1).describe()


def test_the_explanations(golden: Callable[[str, str], None]) -> None:
    golden(
        "denials/explanations.txt", "".join(f"{name}\n{indent(line(e.case()), '  ')}\n" for name, e in EXAMPLES.items())
    )


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_every_explanation_is_a_mend_or_a_reason(example: Example) -> None:
    found = explain(example.case())
    if found.verdict is Verdict.MEND:
        assert found.command is not None or found.advice is not None
    for word in ("audit2allow", "setenforce", "permissive", "dontaudit"):
        assert word not in found.describe()


@given(contexts, contexts, hostile | stray, hostile | stray)
def test_a_hostile_name_stays_one_printable_line(source: Context, target: Context, path: str, comm: str) -> None:
    for example in EXAMPLES.values():
        case = example.case()
        denial = replace(case.denial, source=source, target=target, comm=comm, name=path, path=path)
        for answer in (case.answer, TYPES, CONSTRAINT):
            assert is_message(line(replace(case, denial=denial, path=path, owner=comm, answer=answer)))


@given(hostile | stray)
def test_a_quoted_path_is_printable(path: str) -> None:
    word = quoted(path)
    assert word.isprintable()
    if path.isprintable():
        assert shlex.split(word) == [path]


@pytest.mark.touches_host
def test_bash_reads_a_quoted_path_as_it_is() -> None:
    paths = ["/a b", "it's", "/x\ny\x1b[31m7.img", "\udcff\udc807", "/\u202e\u00e9'\\n$x`", "-e\t1"]
    script = "printf '%s\\0' " + " ".join(map(quoted, paths))
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.split(b"\0")[:-1] == [path.encode("utf-8", "surrogateescape") for path in paths]
