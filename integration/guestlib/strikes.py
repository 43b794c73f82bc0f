"""What a program in QEMU's place tries on a host with SELinux, as data: bare, under libvirt, under the launcher.

The suite has the program try each and compares; `integration/hostile` shows what came of it, and the table of the help
topic `security` is made of it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Answer(StrEnum):
    """What comes of an attempt."""

    DONE = "done"
    DENIED = "denied"


class Side(StrEnum):
    """Who started the program that tries."""

    BARE = "bare QEMU"
    LIBVIRT = "libvirt"
    OURS = "confined-qemu"


class Strike(NamedTuple):
    """One attempt: `kind` is the hostile program's word, `target` what the test puts there, or a plain value."""

    what: str
    kind: str
    target: str | int
    confined: Answer = Answer.DENIED
    """Under libvirt and under the launcher: both have the policy's `svirt_t`, and a pair."""
    bare: Answer = Answer.DONE

    def wanted(self, side: Side, otherwise: "Otherwise") -> Answer:
        """Return what is to come of it there: under Debian's policy, or as `otherwise` says of another one."""
        bare, confined = otherwise.get(self.what, (self.bare, self.confined))
        return bare if side is Side.BARE else confined


Otherwise = Mapping[str, tuple[Answer, Answer]]
"""By the attempt: what a policy answers, to bare QEMU and to a confined one, where that is not what Debian's does."""


_DONE, _DENIED = Answer.DONE, Answer.DENIED

STRIKES = (
    Strike("read and write its own image", "write", "own", _DONE),
    # another VM's files and process
    Strike("another VM's image: read it", "read", "image"),
    Strike("… write it", "write", "image"),
    Strike("… truncate it", "truncate", "image"),
    Strike("… relabel it", "relabel", "image"),
    Strike("… change its mode", "chmod", "image"),
    Strike("… give it another name", "link", "linked"),
    Strike("another VM's QMP socket: connect", "connect", "qmp"),
    Strike("another VM's process: read its memory", "memory", "pid"),
    Strike("… by process_vm_readv", "vmread", "pid"),
    Strike("… its environment", "read", "environ"),
    Strike("… its memory map", "read", "maps"),
    Strike("… list its descriptors", "list", "descriptors"),
    Strike("… take one of them (pidfd_getfd)", "getfd", "pid"),
    Strike("… its root folder", "list", "root"),
    Strike("… attach to it (ptrace)", "trace", "pid"),
    Strike("… change its limits", "limit", "pid"),
    Strike("… its CPUs", "cpus", "pid"),
    Strike("… its priority", "nice", "pid"),
    Strike("… send it a signal", "wake", "pid"),
    # the launcher's own
    Strike("the journal: read it", "read", "journal"),
    Strike("… write in it", "write", "journal"),
    Strike("… list its folder", "list", "journals"),
    Strike("the pair registry: open it", "read", "pairs"),
    Strike("… write to it", "write", "pairs"),
    Strike("a watcher: send it a signal", "wake", "watcher"),
    Strike("… attach to it", "trace", "watcher"),
    Strike("… read its memory", "memory", "watcher"),
    Strike("the launch script: run it", "start", "launch"),
    Strike("… change it", "write", "launch"),
    # its own confinement
    Strike("leave its domain at the next exec", "exec_as", "outside"),
    Strike("leave its domain at once", "become", "caller", bare=_DENIED),
    Strike("make a file with another VM's label", "make_as", "labelled"),
    Strike("switch SELinux off (enforce)", "write", "/sys/fs/selinux/enforce"),
    Strike("load a policy", "write", "/sys/fs/selinux/load"),
    Strike("set a boolean", "write", "boolean"),
    Strike("change the policy's configuration", "write", "/etc/selinux/config"),
    # the host's files
    Strike("read /etc/shadow", "read", "/etc/shadow"),
    Strike("write /etc/passwd", "write", "/etc/passwd"),
    Strike("make a file in /etc", "create", "/etc/hostile-strike"),
    Strike("list root's home", "list", "/root", _DONE),
    Strike("read a secret in it", "read", "secret"),
    Strike("list /home", "list", "/home"),
    Strike("make a file in /tmp", "create", "/tmp/hostile-strike", _DONE),  # noqa: S108 - what is tried
    Strike("… in /var/tmp", "create", "/var/tmp/hostile-strike", _DONE),  # noqa: S108 - what is tried
    Strike("… in /dev/shm", "create", "/dev/shm/hostile-strike", _DONE),  # noqa: S108 - what is tried
    Strike("… for cron", "create", "/etc/cron.d/hostile-strike"),
    Strike("write over a program", "write", "/usr/bin/qemu-img"),
    Strike("read the audit log", "read", "/var/log/audit/audit.log"),
    Strike("run a shell", "start", "/bin/sh"),
    Strike("run a setuid program", "start", "/bin/su"),
    # sockets and what processes share
    Strike("a program's socket in a folder: connect", "connect", "socket"),
    Strike("… an abstract one", "connect", "abstract"),
    Strike("the system bus: connect", "connect", "/run/dbus/system_bus_socket"),
    Strike("systemd's own socket: connect", "connect", "/run/systemd/private"),
    Strike("System V memory of the host's: attach", "shm", "shm"),
    Strike("a key of root's: read it", "key", "key"),
    Strike("a packet socket", "packet", 0),
    Strike("a raw socket", "raw", 0),
    Strike("the audit system's netlink socket: say something", "audit", 0),
    # devices
    Strike("/dev/mem: read", "read", "/dev/mem"),
    Strike("the host's disk: read", "read", "disk"),
    Strike("the kernel's log: write", "write", "/dev/kmsg"),
    Strike("the console: write", "write", "/dev/console", _DONE),
    Strike("loop devices: open their control", "write", "/dev/loop-control"),
    Strike("make a device node", "mknod", "beside"),
    # the kernel
    Strike("load a module from its image", "module", "own", bare=_DENIED),
    Strike("mount", "mount", "folder"),
    Strike("a user namespace", "unshare", 0x10000000, _DONE),
    Strike("a mount namespace", "unshare", 0x00020000),
    Strike("a network namespace", "unshare", 0x40000000),
    Strike("change the root folder", "chroot", "folder"),
    Strike("become another user", "setuid", 65534),
    Strike("set the host's name", "hostname", 0),
    Strike("set the clock", "clock", 0),
    Strike("write a sysctl", "write", "/proc/sys/kernel/core_pattern"),
    Strike("sysrq", "write", "/proc/sysrq-trigger"),
    Strike("a BPF map", "bpf", 0),
    Strike("performance counters", "perf", 0),
    Strike("kill a watcher", "terminate", "watcher"),
    Strike("kill another VM", "terminate", "pid"),
    Strike("delete another VM's image", "unlink", "image"),
)
"""In the order in which they are made: the last ones leave little to try."""
FEDORA: Otherwise = {
    "leave its domain at once": (_DONE, _DENIED),
    "list root's home": (_DONE, _DENIED),
    "list /home": (_DONE, _DONE),
    "run a shell": (_DONE, _DONE),  # in its own domain
    "… an abstract one": (_DONE, _DONE),
    "load a module from its image": (_DONE, _DENIED),
    "a user namespace": (_DONE, _DENIED),
}


_REFUSED = frozenset({"EACCES", "EPERM"})


def meaning(said: str) -> str:
    """Return the answer that the program's word for it means; the word itself where it is neither."""
    return Answer.DENIED if said in _REFUSED else Answer.DONE if said == "ok" else said


Answers = Mapping[Side, Mapping[str, str]]
"""By the side, what came of each attempt."""


def wanted() -> Answers:
    """Return what is to come of all under Debian's policy."""
    return {side: {one.what: one.wanted(side, {}) for one in STRIKES} for side in Side}


def different(found: Answers, otherwise: Otherwise) -> list[str]:
    """Return a line for each answer that is not as it is to be under a policy."""
    return [
        f"{one.what}: by {side} {said[one.what]}, not {one.wanted(side, otherwise)}"
        for one in STRIKES
        for side, said in found.items()
        if said[one.what] != one.wanted(side, otherwise)
    ]


def table(found: Answers) -> str:
    """Return the help topic's table of these answers."""
    sides = tuple(found)
    rows = [" | ".join([one.what, *(found[side][one.what] for side in sides)]) for one in STRIKES]
    head = " | ".join(["attempt, by root's VM", *sides])
    return "\n".join([f"| {head} |", f"|{'---|' * (len(sides) + 1)}", *(f"| {row} |" for row in rows)])


def columns(found: Answers) -> str:
    """Return the same for a terminal."""
    width = max(len(one.what) for one in STRIKES)
    head = f"{'':{width}}  {'  '.join(found)}"
    rows = [
        "  ".join([f"{one.what:{width}}", *(f"{said[one.what]:{len(side)}}" for side, said in found.items())]).rstrip()
        for one in STRIKES
    ]
    return "\n".join([head, *rows])
