#!/usr/bin/python3 -IS
"""Stands in QEMU's place and tries what a VM that broke out of QEMU would try; the answers go to its own image.

The name of the own image is the `file=` of its command line; what to try is JSON in the file `targets` on the
image's first bytes. Each answer is "ok" or an errno's name.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import sys

PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def own_image():
    for argument in sys.argv:
        for part in argument.split(","):
            if part.startswith("file="):
                return part[5:]
    raise SystemExit("no image")


def answer(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


def read(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, 1)
    os.close(descriptor)


def write(path):
    os.close(os.open(path, os.O_WRONLY))


def connect(path):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(path)


def tcp(port):
    socket.create_connection(("127.0.0.1", port)).close()


def listen(port):
    socket.create_server(("127.0.0.1", port)).close()


def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", port))


def memory(pid):
    with open(f"/proc/{pid}/maps") as maps:
        start = int(maps.readline().partition("-")[0], 16)
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    os.pread(descriptor, 1, start)
    os.close(descriptor)


def trace(pid):
    ptrace(pid)
    libc = ctypes.CDLL(None, use_errno=True)
    os.waitpid(pid, getattr(os, "__WALL", 0x40000000))
    libc.ptrace(PTRACE_DETACH, pid, None, None)


def run(path):
    child = os.fork()
    if child == 0:
        try:
            os.execv(path, [path, "-c", "exit 0"])
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, "run")


def setuid(user):
    child = os.fork()
    if child == 0:
        try:
            os.setuid(user)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, "setuid")


def mount(path):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", path.encode(), b"tmpfs", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    libc.umount(path.encode())


def ptrace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(PTRACE_ATTACH, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def relabel(path):
    os.setxattr(path, "security.selinux", b"system_u:object_r:svirt_image_t:s0\0")


ATTEMPTS = {
    "read": read,
    "write": write,
    "list": os.listdir,
    "connect": connect,
    "tcp": tcp,
    "listen": listen,
    "udp": udp,
    "memory": memory,
    "trace": trace,
    "run": run,
    "setuid": setuid,
    "mount": mount,
    "stat": os.stat,
    "chmod": lambda path: os.chmod(path, 0o640),
    "truncate": lambda path: os.truncate(path, 1 << 20),
    "terminate": lambda pid: os.kill(pid, signal.SIGTERM),
    "ptrace": ptrace,
    "relabel": relabel,
    "create": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    "unlink": os.unlink,
    "execute": lambda path: os.execv(path, [path]),
}


def main():
    image = own_image()
    with open(image, "rb") as file:
        targets = json.loads(file.read().rstrip(b"\0"))
    answers = [[kind, target, answer(ATTEMPTS[kind], target)] for kind, target in targets]
    with open(image, "r+b") as file:
        file.write(json.dumps(answers).encode().ljust(1 << 16, b"\0"))
    try:
        with open("/proc/self/attr/current") as file:
            context = file.read().rstrip("\0")
    except OSError:
        context = "no context"  # no SELinux
    print("hostile:", context, flush=True)


main()
