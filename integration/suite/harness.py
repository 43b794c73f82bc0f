"""What the tests inside the enforcing guest are written with: images, VMs, labels, and the kernel's denials."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from integration.suite import tinyguest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COMMAND = "/usr/local/bin/confined-qemu"
LAUNCH = "/usr/local/libexec/confined-qemu/launch"
TRIAL = "/usr/local/libexec/confined-qemu/trial"
"""The launch script with something done to it, in one test (`trial`)."""
QEMU = "/usr/bin/qemu-system-x86_64"
IMAGES = "/var/lib/libvirt/images"
"""A folder that every policy labels virt_image_t."""
UNUSED = "virt_image_t:s0"
AUDIT_LOG = "/var/log/audit/audit.log"
IMAGE_SIZE = 1 << 20
"""Bytes."""
PATIENCE = 300
"""Seconds after which a thing that should happen is taken for one that never will; nothing is timed by it."""
_PAIR = re.compile(r"s0:c\d+,c\d+")


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with its output captured as text."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=PATIENCE, errors="surrogateescape", **options
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done


def confined(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `confined-qemu`, whatever its exit code."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return run(COMMAND, *arguments, check=False, **options)


def label(path: str) -> str:
    """Return a file's label."""
    return os.fsdecode(os.getxattr(path, "security.selinux", follow_symlinks=False)).rstrip("\0")


def short_label(path: str) -> str:
    """Return a file's label without user and role."""
    return label(path).split(":", 2)[2]


def context(pid: int) -> str:
    """Return a process's context; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/attr/current", encoding="ascii") as file:
            return file.read().rstrip("\0\n")
    except OSError:
        return ""


def level(text: str) -> str:
    """Return the pair level at the end of a context."""
    found = _PAIR.search(text)
    assert found is not None, text
    return found[0]


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Return the first true answer of `condition`; fail when it never comes."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        select.select((), (), (), 0.02)
    return answer


@dataclass(frozen=True)
class Denial:
    """One AVC of the kernel."""

    permissions: frozenset[str]
    source: str
    target: str
    kind: str
    text: str


_AVC = re.compile(r"avc: +denied +\{ ([^}]*) \}.* scontext=(\S+) tcontext=(\S+) tclass=(\S+)")


class AuditTrail:
    """The denials since it was made. A user message marks the end, so that nothing is read too early."""

    def __init__(self) -> None:
        self.log = open(AUDIT_LOG, encoding="utf-8", errors="replace")  # noqa: SIM115 - auditd renames it when it is full
        self.log.seek(0, os.SEEK_END)
        self.seen = ""

    def denials(self) -> list[Denial]:
        """Return every denial up to now."""
        found = []
        for line in self.text().splitlines():
            match = _AVC.search(line)
            if match:
                found.append(Denial(frozenset(match[1].split()), match[2], match[3], match[4], line))
        return found

    def text(self) -> str:
        """Return all records up to now."""
        mark = f"confined-qemu-test-{time.monotonic_ns()}"
        run("auditctl", "-m", mark)
        until("the audit log's mark", lambda: mark in self._more())
        return self.seen

    def _more(self) -> str:
        """Return all that has been written, in the file that was open and in those that came after it."""
        renamed = os.path.exists(AUDIT_LOG) and not os.path.samestat(os.fstat(self.log.fileno()), os.stat(AUDIT_LOG))
        self.seen += self.log.read()
        if renamed:
            self.log.close()
            self.log = open(AUDIT_LOG, encoding="utf-8", errors="replace")  # noqa: SIM115 - read on later
            self.seen += self.log.read()
        return self.seen

    def has(self, permission: str, source: str, target: str, kind: str) -> bool:
        """Tell whether `source` (a type) was denied `permission` on `target` (a part of the context)."""
        return any(
            permission in denial.permissions
            and f":{source}:" in denial.source
            and target in denial.target
            and denial.kind == kind
            for denial in self.denials()
        )


class Image:
    """A disk in a folder for images, and the spec of a VM that has it; its guest is the tiny one."""

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(folder, f"{name}.img")
        self.spec = os.path.join(folder, f"{name}.yaml")
        with open(self.path, "wb") as file:
            file.write(bytes(IMAGE_SIZE))
        self.write_spec()

    def write_spec(self, *extra: str, **changes: Any) -> str:
        """Write the spec anew with these keys changed and QEMU arguments added; JSON is YAML."""
        spec = {
            "name": self.name,
            "accel": "kvm",
            "memory": "32M",
            "disks": [{"file": os.path.basename(self.path), "format": "raw", "bus": "ide"}],
            "serial": "stdio",
            "display": "none",
            "network": "none",
            "qemu_args": [*tinyguest.ARGUMENTS, *extra],
        } | changes
        with open(self.spec, "w", encoding="utf-8") as file:
            json.dump({key: value for key, value in spec.items() if value is not None}, file)
        return self.spec


@contextmanager
def images_folder(name: str) -> Iterator[str]:
    """Have a fresh folder for images, labelled as the policy labels one; it is gone afterwards."""
    path = os.path.join(IMAGES, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    run("restorecon", "-RF", IMAGES)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def fresh_image(folder: str, name: str) -> Image:
    """Make a bootable image with a spec, labelled virt_image_t."""
    image = Image(folder, name)
    run("restorecon", "-RF", folder)
    assert short_label(image.path) == UNUSED
    return image


_START = "from confined_qemu.cli.launchscript import main"
"""Where the launch script begins with what is ours."""


@contextmanager
def trial(code: str) -> Iterator[str]:
    """Yield the path of a launch script, with its label, that runs `code` first."""
    with open(LAUNCH, encoding="utf-8") as file:
        script = file.read()
    assert _START in script
    with open(TRIAL, "w", encoding="utf-8") as file:
        file.write(script.replace(_START, f"{code}\n{_START}"))
    try:
        os.chmod(TRIAL, 0o755)
        run("chcon", "-t", "confined_qemu_exec_t", TRIAL)
        yield TRIAL
    finally:
        os.unlink(TRIAL)


def raw_arguments(image: str, *more: str, accel: str = "kvm") -> list[str]:
    """Return a raw command line that boots `image` with its serial port on stdio."""
    drive = f"file={image.replace(',', ',,')},format=raw,if=ide"
    machine = ["-accel", accel, "-m", "32M", "-nodefaults", "-display", "none", *tinyguest.ARGUMENTS]
    return [*machine, "-drive", drive, *more, "-serial", "stdio"]


STARTED: list[Process] = []
"""What the test that runs now has started; what is left of it is ended afterwards."""


class Process:
    """A started program whose output is awaited, not timed."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        options.setdefault("stdin", subprocess.PIPE)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        self.popen = subprocess.Popen(command, **options)
        STARTED.append(self)
        self.seen = b""

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self.popen.pid

    def read_until(self, text: bytes, patience: float = PATIENCE) -> bytes:
        """Return standard output up to and with `text`; `patience` is in seconds."""
        assert self.popen.stdout is not None
        deadline = time.monotonic() + patience
        while text not in self.seen:
            ready, _, _ = select.select([self.popen.stdout], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.popen.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise AssertionError(f"{text!r} never came; output {self.seen!r}, errors {self._errors()!r}")
            self.seen += data
        return self.seen

    def _errors(self) -> bytes:
        if self.popen.stderr is None:
            return b""
        self.popen.kill()
        errors: bytes = self.popen.stderr.read()
        return errors

    def send(self, data: bytes) -> None:
        """Type into the VM's serial port."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(data)
        self.popen.stdin.flush()

    def wait(self) -> int:
        """Return the exit code; negative for a signal."""
        try:
            return self.popen.wait(PATIENCE)
        finally:
            for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
                if stream is not None:
                    stream.close()

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.wait()


def boot(*command: str, **options: Any) -> Process:
    """Start a VM and return once its guest has printed its marker."""
    process = Process(command, **options)
    try:
        process.read_until(tinyguest.MARKER)
    except AssertionError:
        process.end()
        raise
    return process


def boot_spec(image: Image, *extra: str) -> Process:
    """`confined-qemu run` on the image's spec, booted."""
    return boot(COMMAND, "run", image.spec, *extra)


def power_off(process: Process) -> int:
    """Ask the guest (under KVM) to end the machine and return the launcher's exit code."""
    process.send(b"q")
    return process.wait()


def processes_as(context_text: str) -> list[int]:
    """Return the processes that run in exactly this context."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and context(int(name)) == context_text]


def qemu_of(image: str) -> int:
    """Return the pid of the one process that runs at the level of `image`."""
    wanted = level(label(image))
    found = [
        int(name)
        for name in os.listdir("/proc")
        if name.isdecimal() and context(int(name)).endswith(wanted) and _is(int(name), "qemu")
    ]
    assert len(found) == 1, found
    return found[0]


def _is(pid: int, name: str) -> bool:
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return name in file.read()
    except OSError:
        return False


def watchers() -> list[int]:
    """Return the pids of all watchers."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _is(int(name), "confined-watch")]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal."""
    os.kill(pid, number)


def journals() -> list[str]:
    """Return the journals of all users."""
    found = []
    for folder, _, names in os.walk("/var/lib/confined-qemu"):
        found += [os.path.join(folder, name) for name in names if name.endswith(".json")]
    return found


def end_vms() -> list[str]:
    """Kill the VMs that run still, wait until all labels are back, and return their names."""
    settle()
    rows = json.loads(confined("ps", "--json").stdout)["vms"]
    for row in rows:
        kill(row["pid"])
    settle()
    return [row["name"] for row in rows]


def settle() -> None:
    """Wait until nothing is left to put back."""
    done = confined("settle", "--timeout", str(PATIENCE))
    assert done.returncode == 0, done.stderr


class Qmp:
    """A QMP client, for tests."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        until(f"a listener at {path}", lambda: self._connects(path))
        self.file = self.socket.makefile("rw", encoding="utf-8")

    def _connects(self, path: str) -> bool:
        try:
            self.socket.connect(path)
        except ConnectionRefusedError:  # it is there, and not listened on yet
            return False
        return True

    def greeting(self) -> dict[str, Any]:
        """Return QEMU's greeting."""
        return dict(json.loads(self.file.readline()))

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer, past any event."""
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "event" not in answer:
                return answer

    def close(self) -> None:
        """Hang up."""
        self.file.close()
        self.socket.close()


def qemu_io(path: str, disk: str, command: str) -> None:
    """Have QEMU itself read or write a disk, by its own block layer; what came of it is in its output at its end."""
    client = Qmp(path)
    client.greeting()
    client.ask("qmp_capabilities")
    answer = client.ask("human-monitor-command", **{"command-line": f'qemu-io {disk} "{command}"'})
    client.close()
    assert answer["return"] == "", answer


def results(process: Process) -> list[str]:
    """End the VM and return what each `qemu_io` came to: `read`, `wrote`, or its error."""
    assert process.popen.stdout is not None
    process.send(b"q")
    text = process.popen.stdout.read()
    process.wait()
    said = [line for line in text.decode(errors="replace").splitlines() if re.match("(read|wrote|write|Pattern)", line)]
    return [line.partition(" bytes at")[0] for line in said]


def messages(text: str) -> list[str]:
    """Return what was said on standard error, each message as one text: its line, and the hints beneath it."""
    joined = re.sub(r"\nconfined-qemu: (?:warning: )?(?=  \S)", "\n", text)
    return re.split(r"\n(?!  \S)", joined.removesuffix("\n")) if joined else []


def lines(text: str) -> Iterator[str]:
    """Yield the messages that are the launcher's."""
    return (said for said in messages(text) if said.startswith("confined-qemu: "))
