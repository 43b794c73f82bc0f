"""Files that a VM opens while it runs: declared, or given by `allow`; all else is denied, and each label goes back."""

from __future__ import annotations

import os
import re
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from integration.suite import harness
from integration.suite.policies import HERE
from integration.suite.test_hosts import user  # noqa: F401 - a fixture

if TYPE_CHECKING:
    import pwd
    import subprocess
    from collections.abc import Callable, Iterator

DENIED = "Permission denied"


class Disks:
    """Plugs files into a VM over QMP."""

    def __init__(self, path: str) -> None:
        self.client = harness.Qmp(path)
        self.client.greeting()
        self.client.ask("qmp_capabilities")

    def add(self, path: str, *, readonly: bool = False) -> str:
        """Open a file as an image named as the file; return QEMU's error, empty where there is none."""
        file = {"driver": "file", "filename": path}
        return self.ask("blockdev-add", **{
            "driver": "raw", "node-name": _node(path), "file": file, "read-only": readonly,
        })  # fmt: skip

    def remove(self, path: str) -> None:
        """Close it again."""
        assert self.ask("blockdev-del", **{"node-name": _node(path)}) == ""

    def ask(self, command: str, **arguments: Any) -> str:
        """Run a command and return its error, empty where there is none."""
        answer = self.client.ask(command, **arguments)
        return str(answer["error"]["desc"]) if "error" in answer else ""


def _node(path: str) -> str:
    return "n" + "".join(c for c in os.path.basename(path) if c.isalnum())


def make(folder: str, *names: str) -> list[str]:
    """Make images of 64 KiB, labelled as the policy labels them."""
    paths = [os.path.join(folder, name) for name in names]
    for path in paths:
        with open(path, "wb") as file:
            file.write(bytes(1 << 16))
    harness.run("restorecon", "-RF", folder)
    return paths


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of a command that was refused."""
    assert done.returncode == 125, done
    (line,) = harness.messages(done.stderr)
    return line.removeprefix("confined-qemu: ")


def good(*arguments: str) -> str:
    """Return the one line of a command that went well."""
    done = harness.confined(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    (line,) = done.stdout.splitlines()
    return line


# ---- declared, denied, allowed, taken back; two VMs


class Two:
    """Two VMs that run, and files: of the first one's spec (`later` and what is to be made), and of nobody's yet."""

    def __init__(self, make_image: Callable[[str], harness.Image], folder: str) -> None:
        self.a, self.b = make_image("hot-a"), make_image("hot-b")
        self.later, self.odd, self.disc = make(folder, "later.img", "o\nd,d' .img", "disc.iso")
        names = ("snap.qcow2", "shot.ppm", "unused.log", "more.ppm")
        self.snap, self.shot, self.unused, self.more = (os.path.join(folder, name) for name in names)
        extra = [{"file": name} for name in names[:3]]
        extra.append({"file": "later.img", "format": "raw"})
        self.a.write_spec(qmp=f"unix:{folder}/a.qmp", extra_files=extra)
        self.b.write_spec(qmp=f"unix:{folder}/b.qmp")
        self.vm_a, self.vm_b = harness.boot_spec(self.a), harness.boot_spec(self.b)
        self.qmp_a, self.qmp_b = Disks(f"{folder}/a.qmp"), Disks(f"{folder}/b.qmp")


def test_two_vms_and_their_files(
    make_image: Callable[[str], harness.Image], folder: str, audit: harness.AuditTrail
) -> None:
    two = Two(make_image, folder)
    _declared(two)
    _denied(two, audit)
    _mended_by_its_denial(two.odd, two.qmp_a, two.qmp_b)
    _not_twice(two.a, two.odd)
    _taken_back(two.odd, two.qmp_a)
    _read_by_both(two)
    _the_rest_ends_with_its_vm(two)


def _declared(two: Two) -> None:
    """Use what is labelled from the start, what was missing then too."""
    mine = harness.short_label(two.a.path)
    assert [harness.short_label(path) for path in (two.later, two.shot, two.unused)] == [mine] * 3
    assert two.qmp_a.add(two.later) == ""
    node = _node(two.later)
    assert two.qmp_a.ask("device_add", driver="virtio-blk-pci", drive=node, id="d0") == ""
    assert two.qmp_a.ask("screendump", filename=two.shot) == ""
    assert os.path.getsize(two.shot) > 0
    names = {"node-name": node, "snapshot-file": two.snap, "snapshot-node-name": "snap", "format": "qcow2"}
    assert two.qmp_a.ask("blockdev-snapshot-sync", **names) == ""
    assert os.path.getsize(two.snap) > 0
    assert DENIED in two.qmp_b.add(two.later)


def _denied(two: Two, audit: harness.AuditTrail) -> None:
    """Ask for what was not declared: it is denied, and the VM lives."""
    assert DENIED in two.qmp_a.add(two.odd)
    assert audit.has("read", "svirt_t", "virt_image_t:s0", "file")
    assert DENIED in two.qmp_a.ask("screendump", filename=two.more)
    assert audit.has("write", "svirt_t", "virt_image_t:s0", "dir")


def _taken_back(odd: str, qmp: Disks) -> None:
    """Take a file back: not while it is open."""
    line = said(harness.confined("revoke", "hot-a", odd))
    assert line.endswith("has it open\n  unplug it first (QMP: device_del, then blockdev-del)")
    qmp.remove(odd)
    assert good("revoke", "hot-a", odd).startswith("hot-a: ")
    assert harness.short_label(odd) == harness.UNUSED
    assert DENIED in qmp.add(odd)
    assert "was not given it by allow" in said(harness.confined("revoke", "hot-a", odd))


def _read_by_both(two: Two) -> None:
    """Let both read one file, which is counted; the second one ends."""
    pid = str(harness.qemu_of(two.b.path))
    for name, qmp in (("hot-a", two.qmp_a), (pid, two.qmp_b)):
        good("allow", name, two.disc, "--readonly")
        assert qmp.add(two.disc, readonly=True) == ""
    assert harness.short_label(two.disc) == HERE.content
    assert "confined-qemu revoke hot-a" in said(harness.confined("allow", "hot-a", two.disc))
    two.qmp_a.remove(two.disc)
    good("revoke", "hot-a", two.disc)
    assert harness.short_label(two.disc) == HERE.content
    assert harness.power_off(two.vm_b) == 0
    assert harness.short_label(two.disc) == harness.UNUSED


def _the_rest_ends_with_its_vm(two: Two) -> None:
    good("allow", "hot-a", two.odd)
    assert harness.power_off(two.vm_a) == 0
    files = (two.later, two.odd, two.shot, two.snap, two.a.path)
    assert {harness.short_label(path) for path in files} == {harness.UNUSED}
    assert not os.path.exists(two.unused)
    assert "no confined VM of yours named hot-a runs" in said(harness.confined("allow", "hot-a", two.odd))


def _mended_by_its_denial(odd: str, qmp_a: Disks, qmp_b: Disks) -> None:
    denials = re.split(r"\n(?!    )", harness.confined("denials", "hot-a").stdout)
    # the kernel says the name only, and the path is known where an earlier VM had the same inode
    assert [denial for denial in denials if "o\\nd" in denial and "confined-qemu allow hot-a " in denial]
    assert harness.short_label(odd) == harness.UNUSED
    assert "o\\012d" in good("allow", "hot-a", odd)
    assert qmp_a.add(odd) == ""
    assert DENIED in qmp_b.add(odd)


def _not_twice(a: harness.Image, odd: str) -> None:
    """Say what is refused, and what is there already."""
    assert "in use by the VM hot-a" in said(harness.confined("allow", "hot-b", odd))
    assert good("allow", "hot-a", odd).endswith("may be used as it is")
    assert "was started with it" in said(harness.confined("revoke", "hot-a", a.path))
    done = harness.confined("allow", "hot-a", "/etc/shadow")
    assert (done.returncode, "shadow_t" in done.stderr) == (125, True)
    assert harness.label("/etc/shadow").endswith(":shadow_t:s0")


# ---- crashes, in a VM of a raw command line


@contextmanager
def trial(code: str) -> Iterator[str]:
    """The launch script, with something done to it: `label.apply` is `original` in `code`, which defines `apply`."""
    change = "import os\nfrom confined_qemu.labels import label\noriginal = label.apply\n"
    change += f"{code}\nlabel.apply = apply\n"
    with harness.trial(change) as path:
        yield path


DIES = "def apply(*_):\n    os.kill(os.getpid(), 9)"
LOSES_THE_VM = """
def apply(*rest):
    from confined_qemu.host import processes
    original(*rest)
    pid = int(os.environ["VICTIM"])
    os.kill(pid, 9)
    while not processes.has_ended(pid):
        pass
"""


def test_whatever_is_killed(image: harness.Image, folder: str) -> None:
    later, disc, third, fourth = make(folder, "later.img", "disc.iso", "third.img", "fourth.img")
    top = os.path.join(folder, "top.qcow2")
    harness.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", third, "-F", "raw", top)
    harness.run("restorecon", "-F", top)
    variables = {"CONFINED_QEMU_EXTRA_PATHS": later, "CONFINED_QEMU_EXTRA_READONLY": disc}
    command = [harness.COMMAND, "exec", "--name", "raw", "--", *harness.raw_arguments(image.path)]
    vm = harness.boot(*command, "-qmp", f"unix:{folder}/q,server=on,wait=off", env=os.environ | variables)
    mine = harness.short_label(image.path)
    assert [harness.short_label(path) for path in (later, disc)] == [mine, HERE.content]
    qmp = Disks(f"{folder}/q")
    assert qmp.add(later) == ""
    assert qmp.add(disc, readonly=True) == ""

    # a chain: only with its format, and each layer by its use
    assert "state it: format=qcow2" in said(harness.confined("allow", "raw", top))
    with trial(DIES) as dying:
        done = harness.run(dying, "allow", "raw", top, "--format", "qcow2", check=False)
        assert done.returncode == -signal.SIGKILL
    assert {harness.short_label(path) for path in (top, third)} == {harness.UNUSED}
    good("allow", "raw", top, "--format", "qcow2")
    assert [harness.short_label(path) for path in (top, third)] == [mine, HERE.content]
    assert "given as a layer of" in said(harness.confined("revoke", "raw", third))

    # the watcher, then QEMU while it is given another file: the journal has all of it
    for watcher in harness.watchers():
        harness.kill(watcher)
    harness.until("no watcher", lambda: not harness.watchers())
    with trial(LOSES_THE_VM) as losing:
        done = harness.run(losing, "allow", "raw", fourth, check=False, env=os.environ | {"VICTIM": str(vm.pid)})
        assert "has ended\n  its labels go back by themselves" in said(done)
    vm.wait()
    assert harness.short_label(fourth) == harness.UNUSED
    assert harness.short_label(top) == mine
    assert harness.confined("recover").stdout == "raw: labels put back\n"
    assert {harness.short_label(path) for path in (image.path, later, disc, top, third)} == {harness.UNUSED}


# ---- whose VM it is


def test_an_ordinary_users_vm(user: pwd.struct_passwd) -> None:  # noqa: F811
    image = harness.Image(user.pw_dir, "theirs")
    image.write_spec(landlock="no")  # a VM without a monitor opens nothing later, so Landlock would hold it as well
    mine, roots, both = (os.path.join(user.pw_dir, name) for name in ("mine.img", "roots.img", "both.img"))
    for path in (mine, roots, both):
        with open(path, "wb") as file:
            file.write(bytes(1 << 16))
    for path in (image.path, image.spec, mine, both):
        os.chown(path, user.pw_uid, user.pw_gid)
    harness.run("restorecon", "-RF", user.pw_dir)
    before = harness.label(mine)
    as_user = ["runuser", "-u", user.pw_name, "--"]
    shell = f"cat | {harness.COMMAND} run {image.spec} 2>/dev/null | cat"
    vm = harness.boot(*as_user, "sh", "-c", shell)
    given = harness.short_label(image.path)

    def users(verb: str, path: str) -> tuple[str, str]:
        done = harness.run(*as_user, "sh", "-c", f"{harness.COMMAND} {verb} theirs {path} 2>&1 | cat")
        return done.stdout, harness.short_label(path)

    assert users("allow", mine)[1] == given
    text, label = users("allow", roots)
    assert "only its owner or root may relabel it" in text
    assert label != given
    # root has the owner's rights there, for the owner's watcher puts it back
    good("allow", "theirs", both)
    assert harness.short_label(both) == given
    assert users("revoke", mine)[0] == f"theirs: {mine} is taken back\n"
    assert harness.label(mine) == before
    vm.send(b"q")
    vm.popen.stdin.close()  # type: ignore[union-attr]
    vm.wait()
    harness.until("labels are back", lambda: harness.label(both) == before)
    assert harness.label(image.path) == before
