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
            if part.startswith('"filename":'):  # as libvirt names it
                return json.loads(part.partition(":")[2])
    raise SystemExit("no image")


def answer(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    except Exception as error:  # an attempt that is not well made is seen by its name
        return type(error).__name__
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


# ---- calls that Python has no function for: numbers of x86-64 (asm/unistd_64.h)

MODULE, GETFD, PIDFD, VMREAD, BPF, PERF = 313, 438, 434, 310, 321, 298
KEYCTL, KEYCTL_READ = 250, 11


def call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    done = libc.syscall(ctypes.c_long(number), *arguments)
    if done < 0:
        raise OSError(ctypes.get_errno(), "call")
    return done


def apart(act):
    """Do it in a child, whose end ends it."""

    def attempt(target):
        child = os.fork()
        if child == 0:
            try:
                act(target)
            except OSError as error:
                os._exit(error.errno)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            raise OSError(code, "apart")

    return attempt


def vmread(pid):
    with open(f"/proc/{pid}/maps") as maps:
        start = int(maps.readline().partition("-")[0], 16)
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_size_t * 2)(start, 8)
    call(VMREAD, pid, local, ctypes.c_ulong(1), remote, ctypes.c_ulong(1), ctypes.c_ulong(0))


def getfd(pid):
    os.close(call(GETFD, call(PIDFD, pid, 0), 0, 0))


def limit(pid):
    import resource

    resource.prlimit(pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE))


def attribute(name, context):
    descriptor = os.open(f"/proc/thread-self/attr/{name}", os.O_WRONLY)
    try:
        os.write(descriptor, context.encode())
    finally:
        os.close(descriptor)


def make_as(target):
    label, path = target
    attribute("fscreate", label)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.unlink(path)
    finally:
        attribute("fscreate", "\0")


def start(path, *words):
    """Tell whether a program can be started; what it does then is nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            os.execv(path, [path, *words])
        except OSError as error:
            os.write(writing, bytes([error.errno]))
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 1)
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if said:
        raise OSError(said[0], "start")


def exec_as(target):
    context, path = target
    attribute("exec", context)
    try:
        start(path)
    finally:
        attribute("exec", "\0")


def module(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        call(MODULE, descriptor, b"", 0)
    except OSError as error:
        if error.errno != errno.ENOEXEC:  # the right is there, and the image is no module
            raise
    finally:
        os.close(descriptor)


def shm(key):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    found = libc.shmget(key, 0, 0)
    if found < 0 or libc.shmat(found, None, 0) in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shm")


def made(family, kind, protocol):
    socket.socket(family, kind, protocol).close()


def audit(_):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as made:  # NETLINK_AUDIT
        # AUDIT_USER with an acknowledgement (linux/audit.h, netlink.h)
        message = (20).to_bytes(4, "little") + (1005).to_bytes(2, "little") + (5).to_bytes(2, "little") + bytes(12)
        made.sendto(message, (0, 0))
        made.settimeout(5)
        number = -int.from_bytes(made.recv(4096)[16:20], "little", signed=True)
    if number:
        raise OSError(number, "audit")


def clock(_):
    import time

    time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))


def bpf(_):
    # BPF_MAP_CREATE of an array: type, key, value, entries (linux/bpf.h)
    words = (ctypes.c_uint32 * 32)(2, 4, 8, 1)
    os.close(call(BPF, 0, words, ctypes.sizeof(words)))


def perf(_):
    # struct perf_event_attr: PERF_TYPE_SOFTWARE, its size, PERF_COUNT_SW_CPU_CLOCK, of all processes on CPU 0
    words = (ctypes.c_uint32 * 16)(1, 64)
    os.close(call(PERF, words, -1, 0, -1, ctypes.c_ulong(0)))


def link(target):
    path, name = target
    os.link(path, name)
    os.unlink(name)


def mknod(path):
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
    os.unlink(path)


def stay(_):
    if os.fork() == 0:
        os.setsid()
        signal.pause()


def chain(_):
    """Run on without ever being there for long: each process starts the next one and ends."""
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)


ATTEMPTS = {
    "stay": stay,
    "chain": chain,
    "link": link,
    "vmread": vmread,
    "getfd": getfd,
    "limit": limit,
    "cpus": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(pid)),
    "nice": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid)),
    "wake": lambda pid: os.kill(pid, signal.SIGCONT),
    "start": start,
    "exec_as": exec_as,
    "become": apart(lambda context: attribute("current", context)),
    "make_as": make_as,
    "shm": shm,
    "key": lambda number: call(KEYCTL, KEYCTL_READ, number, None, ctypes.c_ulong(0), ctypes.c_ulong(0)),
    "packet": lambda _: made(socket.AF_PACKET, socket.SOCK_RAW, 0),
    "raw": lambda _: made(socket.AF_INET, socket.SOCK_RAW, 1),
    "audit": audit,
    "mknod": mknod,
    "module": module,
    "unshare": apart(lambda flags: call(272, ctypes.c_ulong(flags))),
    "chroot": apart(os.chroot),
    "hostname": lambda _: socket.sethostname(socket.gethostname()),
    "clock": clock,
    "bpf": bpf,
    "perf": perf,
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
    if any(word.startswith("none,") for word in sys.argv):
        os.execv("/usr/bin/qemu-system-x86_64", sys.argv)  # libvirt asks what QEMU can do
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
