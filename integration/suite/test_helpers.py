"""A VM's helpers: swtpm is its TPM and virtiofsd serves folders to it, each at its pair, out of reach of others."""

from __future__ import annotations

import glob
import json
import os
import shlex
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOSTILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs", "hostile.py")


INIT = """#!/bin/sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in {modules}; do insmod /modules/$module; done
mkdir -p /data /docs /tree
mount -t virtiofs data /data && mount -t virtiofs docs /docs && mount -t virtiofs tree /tree && echo guest: mounted
cat /data/hello
cat /docs/hello
cat /tree/below/hello
echo from the guest > /tree/below/made
echo from the guest > /data/made
mkdir /data/folder
echo deeper > /data/folder/made
ln -s made /data/link
chown 1000:1000 /data/made
echo no > /docs/made || echo guest: docs are read-only
echo no > /docs/hello || echo guest: docs stay
echo guest: waits
read line
cat /data/theirs || echo guest: theirs is not to be had
echo guest: ends
poweroff -f
"""


def helpers_of(vm_level: str) -> dict[int, str]:
    """Return the running helpers at a level: pid to type."""
    found = {}
    for name in os.listdir("/proc"):
        text = harness.context(int(name)) if name.isdecimal() else ""
        if text.startswith("system_u:system_r:confined_qemu_") and text.endswith(f":{vm_level}"):
            found[int(name)] = text.split(":")[2]
    return found


def swtpm_of(image: str) -> int:
    """Return the pid of the swtpm that runs at the level of `image`."""
    (found,) = helpers_of(harness.level(harness.label(image))).items()
    assert found[1] == "confined_qemu_swtpm_t"
    assert os.path.basename(os.readlink(f"/proc/{found[0]}/exe")) == "swtpm"
    return found[0]


def labels(folder: str) -> set[str]:
    """Return the labels of a folder and of what lies in it."""
    return {harness.short_label(path) for path in (folder, *glob.glob(f"{folder}/*"), *glob.glob(f"{folder}/.lock"))}


@pytest.fixture
def hostile() -> Iterator[str]:
    """A program that tries what it is told, in QEMU's place and labelled as QEMU is."""
    path = "/usr/local/bin/hostile-qemu"
    shutil.copy(HOSTILE, path)
    os.chmod(path, 0o755)
    subprocess.run(["chcon", "-t", "qemu_exec_t", path], check=True)
    yield path
    os.unlink(path)


def attempt(
    image: harness.Image, hostile: str, targets: list[tuple[str, Any]], **spec: Any
) -> dict[tuple[str, Any], str]:
    """Have the VM of `image` try things; return an answer for each."""
    with open(image.path, "wb") as file:
        file.write(json.dumps(targets).encode().ljust(1 << 16, b"\0"))
    image.write_spec(emulator=hostile, landlock="no", **spec)
    done = harness.confined("run", image.spec)
    assert done.returncode == 0, done.stderr
    with open(image.path, "rb") as file:
        return {(kind, target): result for kind, target, result in json.loads(file.read().rstrip(b"\0"))}


# ---- a TPM


def test_a_tpm_serves_its_vm_and_no_other(
    make_image: Callable[[str], harness.Image], hostile: str, audit: harness.AuditTrail, folder: str
) -> None:
    victim, attacker = make_image("a"), make_image("b")
    state, monitor = os.path.join(folder, "tpm"), os.path.join(folder, "qmp.sock")
    victim.write_spec(tpm={"state": "tpm"}, qmp=f"unix:{monitor}")
    vm = harness.boot_spec(victim)
    qmp = harness.Qmp(monitor)
    qmp.greeting()
    qmp.ask("qmp_capabilities")
    (tpm,) = qmp.ask("query-tpm")["return"]
    assert tpm["model"] == "tpm-crb"
    qmp.close()
    level = harness.level(harness.label(victim.path))
    swtpm = swtpm_of(victim.path)
    assert f"confined_qemu_swtpm_t:{level}" in harness.run("ps", "-eZ").stdout
    assert labels(state) == {f"svirt_image_t:{level}"}
    # nothing of the caller's or of ours is open in it
    opened = {os.readlink(path) for path in glob.glob(f"/proc/{swtpm}/fd/*")}
    assert not any(victim.path in path or "confined-qemu/0/" in path for path in opened), opened
    permanent = os.path.join(state, "tpm2-00.permall")
    targets = [("list", state), ("read", permanent), ("write", permanent), ("terminate", swtpm), ("ptrace", swtpm)]
    answers = attempt(attacker, hostile, targets)
    assert set(answers.values()) <= {"EACCES", "EPERM"}, answers
    assert audit.has("read", "svirt_t", f"svirt_image_t:{level}", "dir")
    assert audit.has("signal", "svirt_t", f"confined_qemu_swtpm_t:{level}", "process")
    assert harness.power_off(vm) == 0
    assert labels(state) == {harness.UNUSED}
    assert helpers_of(level) == {}
    assert not any(d.source.startswith("system_u:system_r:confined_qemu_swtpm_t") for d in audit.denials()
                   if "cert_t" not in d.target), audit.denials()  # fmt: skip


@pytest.mark.parametrize("victim", ["qemu", "swtpm", "run", "hung"])
def test_whatever_is_killed_nothing_is_left(image: harness.Image, folder: str, victim: str) -> None:
    state = os.path.join(folder, "tpm")
    os.mkdir(state, 0o700)
    subprocess.run(["restorecon", "-F", state], check=True)
    image.write_spec(tpm={"state": "tpm", "model": "tpm-tis"})
    vm = harness.boot_spec(image)
    level = harness.level(harness.label(image.path))
    qemu, swtpm = harness.qemu_of(image.path), swtpm_of(image.path)
    if victim == "hung":
        # it cannot end by itself, so the watcher ends it
        harness.kill(swtpm, signal.SIGSTOP)
    harness.kill({"qemu": qemu, "swtpm": swtpm, "run": vm.pid, "hung": qemu}[victim])
    if victim == "swtpm":
        assert harness.power_off(vm) == 0
    else:
        vm.wait()
    harness.settle()
    harness.until("no helper is left", lambda: not helpers_of(level))
    assert harness.processes_as(f"system_u:system_r:svirt_t:{level}") == []
    assert labels(state) == {harness.UNUSED}
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_helper_that_cannot_do_its_work_leaves_nothing(image: harness.Image, folder: str) -> None:
    state = os.path.join(folder, "tpm")
    os.mkdir(state, 0o500)
    subprocess.run(["restorecon", "-F", state], check=True)
    image.write_spec(tpm={"state": "tpm"})
    done = harness.confined("run", image.spec)
    # root has no dac_override there, so swtpm tells QEMU that it cannot write its state
    assert done.returncode == 1
    assert "CMD_INIT" in done.stderr
    assert labels(state) == {harness.UNUSED}
    assert harness.short_label(image.path) == harness.UNUSED

    harness.run("chcon", "-t", "bin_t", "/usr/bin/swtpm")
    try:
        done = harness.confined("run", image.spec)
    finally:
        harness.run("restorecon", "-F", "/usr/bin/swtpm")
    assert done.returncode == 125
    assert "run: restorecon -F /usr/bin/swtpm" in next(harness.lines(done.stderr))


# ---- shares


@pytest.fixture
def linux(folder: str) -> dict[str, str]:
    """A Linux guest that mounts two shares: the keys `kernel` and `initrd` of its spec."""
    root = os.path.join(folder, "root")
    for name in ("bin", "dev", "proc", "modules"):
        os.makedirs(os.path.join(root, name))
    shutil.copy("/bin/busybox", os.path.join(root, "bin"))
    os.symlink("busybox", os.path.join(root, "bin", "sh"))
    needed = harness.run("modprobe", "--show-depends", "-a", "virtio_pci", "virtiofs").stdout.splitlines()
    files = list(dict.fromkeys(line.split()[1] for line in needed if line.startswith("insmod ")))
    for file in files:
        shutil.copy(file, os.path.join(root, "modules"))
    with open(os.path.join(root, "init"), "w", encoding="ascii") as init:
        init.write(INIT.format(modules=" ".join(os.path.basename(path) for path in files)))
    os.chmod(os.path.join(root, "init"), 0o755)
    subprocess.run("find . | cpio -o -H newc --quiet > ../initrd", shell=True, cwd=root, check=True)  # noqa: S602
    shutil.rmtree(root)
    (kernel,) = glob.glob("/boot/vmlinuz-*")
    shutil.copy(kernel, os.path.join(folder, "kernel"))
    subprocess.run(["restorecon", "-RF", folder], check=True)
    return {"kernel": "kernel", "initrd": "initrd", "cmdline": "console=ttyS0 quiet panic=-1"}


def make_share(folder: str, name: str, kind: str) -> str:
    """Make a folder with a file in it, labelled for VMs."""
    path = os.path.join(folder, name)
    os.mkdir(path)
    with open(os.path.join(path, "hello"), "w", encoding="ascii") as file:
        file.write(f"hello from {name}\n")
    harness.run("chcon", "-R", "-t", kind, "-l", "s0", path)
    return path


def test_virtiofsd_serves_at_its_vms_pair_and_ends_with_it(image: harness.Image, folder: str) -> None:
    make_share(folder, "data", "svirt_image_t")
    make_share(folder, "docs", "virt_content_t")
    shares = [{"dir": "data", "tag": "data"}, {"dir": "docs", "tag": "docs", "readonly": True}]
    image.write_spec(shares=shares)
    vm = harness.boot_spec(image)
    level = harness.level(harness.label(image.path))
    assert sorted(helpers_of(level).values()) == ["confined_qemu_virtiofsd_ro_t", "confined_qemu_virtiofsd_t"]
    for pid in helpers_of(level):
        # a root of its own: it sees the share and nothing else
        assert os.readlink(f"/proc/{pid}/root").startswith(folder)
    assert harness.power_off(vm) == 0
    harness.until("no helper is left", lambda: not helpers_of(level))


def test_the_policy_says_what_virtiofsd_may_make() -> None:
    """What it makes has the folder's level and not the pair; what is another pair's it may not open."""
    import selinux  # the distribution's, which this machine's own Python has

    daemon = "system_u:system_r:{}:s0:c1,c2"
    writes, reads = daemon.format("confined_qemu_virtiofsd_t"), daemon.format("confined_qemu_virtiofsd_ro_t")
    shared, theirs = "system_u:object_r:svirt_image_t:s0", "system_u:object_r:svirt_image_t:s0:c3,c4"
    for kind in ("file", "dir", "lnk_file"):
        number = selinux.string_to_security_class(kind)
        assert selinux.security_compute_create_raw(writes, shared, number)[1] == shared
    for source, target, permission, allowed in (
        (writes, shared, "write", True),
        (writes, theirs, "read", False),
        (reads, shared, "read", True),
        (reads, shared, "write", False),
        (writes, "system_u:object_r:virt_image_t:s0", "read", False),
    ):
        try:
            granted = selinux.selinux_check_access(source, target, "file", permission) == 0
        except PermissionError:
            granted = False
        assert granted is allowed, (source, target, permission)


def test_a_guest_mounts_its_shares(
    image: harness.Image, linux: dict[str, str], folder: str, audit: harness.AuditTrail
) -> None:
    data, docs = make_share(folder, "data", "svirt_image_t"), make_share(folder, "docs", "virt_content_t")
    theirs = os.path.join(data, "theirs")
    # the third is labelled for the VM, whole, and put back
    top = make_share(folder, "tree", "virt_image_t")
    make_share(top, "below", "user_home_t")
    tree = [top, os.path.join(top, "hello"), os.path.join(top, "below"), os.path.join(top, "below", "hello")]
    before = [harness.label(path) for path in tree]
    shares = [{"dir": "data", "tag": "data"}, {"dir": "docs", "tag": "docs", "readonly": True},
              {"dir": "tree", "tag": "tree", "relabel": True}]  # fmt: skip
    # Landlock would deny before SELinux does, and leave no record
    image.write_spec(shares=shares, memory="256M", qemu_args=["-no-reboot"], landlock="no", **linux)
    vm = harness.Process([harness.COMMAND, "run", image.spec])
    vm.read_until(b"guest: waits")
    level = harness.level(harness.label(image.path))
    assert set(helpers_of(level).values()) == {"confined_qemu_virtiofsd_t", "confined_qemu_virtiofsd_ro_t"}
    assert {harness.label(path) for path in tree} == {f"system_u:object_r:svirt_image_t:{level}"}
    with open(theirs, "w", encoding="ascii") as file:
        file.write("another VM's\n")
    harness.run("chcon", "-l", "s0:c1022,c1023", theirs)
    vm.send(b"\n")
    vm.read_until(b"guest: ends")
    assert vm.wait() == 0
    for line in (b"guest: mounted", b"hello from data", b"hello from docs", b"hello from below", b"docs are read-only",
                 b"docs stay", b"theirs is not to be had"):  # fmt: skip
        assert line in vm.seen, vm.seen
    assert b"another VM's" not in vm.seen
    made = [os.path.join(data, name) for name in ("made", "folder", "folder/made", "link")]
    assert {harness.label(path) for path in made} == {"system_u:object_r:svirt_image_t:s0"}
    assert os.stat(made[0]).st_uid == 1000
    assert [harness.label(path) for path in tree] == before
    assert "user_home_t:s0" in harness.label(os.path.join(top, "below", "made"))
    assert os.listdir(docs) == ["hello"]
    assert audit.has("write", "confined_qemu_virtiofsd_ro_t", "virt_content_t:s0", "dir")
    assert audit.has("read", "confined_qemu_virtiofsd_t", "svirt_image_t:s0:c1022,c1023", "file")
    harness.until("no helper is left", lambda: not helpers_of(level))


def test_what_qemu_makes_in_a_9p_share_belongs_to_the_folder(
    image: harness.Image, hostile: str, folder: str, audit: harness.AuditTrail
) -> None:
    """The guest's kernel has no 9p; what QEMU could do for it, a program in QEMU's place does."""
    share = make_share(folder, "share", "svirt_image_t")
    docs = make_share(folder, "docs", "virt_content_t")
    new, elsewhere = os.path.join(share, "new"), os.path.join(folder, "elsewhere")
    os.symlink("/etc/passwd", os.path.join(share, "link"))
    shares = [
        {"dir": "share", "tag": "share", "driver": "9p"},
        {"dir": "docs", "tag": "docs", "driver": "9p", "readonly": True},
    ]
    targets = [("create", new), ("read", os.path.join(docs, "hello")), ("create", os.path.join(docs, "new")),
               ("create", elsewhere)]  # fmt: skip
    before = harness.label("/etc/passwd")
    answers = attempt(image, hostile, targets, shares=shares)
    assert list(answers.values()) == ["ok", "ok", "EACCES", "EACCES"]
    assert harness.short_label(new) == "svirt_image_t:s0"
    assert harness.label("/etc/passwd") == before
    assert audit.has("write", "svirt_t", "virt_content_t:s0", "dir")
    # QEMU itself takes both folders
    image.write_spec(shares=shares)
    vm = harness.boot_spec(image)
    assert harness.power_off(vm) == 0


@pytest.mark.parametrize("driver", ["virtiofs", "9p"])
def test_a_folder_that_vms_may_not_use_is_refused(image: harness.Image, folder: str, driver: str) -> None:
    share = os.path.join(folder, "share")
    os.mkdir(share)
    subprocess.run(["restorecon", "-F", share], check=True)
    for path, hint in (
        (share, f"run: chcon -R -t svirt_image_t -l s0 {shlex.quote(share)}"),
        ("/etc", "keeps its labels"),
    ):
        before = harness.label(path)
        image.write_spec(shares=[{"dir": path, "tag": "data", "driver": driver}])
        done = harness.confined("run", image.spec)
        assert done.returncode == 125
        (line,) = (said for said in harness.lines(done.stderr) if "warning: " not in said)
        assert hint in line
        assert harness.label(path) == before
