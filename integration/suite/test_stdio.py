"""What the caller hands over arrives in QEMU: descriptors of every kind, environment, masks, limits, folder."""

from __future__ import annotations

import functools
import json
import os
import pty
import resource
import select
import shlex
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness, tinyguest

if TYPE_CHECKING:
    from collections.abc import Iterator

DROP_IN = "/usr/local/lib/confined-test/qemu-system-x86_64"
"""The launch script under the emulator's name."""


@pytest.fixture
def drop_in() -> Iterator[str]:
    """A folder for PATH where QEMU's name is ours."""
    os.makedirs(os.path.dirname(DROP_IN), exist_ok=True)
    if not os.path.islink(DROP_IN):
        os.symlink(harness.LAUNCH, DROP_IN)
    yield DROP_IN
    os.unlink(DROP_IN)


def _read_marker(descriptor: int) -> bytes:
    seen = b""
    while tinyguest.MARKER not in seen:
        ready, _, _ = select.select([descriptor], [], [], harness.PATIENCE)
        assert ready, seen
        data = os.read(descriptor, 4096)
        assert data, seen
        seen += data
    return seen


def test_a_pipe(image: harness.Image, drop_in: str) -> None:
    vm = harness.boot(drop_in, *harness.raw_arguments(image.path))
    assert harness.power_off(vm) == 0


def test_a_file(image: harness.Image, drop_in: str) -> None:
    for target in ("/root/out.log", "/tmp/out.log", "/var/log/out.log"):  # noqa: S108 - the places people use
        with open(target, "wb") as out:
            vm = harness.Process([drop_in, *harness.raw_arguments(image.path)], stdout=out, stderr=out)
        harness.until(f"the marker in {target}", functools.partial(_holds, target, tinyguest.MARKER))
        assert harness.power_off(vm) == 0
        os.unlink(target)


def _holds(path: str, text: bytes) -> bool:
    with open(path, "rb") as file:
        return text in file.read()


def test_a_terminal(image: harness.Image, drop_in: str) -> None:
    master, slave = pty.openpty()
    vm = harness.Process([drop_in, *harness.raw_arguments(image.path)], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    _read_marker(master)
    os.write(master, b"q")
    assert vm.wait() == 0
    os.close(master)


def test_a_socket_pair(image: harness.Image, drop_in: str) -> None:
    mine, its = socket.socketpair()
    vm = harness.Process([drop_in, *harness.raw_arguments(image.path)], stdin=its, stdout=its, stderr=its)
    its.close()
    _read_marker(mine.fileno())
    mine.sendall(b"q")
    assert vm.wait() == 0
    mine.settimeout(harness.PATIENCE)
    while mine.recv(4096):
        pass  # the end comes: nobody of ours keeps the caller's socket open
    assert mine.getblocking()


@pytest.mark.parametrize("sink", ["pipe", "file", "socket"])
def test_from_a_service(image: harness.Image, drop_in: str, sink: str) -> None:
    """A unit has no login shell's range: its pipes, files and journal sockets are at s0."""
    log = "/var/log/confined-test.log"
    unit = f"confined-test-{sink}"
    command = ["systemd-run", "--quiet", "--wait", "--collect", f"--unit={unit}"]
    service = [drop_in, *harness.raw_arguments(image.path)]
    if sink == "pipe":
        # what a CI runner does: a shell of the service's own, whose pipe the VM writes into
        service = ["/bin/sh", "-c", f"{shlex.join(service)} | cat > {log}"]
    elif sink == "file":
        command.append(f"--property=StandardOutput=file:{log}")
    # the guest waits for a key that no service has: it is ended when its marker has arrived
    process = harness.Process([*command, *service], stdin=subprocess.DEVNULL)
    if sink == "socket":
        journal = ("journalctl", "-u", unit, "-o", "cat")
        harness.until("the marker in the journal", lambda: "guest: ready" in harness.run(*journal).stdout)
    else:
        harness.until("the marker in the file", lambda: os.path.exists(log) and _holds(log, tinyguest.MARKER))
        os.unlink(log)
    os.kill(harness.qemu_of(image.path), signal.SIGTERM)
    assert process.wait() == 0
    harness.settle()
    assert harness.short_label(image.path) == harness.UNUSED


def test_inherited_descriptors_keep_their_numbers(image: harness.Image, drop_in: str) -> None:
    mine, its = socket.socketpair()
    arguments = [*harness.raw_arguments(image.path)[:-2]]
    arguments += ["-chardev", f"socket,id=s,fd={its.fileno()}", "-serial", "chardev:s"]
    vm = harness.Process([drop_in, *arguments], pass_fds=[its.fileno()])
    its.close()
    _read_marker(mine.fileno())
    mine.sendall(b"q")
    assert vm.wait() == 0
    mine.close()


def test_the_process_that_was_started_is_qemu(image: harness.Image, drop_in: str) -> None:
    vm = harness.boot(drop_in, *harness.raw_arguments(image.path))
    assert os.readlink(f"/proc/{vm.pid}/exe") == harness.QEMU
    with open(f"/proc/{vm.pid}/cmdline", "rb") as file:
        assert os.path.basename(file.read().split(b"\0")[0]) == b"qemu-system-x86_64"
    with open(f"/proc/{vm.pid}/task/{vm.pid}/children", encoding="ascii") as file:
        assert file.read() == ""
    assert harness.power_off(vm) == 0
    harness.settle()
    assert harness.short_label(image.path) == harness.UNUSED


_SHOW = """#!/usr/bin/python3 -IS
import json, os, resource, signal
status = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
environment = sorted(os.fsdecode(e) for e in open('/proc/self/environ', 'rb').read().split(b'\\0') if e)
print(json.dumps({
    'cwd': os.getcwd(), 'umask': os.umask(0), 'environment': environment,
    'ignored': status['SigIgn'], 'blocked': status['SigBlk'],
    'files': resource.getrlimit(resource.RLIMIT_NOFILE), 'core': resource.getrlimit(resource.RLIMIT_CORE),
    'descriptors': sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1], 'nice': os.getpriority(os.PRIO_PROCESS, 0),
    'session': os.getsid(0) == int(os.environ['TEST_SESSION']), 'group': os.getpgid(0) == os.getpid(),
}))
"""


def test_environment_masks_limits_and_folder(image: harness.Image) -> None:
    """The same program as QEMU, started bare and by the launcher, sees the same."""
    program = "/usr/local/bin/qemu-system-show"
    with open(program, "w", encoding="ascii") as file:
        file.write(_SHOW)
    os.chmod(program, 0o755)
    subprocess.run(["chcon", "-t", "qemu_exec_t", program], check=True)
    environment = {
        "PATH": os.environ["PATH"], "TMPDIR": "/var/lib", "LD_LIBRARY_PATH": "/nowhere", "PYTHONPATH": "/nowhere",
        "STRANGE": "a=b\nc", "LC_ALL": "C", "TEST_SESSION": str(os.getsid(0)),
    }  # fmt: skip

    def before() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o027)

    def seen(command: list[str]) -> object:
        done = subprocess.run(
            command, capture_output=True, check=True, env=environment, cwd="/var/lib", preexec_fn=before
        )
        assert done.stderr == b""
        return json.loads(done.stdout)

    try:
        bare = seen([program, "-drive", f"file={image.path}"])
        confined = seen([harness.LAUNCH, "exec", "--emulator", program, "--", "-accel", "kvm"])
    finally:
        os.unlink(program)
    assert confined == bare


def test_queries_pass_through_unchanged(drop_in: str) -> None:
    for query in (["-version"], ["--help"], ["-device", "help"], ["-M", "help"]):
        bare = subprocess.run([harness.QEMU, *query], capture_output=True, check=False)
        ours = subprocess.run([drop_in, *query], capture_output=True, check=False)
        assert ours.returncode == bare.returncode
        assert ours.stdout == bare.stdout.replace(harness.QEMU.encode(), drop_in.encode())
        assert ours.stderr == bare.stderr.replace(harness.QEMU.encode(), drop_in.encode())
