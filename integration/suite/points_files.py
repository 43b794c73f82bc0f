"""What QEMU is told by name or by number, and what it says: probes of points."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import socket
import subprocess
from typing import Any, NoReturn

from integration.suite import harness, sides, tinyguest
from integration.suite.points_process import read_marker
from integration.suite.sides import Seen, Side

_OUT = "/tmp/confined-out.txt"  # noqa: S108 - where callers' files lie
_PREFILLED = '{"execute": "qmp_capabilities"}{"execute": "query-status"}{"execute": "quit"}'


def _command(side: Side, *arguments: str) -> str:
    return shlex.join([side.program, *arguments])


def _shell(side: Side, script: str) -> Seen:
    """Run a line of bash in the folder, as a CI script has it."""
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, cwd=sides.FOLDER, check=False, timeout=harness.PATIENCE
    )
    return {"exit": done.returncode, "stdout": side.plain(done.stdout), "stderr": side.plain(done.stderr)}


def quit_(vm: harness.Process) -> Seen:
    """End a VM over QMP."""
    vm.send(b'{"execute": "quit"}')
    return sides.ended(vm)


# ---- silence and errors


def questions(side: Side) -> Seen:
    """A question is answered as QEMU answers it."""
    asked = (["-version"], ["--help"], ["-device", "help"], ["-tpmdev", "help"])
    return {" ".join(words): side.run(*words) for words in asked}


def success(side: Side) -> Seen:
    """A VM that comes and goes says what its guest says, and no word more."""
    vm = side.boot()
    vm.send(b"q")
    assert vm.popen.stdout is not None
    rest = vm.popen.stdout.read()
    return {"stdout": vm.seen + rest} | sides.ended(vm)


def missing_file(side: Side) -> Seen:
    """A disk that is not there."""
    return side.run("-accel", "kvm", "-display", "none", "-drive", "file=missing.img,format=raw")


# ---- standard streams


def streams(side: Side) -> Seen:
    """QMP over a pipe whose whole content came before QEMU, as probes do it, and a pipe to a reader that leaves."""
    idle = _command(side, *sides.idle())
    boots = _command(side, *sides.guest())
    keys = "< <(until grep -sqa ready boot.log; do sleep 1; done; echo q)"
    return {
        "prefilled": _shell(side, f"printf %s {shlex.quote(_PREFILLED)} | {idle}"),
        "here document, no errors": _shell(side, f"{idle} <<< {shlex.quote(_PREFILLED)} 2>&-"),
        "a reader that leaves": _shell(side, f"{boots} {keys} 2>&1 | tee boot.log | grep -am1 ready; rm boot.log"),
        "file": _shell(side, f"{boots} {keys} > boot.log 2>&1; echo $?; cat boot.log; rm boot.log"),
    }


def end_of_file(side: Side) -> Seen:
    """Who waits for the end of QEMU's output gets it when QEMU ends, whatever ended it."""
    vm = side.boot()
    vm.popen.kill()
    assert vm.popen.stdout is not None
    vm.popen.stdout.read()  # comes to its end: nobody else holds the pipe
    mine, its = socket.socketpair()
    on_a_socket = side.start(*sides.guest(), stdin=its, stdout=its, stderr=its)
    its.close()
    read_marker(mine.fileno())
    mine.sendall(b"q")
    seen: Seen = {"pipe": sides.ended(vm)["exit"], "socket": on_a_socket.wait()}
    mine.settimeout(harness.PATIENCE)
    while mine.recv(4096):
        pass
    seen["still blocks"] = mine.getblocking()  # its flags are the caller's too
    mine.close()
    return seen


def background(side: Side) -> Seen:
    """In the background of a terminal with `tostop` it is stopped before it touches the terminal (SIGTTOU)."""
    pid, master = pty.fork()
    if pid == 0:
        _in_background([side.program, *sides.guest()])
    seen = b""
    while not seen.endswith(b"."):
        seen += os.read(master, 4096)
    os.waitpid(pid, 0)
    os.close(master)
    return {"said": seen}


def _in_background(command: list[str]) -> NoReturn:
    """Start a command as a shell does with `&`, and say whether it is stopped or ends."""
    try:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        job = os.fork()
        if job == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            os.chdir(sides.FOLDER)
            os.execv(command[0], command)
        status = os.waitpid(job, os.WUNTRACED)[1]
        stopped = os.WIFSTOPPED(status)
        if stopped:
            os.kill(job, signal.SIGKILL)
            os.waitpid(job, 0)
        os.write(1, b"stopped by %d." % os.WSTOPSIG(status) if stopped else b"ended.")
    finally:
        os._exit(0)


# ---- descriptors


def by_number(side: Side) -> Seen:
    """A socket that argv names by number, and a disk behind a descriptor set."""
    mine, its = socket.socketpair()
    number = its.fileno()
    disk = os.open(sides.at("a.img"), os.O_RDWR)
    reading = os.open(sides.at("a.img"), os.O_RDONLY)
    tail = ["-chardev", f"socket,id=s,fd={number}", "-serial", "chardev:s"]
    sets = [word for it in (disk, reading) for word in ("-add-fd", f"fd={it},set=7")]
    disks = ["-drive", "file=/dev/fdset/7,format=raw,if=ide"]
    given = [number, disk, reading]
    vm = side.start(*sides.raw(), *sets, *disks, *tail, pass_fds=given)
    for it in (its.fileno(), disk, reading):
        os.close(it)
    its.detach()
    read_marker(mine.fileno())
    seen: Seen = {"descriptors": sides.descriptors(vm.pid, number)}
    mine.sendall(b"q")
    mine.close()
    return seen | sides.ended(vm)


def output_by_name(side: Side) -> Seen:
    """Standard output as a path: it is the caller's pipe, file or terminal, and is not relabelled."""
    seen: Seen = {}
    words = [*sides.raw(), "-serial", "chardev:s", "-chardev"]
    vm = side.start(*words, "file,id=s,path=/proc/self/fd/1", stdin=subprocess.DEVNULL)
    assert vm.popen.stdout is not None
    seen["pipe"] = _marked(vm, vm.popen.stdout.fileno())
    master, slave = pty.openpty()
    vm = side.start(*words, "file,id=s,path=/dev/fd/1", stdin=subprocess.DEVNULL, stdout=slave)
    os.close(slave)
    seen["terminal"] = _marked(vm, master)
    os.close(master)
    with open(_OUT, "wb") as out:
        before = harness.label(_OUT)
        vm = side.start(*words, "file,id=s,path=/dev/stdout", stdin=subprocess.DEVNULL, stdout=out)
    seen["file"] = _marked(vm, -1)
    seen["its label stays"] = harness.label(_OUT) == before
    os.unlink(_OUT)
    return seen


def _marked(vm: harness.Process, output: int) -> Seen:
    """Wait for the guest's marker in the output, -1 for the file, or for QEMU's end; then end it."""
    text = b""
    try:
        if output >= 0:
            text = read_marker(output)
        else:
            harness.until("the marker or the end", lambda: _file(_OUT) or vm.popen.poll() is not None)
            text = _file(_OUT)
    except (AssertionError, OSError):
        pass
    vm.popen.terminate()
    found = sides.ended(vm)
    return {"marker": tinyguest.MARKER in text, "exit": found["exit"], "said": found["stderr"] if found["exit"] else ""}


def _file(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()


def memory_of_the_caller(side: Side) -> Seen:
    """Guest memory in a file that another process holds open: `/proc/PID/fd/N` (syzkaller)."""
    memory = os.memfd_create("memory")
    os.truncate(memory, 32 << 20)
    path = f"/proc/{os.getpid()}/fd/{memory}"
    try:
        return _idle_until_quit(side, "-object", f"memory-backend-file,id=m,size=32M,share=on,mem-path={path}",
                                "-machine", "memory-backend=m")  # fmt: skip
    finally:
        os.close(memory)


def _idle_until_quit(side: Side, *arguments: str, **options: Any) -> Seen:
    """Start an idle VM; what it says if it does not come up, and how it ends."""
    vm = side.start(*sides.idle(*arguments), **options)
    try:
        vm.read_until(b'"QMP"')
    except AssertionError as error:
        return {"came up": False, "said": side.plain(str(error).encode())}
    side.check(vm.pid)
    vm.send(b'{"execute": "qmp_capabilities"}')
    return {"came up": True} | quit_(vm)
