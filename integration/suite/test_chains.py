"""Whole chains: every file that an image's header names gets its label, and a hostile header gets nothing."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness, headers
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENT = HERE.content
KEPT = "virt_content_t:s0"
"""What every VM may read on every policy."""
PROBE = "confined_qemu_probe_t"
MEBIBYTE = bytes(1 << 20)


def raw(path: str) -> None:
    with open(path, "wb") as file:
        file.write(MEBIBYTE)


def disk(name: str, form: str = "qcow2", **more: Any) -> dict[str, Any]:
    return {"file": name, "format": form, **more}


def relabelled(folder: str) -> None:
    """Label all in a folder as the policy does, and check that nothing has another label."""
    subprocess.run(["restorecon", "-RF", folder], check=True)
    assert labels(folder) == {harness.UNUSED}


def labels(folder: str) -> set[str]:
    return {harness.short_label(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names}


def test_every_layer_has_its_label_while_the_vm_runs(image: harness.Image, folder: str) -> None:
    """Relative, absolute and json: names, names that bite, a data file beside a backing file, extents, odd headers."""
    sub = os.path.join(folder, "a ,\nb")
    os.mkdir(sub)
    base, data = os.path.join(folder, "base.raw"), os.path.join(folder, "data.raw")
    raw(base)
    raw(data)
    # top.qcow2 <- "a ,\nb/mid.qcow2" (behind a NUL there is more) <- json:{... base.raw}
    name = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": base}})
    headers.qcow2(os.path.join(sub, "mid.qcow2"), f"json:{name}".encode())
    top = os.path.join(folder, "top.qcow2")
    headers.qcow2(top, b"a ,\nb/mid.qcow2\0/etc/shadow", (headers.BACKING_FORMAT, b"qcow2"))
    # data file and backing file at once, in an order that libvirt's parser missed
    odd = os.path.join(folder, "odd.qcow2")
    extensions = [(headers.UNKNOWN, b"x" * 13), (headers.DATA_FILE, data.encode()), (headers.FEATURE_NAMES, b"")]
    headers.qcow2(odd, b"base.raw", *extensions, (headers.BACKING_FORMAT, b"raw"))
    extents = [os.path.join(folder, f"part{number}.raw") for number in (1, 2)]
    for extent in extents:
        raw(extent)
    headers.vmdk(os.path.join(folder, "split.vmdk"), "part1.raw", extents[1])
    disks = [disk("a.img", "raw", bus="ide"), disk("top.qcow2"), disk("odd.qcow2"), disk("split.vmdk", "vmdk")]
    image.write_spec(disks=disks)
    relabelled(folder)
    planned = json.loads(harness.confined("plan", "--json", image.spec).stdout)
    assert planned["refusals"] == []
    sources = {row["path"]: row["source"] for row in planned["resources"]}
    assert sources[os.path.join(sub, "mid.qcow2")] == "disks[1].file, backing 1"
    assert sources[data] == "disks[2].file, data file"

    vm = harness.boot_spec(image)
    private = f"svirt_image_t:{harness.level(harness.label(image.path))}"
    writable = (image.path, top, odd, data, os.path.join(folder, "split.vmdk"), *extents)
    assert {path: harness.short_label(path) for path in writable} == dict.fromkeys(writable, private)
    assert harness.short_label(os.path.join(sub, "mid.qcow2")) == CONTENT
    assert harness.short_label(base) == CONTENT
    assert harness.power_off(vm) == 0
    assert labels(folder) == {harness.UNUSED}


def test_vms_on_one_base(make_image: Callable[[str], harness.Image], folder: str) -> None:
    images = [make_image("a"), make_image("b")]
    base, kept = os.path.join(folder, "base.qcow2"), os.path.join(folder, "kept.raw")
    raw(kept)
    headers.overlay(base, "kept.raw", "raw")
    for image in images:
        headers.overlay(image.path, "base.qcow2", "qcow2")
        image.write_spec(disks=[disk(os.path.basename(image.path), bus="ide")])
    writer = make_image("c")
    relabelled(folder)
    harness.run("chcon", "-t", "virt_content_t", kept)  # what VMs may read already is left as it is
    first, second = (harness.boot_spec(image) for image in images)
    pid = harness.qemu_of(images[0].path)
    assert [harness.short_label(path) for path in (base, kept)] == [CONTENT, KEPT]
    # nobody writes what they build on, also where it kept its label, and nobody builds on what a live VM writes
    headers.overlay(writer.path, "b.img", "qcow2")
    writer.write_spec(disks=[disk("base.qcow2", bus="ide"), disk("kept.raw", "raw"), disk("c.img")])
    done = harness.confined("run", writer.spec)
    assert done.returncode == 125
    for path, user, of in ((base, "a", pid), (kept, "a", pid), (images[1].path, "b", harness.qemu_of(images[1].path))):
        assert any(path in line and f"VM {user} (pid {of})" in line for line in harness.lines(done.stderr)), done.stderr
    assert harness.power_off(first) == 0
    assert [harness.short_label(path) for path in (base, kept)] == [CONTENT, KEPT]
    assert harness.power_off(second) == 0
    assert [harness.short_label(path) for path in (base, kept)] == [harness.UNUSED, KEPT]


def test_hostile_headers_get_nothing(image: harness.Image, folder: str, audit: harness.AuditTrail) -> None:
    """One VM, a hostile image on each place: every one is refused with a line of its own, and nothing is labelled."""
    for name in ("pipe", "other-pipe"):
        os.mkfifo(os.path.join(folder, name))
    os.symlink("/etc/gshadow", os.path.join(folder, "innocent.raw"))
    headers.overlay(os.path.join(folder, "shadow"), "/etc/shadow", "raw")
    headers.overlay(os.path.join(folder, "link"), "innocent.raw", "raw")
    headers.overlay(os.path.join(folder, "itself"), "../" + os.path.basename(folder) + "/itself", "qcow2")
    headers.overlay(os.path.join(folder, "fifo"), "pipe", "raw")
    headers.overlay(os.path.join(folder, "fifo-too"), "other-pipe", "qcow2")
    headers.overlay(os.path.join(folder, "fat"), "fat:rw:/etc", "raw")
    headers.qcow2(os.path.join(folder, "data"), b"", (headers.DATA_FILE, b"/etc/passwd"))
    headers.qcow2(os.path.join(folder, "unstated"), b"innocent.raw")
    headers.vmdk(os.path.join(folder, "extents"), "/etc/shadow")
    with open(os.path.join(folder, "noise"), "wb") as file:
        file.write(b"QFI\xfb" + b"\xff" * 65536)
    expected = {
        "shadow": "the header of",
        "link": "the header of",
        "itself": "comes back to itself",
        "fifo": "/pipe (",
        "fifo-too": "/other-pipe (",
        "fat": "wants /etc as filesystem",
        "data": "/etc/passwd",
        "unstated": "qemu-img rebase -u -f qcow2 -F FORMAT -b innocent.raw",
        "extents": "cannot read its header",
        "noise": "cannot read its header",
    }
    disks = [disk(name, "vmdk" if name == "extents" else "qcow2") for name in expected]
    image.write_spec(disks=disks)
    subprocess.run(["restorecon", "-RF", folder], check=True)
    before = {
        path: harness.label(path)
        for path in ("/etc/shadow", "/etc/gshadow", "/etc/passwd", os.path.join(folder, "pipe"))
    }
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    lines = list(harness.lines(done.stderr))
    for number, name in enumerate(expected):
        assert any(expected[name] in line and f"disks[{number}].file" in line for line in lines), (name, lines)
    assert "chcon" not in done.stderr
    assert {path: harness.label(path) for path in before} == before
    assert labels(folder) == {harness.UNUSED}
    # qemu-img, not the launcher, met the extent
    assert audit.has("read", PROBE, "shadow_t", "file")


def test_what_a_guest_wrote_is_not_followed(image: harness.Image, folder: str) -> None:
    """QEMU probes a disk without a stated format; a header that a guest wrote there must not open its backing file."""
    headers.overlay(image.path, "/etc/shadow", "raw")
    relabelled(folder)
    arguments = [argument.replace("format=raw,", "") for argument in harness.raw_arguments(image.path)]
    done = harness.confined("exec", "--", *arguments)
    assert done.returncode == 125
    (line,) = harness.lines(done.stderr)
    assert "state it: format=qcow2, or format=raw" in line
    raw(image.path)
    vm = harness.boot(harness.COMMAND, "exec", "--", *arguments)
    vm.popen.terminate()
    vm.wait()
    harness.settle()
    assert labels(folder) == {harness.UNUSED}


@pytest.fixture
def user() -> pwd.struct_passwd:
    """An ordinary user who may use KVM."""
    harness.run("useradd", "--create-home", "--groups", "kvm", "layered", check=False)
    return pwd.getpwnam("layered")


def test_root_reads_a_users_headers_as_that_user(user: pwd.struct_passwd) -> None:
    image = harness.Image(user.pw_dir, "users")
    mine, roots = os.path.join(user.pw_dir, "base.raw"), os.path.join(user.pw_dir, "roots.raw")
    for path in (mine, roots):
        raw(path)
        os.chmod(path, 0o600)
    headers.overlay(image.path, "base.raw", "raw")
    other = os.path.join(user.pw_dir, "other.qcow2")
    headers.overlay(other, "roots.raw", "raw")
    for path in (image.path, other, mine):
        os.chown(path, user.pw_uid, user.pw_gid)
        os.chmod(path, 0o600)
    harness.run("restorecon", "-RF", user.pw_dir)
    image.write_spec(disks=[disk("users.img", bus="ide")], user=user.pw_name)
    vm = harness.boot_spec(image)
    assert harness.short_label(mine) == KEPT  # a file of a home
    assert harness.power_off(vm) == 0
    assert harness.short_label(mine) == harness.short_label(roots)
    image.write_spec(disks=[disk("other.qcow2", bus="ide")], user=user.pw_name)
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    assert f"(uid {user.pw_uid}) names it, and that user may not open it" in done.stderr


# ---- the domain of qemu-img

ATTEMPTS = """
import ctypes, errno, json, mmap, os, signal, socket, sys
def attempt(do, *arguments):
    try:
        do(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
def read(path):
    os.read(os.open(path, os.O_RDONLY), 1)
def write(path):
    os.open(path, os.O_WRONLY)
def create(path):
    os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
def ptrace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "")
def connect(path):
    socket.socket(socket.AF_UNIX).connect(path)
do = {
    "read": read, "write": write, "create": create, "ptrace": ptrace, "list": os.listdir, "unlink": os.unlink,
    "connect": connect,
    "relabel": lambda path: os.setxattr(path, "security.selinux", b"system_u:object_r:virt_content_t:s0\\0"),
    "execute": lambda path: os.execv(path, [path]),
    "inet": lambda _: socket.socket(socket.AF_INET),
    "kill": lambda pid: os.kill(pid, signal.SIGTERM),
    "become": lambda text: os.write(os.open("/proc/self/attr/exec", os.O_RDWR), text.encode()),
    "generate": lambda _: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
}
print(json.dumps([attempt(do[kind], target) for kind, target in json.loads(sys.argv[1])]))
print(open("/proc/self/attr/current").read().rstrip(chr(0)))
"""


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of root's."""
    process = harness.Process(["sleep", "1000"])
    yield process.pid
    assert process.popen.poll() is None
    process.end()


def test_a_qemu_img_that_a_header_took_over_has_won_nothing(
    image: harness.Image, folder: str, victim: int, audit: harness.AuditTrail
) -> None:
    away = os.path.join(folder, "other.img")
    raw(away)
    relabelled(folder)
    harness.run("chcon", "-t", "svirt_image_t", "-l", "s0:c1,c2", away)
    allowed: list[tuple[str, Any]] = [("read", image.path), ("read", away)]
    denied: list[tuple[str, Any, str, str, str]] = [
        ("read", "/etc/shadow", "read", "shadow_t", "file"),
        ("read", "/etc/passwd", "read", HERE.users_file, "file"),
        ("write", "/etc/passwd", "write", HERE.users_file, "file"),
        ("write", image.path, "write", "virt_image_t", "file"),
        ("relabel", image.path, "relabelfrom", "virt_image_t", "file"),
        ("unlink", image.path, "write", "virt_image_t", "dir"),
        ("list", folder, "read", "virt_image_t", "dir"),
        ("create", "/var/tmp/hostile", "write", "tmp_t", "dir"),  # noqa: S108 - it is not made
        ("execute", "/bin/sh", "execute", "shell_exec_t", "file"),
        ("execute", "/usr/bin/env", HERE.probe_lacks, "bin_t", "file"),
        ("execute", harness.QEMU, "execute", "qemu_exec_t", "file"),
        ("inet", 0, "create", PROBE, "tcp_socket"),
        ("connect", "/run/systemd/private", "write", HERE.init_socket, "sock_file"),
        ("kill", victim, "signal", "unconfined_t", "process"),
        ("ptrace", victim, "ptrace", "unconfined_t", "process"),
        ("read", f"/proc/{victim}/environ", "search", "unconfined_t", "dir"),
        ("read", "/var/lib/confined-qemu/pairs", "read", "confined_qemu_var_lib_t", "file"),
        ("become", "unconfined_u:unconfined_r:unconfined_t:s0", "setexec", PROBE, "process"),
        ("generate", 0, "execmem", PROBE, "process"),
        ("read", "/dev/mem", "read", "memory_device_t", "chr_file"),
    ]
    targets = json.dumps([*allowed, *((kind, target) for kind, target, *_ in denied)])
    said = harness.run("runcon", "-t", PROBE, "/usr/bin/python3", "-ISc", ATTEMPTS, targets).stdout.splitlines()
    assert f":{PROBE}:s0" in said[1]
    answers = json.loads(said[0])
    assert answers[: len(allowed)] == ["ok"] * len(allowed)
    refused = dict(zip([row[:2] for row in denied], answers[len(allowed) :], strict=True))
    assert {target: answer for target, answer in refused.items() if answer not in ("EACCES", "EPERM")} == {}
    seen = [one for one in audit.denials() if f":{PROBE}:" in one.source]
    for _, _, permission, target, kind in denied:
        assert any(permission in one.permissions and target in one.target and kind == one.kind for one in seen), (
            permission,
            target,
            kind,
        )
