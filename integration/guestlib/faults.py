"""The real launch script under strace, in an enforcing guest: killed, or told EIO or ENOSPC, at one system call each.

Stands alone: runs in the guest with the product installed, `python3 -m integration.guestlib.faults --help`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LAUNCH = "/usr/local/libexec/confined-qemu/launch"
IMAGES = "/var/lib/libvirt/images"
STATE = "/var/lib/confined-qemu/0"
XATTR = "security.selinux"
UNUSED = b"system_u:object_r:virt_image_t:s0"
EMULATOR = b"system_u:object_r:qemu_exec_t:s0"
FAILING = frozenset(
    """openat read write fsync rename renameat unlink unlinkat mkdir setxattr getxattr syncfs flock fcntl
    getdents64 close fstat newfstatat ioctl pwrite64 pidfd_open pipe2 clone vfork execve""".split()  # noqa: SIM905 - a table
)
"""Calls that a disk or a full host can let fail."""
_CHANGING = frozenset(
    """write pwrite64 rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat mkdir mkdirat rmdir
    setxattr fsetxattr lsetxattr fchmod chmod fchmodat fchown fchownat ftruncate fsync syncfs flock fcntl bind connect
    sendmsg clone clone3 fork vfork execve prctl capset setresuid setresgid exit_group""".split()  # noqa: SIM905 - a table
)
"""Calls that change something, besides an openat that makes a file: a kill before any other one leaves what a kill
before the next one of these does."""
VERBS = ("exec", "run")
"""What the script is asked for: a command line, and a spec, whose VM has a control group of its own."""
FAULTS = ("signal=KILL", "error=EIO", "error=ENOSPC")
_SPEC = """\
name: a
emulator: {program}
accel: kvm
disks:
- file: a.img
  format: raw
"""
_NO_WORK = frozenset({"lock", "history"})
_CALL = re.compile(r"^(\d+) +([a-z_0-9]+)\(")
_WORK = re.compile(r'openat\(.*"/proc/(self|thread-self)/(attr/current|comm)"')
"""Where a program of ours begins its work; before, it is Python's start."""


class LossError(Exception):
    """Something was lost, or was left behind."""


@dataclass(frozen=True)
class Scene:
    """An image, and a program that ends at once in QEMU's place."""

    image: str
    command: tuple[str, ...]

    @classmethod
    def within(cls, folder: str, verb: str) -> "Scene":
        """Make it, for one of VERBS."""
        image, program = os.path.join(folder, "a.img"), os.path.join(folder, "qemu-system-x86_64")
        with open(image, "wb") as file:
            file.truncate(1 << 20)
        os.setxattr(image, XATTR, UNUSED)
        shutil.copy("/usr/bin/true", program)
        os.setxattr(program, XATTR, EMULATOR)
        if verb == "run":
            spec = os.path.join(folder, "a.yaml")
            with open(spec, "w", encoding="utf-8") as file:
                file.write(_SPEC.format(program=program))
            return cls(image, (LAUNCH, "run", spec))
        drive = f"if=none,format=raw,file={image}"
        return cls(image, (LAUNCH, "exec", "--emulator", program, "--", "-accel", "kvm", "-drive", drive))

    def traced(self, log: str, *more: str) -> int:
        """Launch under strace, which follows all that comes of it to its end."""
        words = ["strace", "-f", "-qq", "-o", log, *more, *self.command]
        return subprocess.run(words, check=False, capture_output=True).returncode

    def check(self, what: str) -> None:
        """See that all is as it was, once `recover` has done what is left to do.

        Raises:
            LossError: it is not.
        """
        if self._label() == UNUSED and not _left():
            return
        done = subprocess.run(["confined-qemu", "recover"], check=False, capture_output=True, text=True)
        label, left = self._label(), _left()
        if done.returncode != 0 or label != UNUSED or left:
            raise LossError(f"{what}: {label.decode()}, left {left}, recover: {done.returncode} {done.stderr.strip()}")

    def _label(self) -> bytes:
        return os.getxattr(self.image, XATTR).rstrip(b"\0")


def _left() -> list[str]:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        group = file.read().strip().removeprefix("0::")
    groups = [name for name in os.listdir(f"/sys/fs/cgroup{group}") if name.startswith("confined-qemu-")]
    return sorted(set(os.listdir(STATE)) - _NO_WORK) + groups


def calls(log: str) -> list[tuple[str, int, bool]]:
    """Return what strace can hit: each call of a program's work.

    That is its name, its number in that process, and whether it changes anything.
    """
    number: Counter[tuple[str, str]] = Counter()
    working: set[str] = set()
    found: dict[tuple[str, int], bool] = {}
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _CALL.match(line)
            if match is None:
                continue
            pid, name = match[1], match[2]
            number[pid, name] += 1
            if _WORK.search(line):
                working.add(pid)
            if pid in working:
                changes = name in _CHANGING or (name == "openat" and "O_CREAT" in line)
                found[name, number[pid, name]] = changes or found.get((name, number[pid, name]), False)
    return [(*call, changes) for call, changes in found.items()]


def run(every: int, faults: Sequence[str], verb: str) -> Iterator[str]:
    """Try every `every`-th call of the script that does `verb` with each fault; yield figures.

    Raises:
        LossError: a label was lost, or something was left.
    """
    os.makedirs(IMAGES, exist_ok=True)
    subprocess.run(["restorecon", IMAGES], check=True)
    with tempfile.TemporaryDirectory(prefix="faults-", dir=IMAGES) as folder:
        scene, log = Scene.within(folder, verb), os.path.join(folder, "log")
        if code := scene.traced(log):
            raise LossError(f"without a fault the launch ends with exit code {code}")
        scene.check("without a fault")
        found = calls(log)
        for fault in faults:
            possible = [call for call in found if (call[2] if "KILL" in fault else call[0] in FAILING)]
            mine = possible[::every]
            for name, number, _ in mine:
                injection = f"inject={name}:{fault}:when={number}"
                # it stops at every call, and spells out this one alone
                scene.traced(os.devnull, "-e", f"trace={name}", "-e", injection)
                scene.check(injection)
            yield f"the launch script, {verb}: {fault} at {len(mine)} of {len(possible)} calls: 0 lost"


def main(argv: list[str]) -> int:
    """Try, and print figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th call")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="only this one; repeatable")
    parser.add_argument("--of", choices=VERBS, action="append", help="only of this; repeatable")
    chosen = parser.parse_args(argv)
    try:
        for verb in chosen.of or VERBS:
            for line in run(chosen.every, chosen.fault or FAULTS, verb):
                print(line, flush=True)
    except LossError as loss:
        print(f"LOST: {loss}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
