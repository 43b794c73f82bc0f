"""What a caller sees of the process that it started, and what that process has of the caller's: probes of points."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import json
import os
import pty
import resource
import select
import shutil
import signal
import socket
import subprocess
import termios

from integration.suite import harness, sides, tinyguest
from integration.suite.sides import Seen, Side

SHOW = "/usr/local/lib/confined-show/qemu-system-x86_64"
"""A program in QEMU's place that says what the kernel does not say of a process."""
_HANDED = "/tmp/confined-handed.txt"  # noqa: S108 - a place where callers' files lie
_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs", "show.py")
_IOPRIO_SET, _IOPRIO_GET, _OF_PROCESS, _BEST_EFFORT_6 = 251, 252, 1, 2 << 13 | 6
_PERSONALITY, _UNAME_26, _NO_RANDOM_ADDRESSES = 135, 0x0020000, 0x0040000
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK, _PR_SET_NO_NEW_PRIVS = 1, 29, 38
_LIBC = ctypes.CDLL(None, use_errno=True)
_ENVIRONMENT = {
    b"PATH": os.fsencode(os.environ["PATH"]), b"TMPDIR": b"/var/lib", b"LD_LIBRARY_PATH": b"/nowhere", b"TZDIR": b"/z",
    b"PYTHONPATH": b"/nowhere", b"LC_ALL": b"C", b"odd name-1": b"a=b\nc", b"EMPTY": b"", b"\xff\xfe": b"\x80\xff",
}  # fmt: skip
_LIMITS = {
    resource.RLIMIT_NOFILE: (300, 400), resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_STACK: (4 << 20, 64 << 20),
    resource.RLIMIT_FSIZE: (1 << 30, 1 << 31), resource.RLIMIT_MEMLOCK: (1 << 22, 1 << 23),
    resource.RLIMIT_CPU: (3000, 4000), resource.RLIMIT_SIGPENDING: (100, 200), resource.RLIMIT_NICE: (10, 12),
    resource.RLIMIT_RTPRIO: (1, 2), resource.RLIMIT_NPROC: (900, 1000), resource.RLIMIT_MSGQUEUE: (1000, 2000),
}  # fmt: skip
_STATUS = (
    "Umask", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
    "SigBlk", "SigIgn", "SigCgt", "SigPnd", "Cpus_allowed",
)  # fmt: skip
"""Lines of `/proc/PID/status`."""


def _odd() -> None:
    """Give a process that is about to execute a value of everything that it could inherit and nobody else has."""
    os.umask(0o027)
    os.nice(3)
    os.sched_setaffinity(0, {0})
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("321")
    with open("/proc/self/coredump_filter", "w", encoding="ascii") as file:
        file.write("0x21")
    _LIBC.syscall(_IOPRIO_SET, _OF_PROCESS, 0, _BEST_EFFORT_6)
    _LIBC.syscall(_PERSONALITY, _UNAME_26)
    _LIBC.prctl(_PR_SET_TIMERSLACK, 70_000)
    for number, pair in _LIMITS.items():
        resource.setrlimit(number, pair)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGWINCH, signal.SIGRTMIN + 3])
    for ignored in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGQUIT, signal.SIGPIPE, signal.SIGRTMIN + 5):
        signal.signal(ignored, signal.SIG_IGN)


@functools.cache
def running(side: Side) -> Seen:
    """Start it once with everything odd, and look at it from outside while it runs."""
    first, second = os.pipe()
    mine, its = socket.socketpair()
    file = os.open(_HANDED, os.O_RDWR | os.O_CREAT)
    given = [fcntl.fcntl(there, fcntl.F_DUPFD, number) for number, there in
             ((21, first), (23, second), (64, its.fileno()), (77, file), (255, file))]  # fmt: skip
    extra = ["--name", "odd", "-name", "again", "--add-fd", f"fd={given[3]},set=3,opaque=a,,b"]
    vm = side.boot(*extra, "-device", "isa-debug-exit", env=_ENVIRONMENT, preexec_fn=_odd, pass_fds=given)
    for number in given:
        os.close(number)
    seen = _looked_at(vm.pid, given)
    vm.send(b"q")
    _, code, used = os.wait4(vm.pid, 0)
    seen |= {"exit": os.waitstatus_to_exitcode(code), "memory was measured": used.ru_maxrss > 1 << 13}
    vm.popen.returncode = 0
    for number in (first, second, file):
        os.close(number)
    mine.close()
    its.close()
    os.unlink(_HANDED)
    return seen


def _looked_at(pid: int, given: list[int]) -> Seen:
    status, stat, command = sides.status(pid), sides.stat(pid), sides.words(pid, "cmdline")
    return {name: status[name] for name in _STATUS} | {
        "name": status["Name"],
        "program": os.readlink(f"/proc/{pid}/exe"),
        "argv[0]": os.path.basename(command[0]),
        "arguments": command[1:],
        "folder": os.readlink(f"/proc/{pid}/cwd"),
        "root": os.readlink(f"/proc/{pid}/root"),
        "environment": sides.words(pid, "environ"),
        "limits": sides.limits(pid),
        "descriptors": sides.descriptors(pid, *given),
        "parent is the caller": stat[1] == str(os.getpid()),
        "group and session are the caller's": (int(stat[2]), int(stat[3])) == (os.getpgid(0), os.getsid(0)),
        "terminal": stat[4],
        "threads": sides.threads(pid),
        "children": sides.children(pid),
        "children of the caller": sides.children(os.getpid()),
        "cgroup": sides.text(pid, "cgroup"),
        "namespaces": {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in os.listdir(f"/proc/{pid}/ns")},
        "login": (sides.text(pid, "loginuid"), sides.text(pid, "sessionid")),
        "personality": sides.text(pid, "personality"),
        "core file": sides.text(pid, "coredump_filter"),
        "timers": sides.text(pid, "timerslack_ns"),
        "out of memory": sides.text(pid, "oom_score_adj"),
        "nice": os.getpriority(os.PRIO_PROCESS, pid),
        "scheduler": (os.sched_getscheduler(pid), sorted(os.sched_getaffinity(pid))),
        "input and output": _LIBC.syscall(_IOPRIO_GET, _OF_PROCESS, pid),
    }


# ---- what only the program itself can say


def shown(side: Side) -> Seen:
    """Run the program that shows itself in QEMU's place, with what a program whose rights change may lose."""
    os.makedirs(os.path.dirname(SHOW), exist_ok=True)
    shutil.copy(_SOURCE, SHOW)
    os.chmod(SHOW, 0o755)
    subprocess.run(["chcon", "-t", "qemu_exec_t", SHOW], check=True)
    program, words = Side(SHOW, side.confined), ["-accel", "kvm"]
    if side.confined:  # by name a script is passed over
        program, words = Side(harness.LAUNCH, side.confined), ["exec", "--emulator", SHOW, "--", *words]
    try:
        said = program.run(*words, env=_ENVIRONMENT, preexec_fn=_odder)
    finally:
        os.unlink(SHOW)
    assert said["stderr"] == "", said
    return dict(json.loads(str(said["stdout"]))) | {"exit": said["exit"]}


def _odder() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _LIBC.syscall(_PERSONALITY, _NO_RANDOM_ADDRESSES)
    resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def file_too_large(side: Side) -> Seen:
    """A caller that ignores SIGXFSZ, so that a file at its limit is an error and not the end."""
    vm = side.idle(preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
    ignored = int(sides.status(vm.pid)["SigIgn"], 16)
    vm.popen.terminate()
    return {"SIGXFSZ is ignored": bool(ignored >> signal.SIGXFSZ - 1 & 1)} | sides.ended(vm)


# ---- how it ends


def ends(side: Side) -> Seen:
    """The ways in which QEMU ends, the status that its parent gets, and what QEMU says of it."""
    seen: Seen = {}
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV):
        vm = side.idle()
        harness.kill(vm.pid, number)
        seen[number.name] = sides.ended(vm)
    vm = side.idle()
    vm.send(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
    return seen | {"quit": sides.ended(vm)}


def debug_exit(side: Side) -> Seen:
    """An odd status of isa-debug-exit, by which test kernels report."""
    rom = tinyguest.ROM.replace(".rom", "-odd.rom")
    with open(rom, "wb") as file:
        file.write(tinyguest.firmware(42))
    vm = side.boot("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-bios", rom)
    vm.send(b"x")
    seen = sides.ended(vm)
    os.unlink(rom)
    return seen | {"85": seen["exit"] == 85}


def sigkill(side: Side) -> Seen:
    """SIGKILL of QEMU; then of the watcher too, which leaves the work to the next launch."""
    disk = sides.at("a.img")
    vm = side.boot()
    vm.popen.kill()
    seen: Seen = {"exit": sides.ended(vm)["exit"]}
    if side.confined:
        harness.settle()
    seen["label"] = harness.short_label(disk)
    vm = side.boot()
    held = harness.label(disk)
    for watcher in harness.watchers():
        harness.kill(watcher)
    seen["power off"] = harness.power_off(vm)
    # takes no label of the dead for its own
    again = side.boot()
    assert not side.confined or harness.level(harness.label(disk)) != harness.level(held)
    return seen | {"again": harness.power_off(again)}


# ---- standard streams


def terminal(side: Side) -> Seen:
    """A session on a terminal of its own: modes, groups, keys."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(sides.FOLDER)
        os.execv(side.program, [side.program, *sides.guest()])
    before = termios.tcgetattr(master)
    read_marker(master)
    side.check(pid)
    seen: Seen = {
        "before": _plain(before),
        "while": _plain(termios.tcgetattr(master)),
        "leads its session and group": sides.stat(pid)[2:4] == [str(pid)] * 2,
        "is in the foreground": os.tcgetpgrp(master) == pid == int(sides.stat(pid)[5]),
    }
    os.write(master, b"\x03")
    seen["exit"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seen["after"] = _plain(termios.tcgetattr(master))
    os.close(master)
    return seen


def _plain(modes: list[object]) -> list[object]:
    return modes[:6]


def read_marker(descriptor: int) -> bytes:
    """Read up to the guest's marker."""
    seen = b""
    while tinyguest.MARKER not in seen:
        ready, _, _ = select.select([descriptor], [], [], harness.PATIENCE)
        assert ready, seen
        data = os.read(descriptor, 4096)
        assert data, seen
        seen += data
    return seen
