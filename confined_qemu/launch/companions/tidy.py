"""Stays with a VM that Landlock holds and removes what was made for it, whatever ended it.

Runs as a program of its own (`python3 -IS tidy.py PIDFD REPORT MARK WHAT...`; REPORT is -1 without `run`, MARK without
`-daemonize`), only where something must be removed. WHAT is `KIND:DEVICE:INODE:PATH`: what lies at PATH by then is
removed only if it is that inode, `empty` only if nobody has written to it, `socket` if it is any socket.
"""

import _signal  # type: ignore[import-not-found]  # typeshed has not what `signal` is made of; that loads enum
import fcntl
import os
import select
import stat
import sys

RESTORED = b"0"
DAEMON = b"d"
"""As the watcher of a VM with labels tells `run`."""


def main() -> None:
    """Watch one VM; does not return."""
    pidfd, report, mark = (int(text) for text in sys.argv[1:4])
    comm = os.open("/proc/self/comm", os.O_WRONLY)  # a text file would load a codec
    os.write(comm, b"confined-tidy")
    os.close(comm)
    _await_end(pidfd, report)
    _await_daemon(mark, report)
    for what in sys.argv[4:]:
        try:
            _remove(what)
        except OSError:
            continue  # it is gone, or whoever owns the folder does not let it go
    _tell(report, RESTORED)
    os._exit(0)


def kill(pidfd: int) -> None:
    """Kill a process, if it is still there."""
    try:
        _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
    except OSError:
        return


def _await_end(pidfd: int, report: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if report >= 0:
        poll.register(report, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if pidfd in ready:
            return
        kill(pidfd)
        poll.unregister(report)


def _await_daemon(mark: int, report: int) -> None:
    """Wait for QEMU's child, which holds the lock on the file that it inherited."""
    if mark < 0:
        return
    again = os.open(f"/proc/self/fd/{mark}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(mark)
    try:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _tell(report, DAEMON)
        fcntl.flock(again, fcntl.LOCK_EX)


def _remove(what: str) -> None:
    kind, device, inode, path = what.split(":", 3)
    found = os.lstat(path)
    if kind == "socket":
        if stat.S_ISSOCK(found.st_mode):
            os.unlink(path)
    elif (found.st_dev, found.st_ino) != (int(device), int(inode)):
        return
    elif kind == "folder":
        import shutil

        shutil.rmtree(path)
    elif kind == "file" or found.st_size == 0:
        os.unlink(path)


def _tell(report: int, what: bytes) -> None:
    if report >= 0:
        try:
            os.write(report, what)
        except OSError:
            return


if __name__ == "__main__":
    main()
