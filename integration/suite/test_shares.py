"""Shared folders: a tree is labelled where the user says so and put back whole; all else keeps its labels."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ODD = b"new\nline \xff"
HOME = "unconfined_u:object_r:user_home_t:s0"
FAT_DATA = 0x4B000
"""Where the first file of a `fat:` folder begins, on the disk that QEMU makes of it."""
HOSTS = ("/", "/etc", "/etc/passwd", "/etc/shadow", "/etc/fstab", "/usr/bin/env", "/boot", "/srv")
"""Some of the host's, of more than one label."""


def tree_of(folder: str, name: str, files: int = 2) -> str:
    """Make a tree of files with labels of more than one kind, links, a pipe, and names that are no text."""
    path = os.path.join(folder, name)
    os.makedirs(os.path.join(path, "below", "deeper"))
    for number in range(files):
        _write(os.path.join(path, f"file{number}"), b"data\n")
    _write(os.path.join(path, "below", "deeper", "theirs"), b"data\n")
    _write(os.path.join(os.fsencode(path), ODD), b"data\n")
    os.symlink("/etc/passwd", os.path.join(path, "link"))
    os.symlink("/etc", os.path.join(path, "folder"))
    os.mkfifo(os.path.join(path, "pipe"))
    subprocess.run(["restorecon", "-RF", path], check=True)
    harness.run("chcon", "-h", HOME, os.path.join(path, "below"), os.path.join(path, "below", "deeper", "theirs"))
    return path


def _write(path: str | bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def labels(path: str) -> dict[str, str]:
    """Return the label of everything in a tree, and of the tree itself."""
    found = {path: harness.label(path)}
    for folder, folders, files in os.walk(path):
        found |= {os.path.join(folder, name): harness.label(os.path.join(folder, name)) for name in (*folders, *files)}
    return found


def share(path: str, **more: Any) -> dict[str, Any]:
    """Return a share of a spec, by QEMU itself and labelled."""
    return {"dir": path, "tag": os.path.basename(path), "driver": "9p", "relabel": True} | more


def attempt(image: harness.Image, hostile: str, targets: list[tuple[str, str]], **spec: Any) -> tuple[list[str], str]:
    """Have the VM of `image` try things in QEMU's place; return an answer for each, and what the launcher said."""
    with open(image.path, "wb") as file:
        file.write(json.dumps(targets).encode().ljust(1 << 16, b"\0"))
    image.write_spec(emulator=hostile, landlock="no", **spec)
    done = harness.confined("run", image.spec)
    assert done.returncode == 0, done.stderr
    with open(image.path, "rb") as file:
        return [result for _, _, result in json.loads(file.read().rstrip(b"\0"))], done.stderr


# ---- labelled on request


def test_a_tree_is_its_vms_and_gets_every_label_back(
    make_image: Callable[[str], harness.Image], hostile_qemu: str, folder: str, audit: harness.AuditTrail
) -> None:
    victim, attacker = make_image("a"), make_image("b")
    path = tree_of(folder, "work")
    twice, outside = os.path.join(path, "twice"), os.path.join(folder, "outside")
    os.link(os.path.join(path, "file1"), twice)
    before, passwd = labels(path), harness.label("/etc/passwd")
    deep, made = os.path.join(path, "below", "deeper", "theirs"), os.path.join(path, "below", "made")
    odd = os.fsdecode(os.path.join(os.fsencode(path), ODD))
    targets = [("read", deep), ("write", deep), ("read", odd), ("create", made), ("list", path), ("write", twice),
               ("create", outside)]  # fmt: skip
    answers, said = attempt(victim, hostile_qemu, targets, shares=[share("work")])
    assert answers == ["ok", "ok", "ok", "ok", "ok", "EACCES", "EACCES"]
    assert "2 files have other names (hard links) and keep their labels, first " in said
    # what the VM made has the label of the folder that it lies in
    assert labels(path) == before | {made: HOME.replace("unconfined_u", "system_u")}
    assert harness.label("/etc/passwd") == passwd
    # while it runs, it is out of reach of another VM
    victim.write_spec(shares=[share("work")])
    vm = harness.boot_spec(victim)
    level = harness.level(harness.label(path))
    assert harness.short_label(deep) == f"svirt_image_t:{level}"
    assert harness.short_label(os.path.join(path, "link")) == f"svirt_image_t:{level}"
    _write(os.path.join(path, "below", "ours"), b"made by the host meanwhile\n")
    answers, _ = attempt(attacker, hostile_qemu, [("read", deep), ("list", path), ("write", deep)])
    assert answers == ["EACCES"] * 3
    assert audit.has("read", "svirt_t", f"svirt_image_t:{level}", "dir")
    attacker.write_spec(emulator=None, shares=[share("work")])
    done = harness.confined("run", attacker.spec)
    assert done.returncode == 125
    assert f"{path} (shares[0].dir): it is in use by the VM a (pid {harness.qemu_of(victim.path)})" in done.stderr
    assert harness.power_off(vm) == 0
    after = labels(path)
    assert after.pop(os.path.join(path, "below", "ours")).endswith(":user_home_t:s0")
    assert {name: label for name, label in after.items() if name != made} == before


def test_a_tree_that_two_vms_read_is_put_back_by_the_last(
    make_image: Callable[[str], harness.Image], folder: str
) -> None:
    first, second = make_image("a"), make_image("b")
    path = tree_of(folder, "docs")
    before = labels(path)
    for image in (first, second):
        image.write_spec(shares=[share("docs", readonly=True)])
    vm = harness.boot_spec(first)
    new = os.path.join(path, "new")
    _write(new, b"for the second\n")
    harness.run("chcon", HOME, new)
    other = harness.boot_spec(second)
    assert {harness.short_label(name) for name in before if not name.endswith("pipe")} == {"virt_content_t:s0"}
    assert harness.power_off(vm) == 0
    assert {harness.short_label(name) for name in before if not name.endswith("pipe")} == {"virt_content_t:s0"}
    assert harness.power_off(other) == 0
    assert labels(path) == before | {new: HOME}


def test_killed_while_it_labels_all_comes_back(image: harness.Image, folder: str) -> None:
    """The bar on a terminal says when: the launcher is in the middle of it."""
    path = tree_of(folder, "work", files=1500)
    before = labels(path)
    image.write_spec(shares=[share("work")])
    mine, its = pty.openpty()
    process = harness.Process([harness.COMMAND, "run", image.spec], stderr=its)
    os.close(its)
    seen = b""
    while b" of 1,50" not in seen:
        assert select.select([mine], [], [], harness.PATIENCE)[0]
        seen += os.read(mine, 4096)
    assert f"labelling {path}: ".encode() in seen
    victims = [process.pid, *_children(process.pid), *harness.watchers()]
    for victim in victims:
        harness.kill(victim, signal.SIGSTOP)
    changed = [name for name, label in labels(path).items() if label != before[name]]
    for victim in reversed(victims):  # `run` last: what it started dies with it
        harness.kill(victim)
    process.wait()
    os.close(mine)
    assert 0 < len(changed) < len(before)
    assert harness.journals() != []
    done = harness.confined("recover")
    assert done.stdout == "a: labels put back\n", done.stderr
    assert labels(path) == before
    # and in a pipe nothing is said
    vm = harness.boot_spec(image)
    assert vm.popen.stderr is not None
    vm.send(b"q")
    assert vm.popen.stderr.read() == b""
    vm.wait()
    assert labels(path) == before


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


# ---- never labelled, and left alone


@pytest.fixture
def bound(folder: str) -> Iterator[str]:
    """A folder that is a mount of its own: another folder of the same file system."""
    source, target = os.path.join(folder, "source"), os.path.join(folder, "bound")
    os.mkdir(source)
    os.mkdir(target)
    harness.run("mount", "--bind", source, target)
    yield target
    harness.run("umount", target)


def test_what_is_the_systems_is_never_labelled(image: harness.Image, folder: str, bound: str) -> None:
    link = os.path.join(folder, "link")
    os.symlink("/usr", link)
    paths = ["/", "/etc", "/root", "/home", "/var", "/boot", "/lib", "/usr/local/bin", "/srv", link, bound,
             f"{folder}/../../../../../etc"]  # fmt: skip
    before = {path: harness.label(os.path.realpath(path)) for path in paths}
    for readonly in (False, True):
        shares = [share(path, tag=f"t{number}", readonly=readonly) for number, path in enumerate(paths)]
        image.write_spec(shares=shares)
        done = harness.confined("run", image.spec)
        assert done.returncode == 125
        refused = [line for line in harness.lines(done.stderr) if "never labelled" in line]
        assert len(refused) == len(paths), done.stderr
    assert {path: harness.label(os.path.realpath(path)) for path in paths} == before
    assert "it is the root of a mount" in next(line for line in refused if "/bound" in line)


def test_a_mount_in_a_tree_is_not_entered(image: harness.Image, folder: str) -> None:
    path, other = tree_of(folder, "work"), tree_of(folder, "other")
    harness.run("mount", "--bind", other, os.path.join(path, "below", "deeper"))
    harness.run("mount", "--bind", os.path.join(other, "file0"), os.path.join(path, "file0"))
    try:
        before = labels(other)
        image.write_spec(shares=[share("work")])
        vm = harness.boot_spec(image)
        assert harness.short_label(os.path.join(path, "file1")).startswith("svirt_image_t:s0:c")
        assert labels(other) == before
        assert harness.power_off(vm) == 0
    finally:
        harness.run("umount", os.path.join(path, "below", "deeper"), os.path.join(path, "file0"))


def exported(image: harness.Image, path: str, *more: str) -> list[str]:
    """Return a raw command line that boots `image` and shares a folder as virtme-ng and syzkaller do."""
    fsdev = ",".join(("local", "id=root", f"path={path}", "security_model=none"))
    device = ("-device", "virtio-9p-pci,fsdev=root,mount_tag=/dev/root")
    return harness.raw_arguments(image.path, "-fsdev", fsdev + "".join(more), *device)


def test_the_hosts_root_is_shared_as_it_is(image: harness.Image, hostile_qemu: str, audit: harness.AuditTrail) -> None:
    before = {path: harness.label(path) for path in HOSTS}
    done = harness.confined("exec", "--", *exported(image, "/"))
    assert done.returncode == 125
    assert "with readonly=on it is shared as it is" in done.stderr
    vm = harness.boot(harness.COMMAND, "exec", "--", *exported(image, "/", ",readonly=on"))
    assert harness.power_off(vm) == 0
    targets = [("list", "/"), ("list", "/usr/bin"), ("read", "/usr/bin/env"), ("read", "/etc/passwd"),
               ("read", "/etc/shadow"), ("create", "/made"), ("write", "/etc/passwd")]  # fmt: skip
    root = share("/", tag="root", readonly=True, relabel=False)
    # what is said of the labels depends on which entries the file system lists first; another test holds the words
    answers, _ = attempt(image, hostile_qemu, targets, shares=[root])
    assert answers == ["ok"] * 4 + ["EACCES"] * 3
    assert audit.has("read", "svirt_t", "shadow_t", "file")
    assert audit.has("write", "svirt_t", HERE.users_file, "file")
    assert {path: harness.label(path) for path in before} == before


def test_a_view_of_the_hosts_root_gives_all_of_it(
    image: harness.Image, hostile_qemu: str, folder: str, view: str, audit: harness.AuditTrail
) -> None:
    """The README's: one label for all, and what is written goes elsewhere."""
    before = {path: harness.label(path) for path in HOSTS}
    with open("/etc/passwd", "rb") as file:
        passwd = file.read()
    disk, monitor = os.path.join(folder, "disk"), os.path.join(folder, "qmp.sock")
    _write(disk, b"Z" * 65536)
    arguments = exported(image, view)
    arguments += ["-drive", f"file={view}{disk},format=raw,if=ide,index=1", "-qmp", f"unix:{monitor},server,nowait"]
    vm = harness.boot(harness.COMMAND, "exec", "--", *arguments)
    harness.qemu_io(monitor, "ide0-hd1", "read -P 0x5a 0 65536")
    harness.qemu_io(monitor, "ide0-hd1", "write -P 0x59 0 512")
    assert harness.results(vm) == ["read 65536/65536", "wrote 512/512"]
    with open(view + disk, "rb") as file:
        assert file.read(512) == b"Y" * 512
    with open(disk, "rb") as file:
        assert file.read() == b"Z" * 65536
    os.unlink(f"{view}/etc/shadow")
    targets = [("read", f"{view}/etc/passwd"), ("list", f"{view}/boot"), ("create", f"{view}/srv/made"),
               ("write", f"{view}/etc/passwd"), ("unlink", f"{view}/etc/fstab"), ("read", f"{view}/etc/shadow"),
               ("read", "/etc/shadow"), ("create", "/made"), ("write", "/etc/passwd")]  # fmt: skip
    answers, _ = attempt(image, hostile_qemu, targets, shares=[share(view, tag="root", relabel=False)])
    assert answers == ["ok"] * 5 + ["ENOENT"] + ["EACCES"] * 3
    assert harness.short_label(f"{view}/srv/made") == "svirt_image_t:s0"
    assert not os.path.exists("/made")
    assert audit.has("read", "svirt_t", "shadow_t", "file")
    assert audit.has("write", "svirt_t", HERE.users_file, "file")
    with open("/etc/passwd", "rb") as file:
        assert file.read() == passwd
    assert {path: harness.label(path) for path in before} == before


@pytest.fixture
def view(folder: str) -> Iterator[str]:
    """A view of the host's root that has one label, and takes what is written to it."""
    for name in ("view", "upper", "work"):
        os.mkdir(os.path.join(folder, name))
    path = os.path.join(folder, "view")
    options = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work,context=system_u:object_r:svirt_image_t:s0"
    harness.run("mount", "-t", "overlay", "-o", options, "view", path)
    yield path
    harness.run("umount", path)


# ---- fat:


class Fat:
    """A VM whose second disk is a folder (`fat:`) of one file of 64 KiB, labelled as the policy labels it before."""

    def __init__(self, image: harness.Image, folder: str, *, readonly: bool) -> None:
        self.path = os.path.join(folder, "disk")
        self.data = os.path.join(self.path, "data")
        os.mkdir(self.path)
        _write(self.data, b"Z" * 65536)
        subprocess.run(["restorecon", "-RF", self.path], check=True)
        self.before = labels(self.path)
        self.monitor = os.path.join(folder, "qmp.sock")
        drive = f"file=fat:{self.path},readonly=on" if readonly else f"file=fat:rw:{self.path}"
        self.arguments = harness.raw_arguments(
            image.path, "-drive", f"{drive},format=raw,if=none,id=fat", "-device", "virtio-blk-pci,drive=fat",
            "-qmp", f"unix:{self.monitor},server,nowait",
        )  # fmt: skip
        self._refused_without_leave()
        leave = os.environ | {"CONFINED_QEMU_LABEL_TREES": folder}
        self.vm = harness.boot(harness.COMMAND, "exec", "--", *self.arguments, env=leave)

    def _refused_without_leave(self) -> None:
        done = harness.confined("exec", "--", *self.arguments)
        assert done.returncode == 125
        assert f"set CONFINED_QEMU_LABEL_TREES={shlex.quote(self.path)}" in done.stderr


def test_a_folder_as_a_fat_disk_that_is_read(
    make_image: Callable[[str], harness.Image], hostile_qemu: str, folder: str, audit: harness.AuditTrail
) -> None:
    image, other = make_image("a"), make_image("b")
    fat = Fat(image, folder, readonly=True)
    path, data, vm, monitor = fat.path, fat.data, fat.vm, fat.monitor
    assert set(labels(path).values()) == {"system_u:object_r:virt_content_t:s0"}
    answers, _ = attempt(other, hostile_qemu, [("read", data), ("write", data), ("create", os.path.join(path, "new"))])
    assert answers == ["ok", "EACCES", "EACCES"]
    assert audit.has("write", "svirt_t", "virt_content_t:s0", "file")
    harness.qemu_io(monitor, "fat", f"read -P 0x5a {FAT_DATA} 65536")
    assert harness.results(vm) == ["read 65536/65536"]
    harness.settle()
    assert labels(path) == fat.before
    # what the VM may not read of it, QEMU cannot make a disk of
    os.mkdir(os.path.join(path, "below"))
    harness.run("chcon", "-R", "-t", "virt_content_t", path)
    harness.run("chcon", "-t", "virt_image_t", os.path.join(path, "below"))
    done = harness.confined("exec", "--", *fat.arguments)
    assert done.returncode == 1
    assert "it keeps its labels: of 2 entries the VM may read 1; the first that it may not is" in done.stderr
    assert audit.has("read", "svirt_t", "virt_image_t", "dir")


def test_a_folder_as_a_fat_disk_that_is_written(
    make_image: Callable[[str], harness.Image], hostile_qemu: str, folder: str, audit: harness.AuditTrail
) -> None:
    image, other = make_image("a"), make_image("b")
    fat = Fat(image, folder, readonly=False)
    path, data, vm, monitor = fat.path, fat.data, fat.vm, fat.monitor
    level = harness.level(harness.label(data))
    assert {harness.short_label(name) for name in fat.before} == {f"svirt_image_t:{level}"}
    answers, _ = attempt(other, hostile_qemu, [("read", data), ("write", data), ("list", path)])
    assert answers == ["EACCES"] * 3
    assert audit.has("read", "svirt_t", f"svirt_image_t:{level}", "dir")
    harness.qemu_io(monitor, "fat", f"read -P 0x5a {FAT_DATA} 65536")
    harness.qemu_io(monitor, "fat", f"write -P 0x59 {FAT_DATA} 512")
    assert harness.results(vm) == ["read 65536/65536", "wrote 512/512"]
    with open(data, "rb") as file:
        assert file.read(513) == b"Y" * 512 + b"Z"
    harness.settle()
    assert labels(path) == fat.before
