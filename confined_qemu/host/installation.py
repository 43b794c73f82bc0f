"""QEMU's own installation on this host: what its process reads and runs that no command line names.

The lists are data. That they are enough is tested with real QEMU, for each row of the table of openings.
"""

from __future__ import annotations

import os
import stat

from confined_qemu.model.landlock import DEVICE, FILE_RIGHTS, READ, RUN, WRITE, Owned
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from confined_qemu.model.landlock import Right

_LIBRARIES = ("/lib", "/lib64", "/lib32", "/libx32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/local/lib")
_SHARED = ("/usr/share", "/usr/local/share")
_LINKER = ("/etc/ld.so.cache", "/etc/ld.so.preload")
_CONFIGURATION = (
    *("/etc/qemu", "/etc/localtime", "/etc/crypto-policies", "/etc/gnutls", "/etc/sasl2"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/libnl"),
    *("/etc/libnl-3", "/etc/fonts", "/etc/ceph", "/etc/alsa", "/etc/asound.conf", "/etc/pulse"),
)
_NAMES = (
    *("/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf"),
    *("/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/machine-id"),
)
_SELF = "/proc/self"
_KERNEL = (
    *(_SELF, "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/sys"),
    *("/sys/devices", "/sys/bus", "/sys/class", "/sys/dev", "/sys/block", "/sys/module", "/sys/kernel/mm"),
    *("/sys/kernel/iommu_groups", "/sys/fs/cgroup"),
)
_RESOLVER = "/etc/resolv.conf"
_RANDOM = ("/dev/random", "/dev/urandom")
_NOTHING = ("/dev/null", "/dev/zero", "/dev/full")
_OTHERS = frozenset({"/", "/usr", "/home", "/root", "/opt", "/srv", "/var", "/tmp", "/mnt"})  # noqa: S108 - named only
"""Folders that hold more than one program's installation."""
_BESIDE = ("lib", "lib64", "share", "libexec", "etc/qemu")
"""What belongs to an emulator in the `bin` of a prefix of its own."""
_BUILD = ("qemu-bundle", "pc-bios", "../pc-bios")
"""Firmware as an emulator in its build folder looks for it."""
_SCRIPT = b"#!"
_ELF = b"\x7fELF"
_HEAD = 4096
"""Bytes at the beginning of a program that name its interpreter: the program headers stand there."""
_INTERPRETER = 3
"""PT_INTERP, elf(5)."""
_DEEPEST = 4
"""How often a script's interpreter may be a script (execve(2))."""


def found(emulator: str, environment: Mapping[bytes, bytes]) -> tuple[Owned, ...]:
    """Return what there is of QEMU's installation for this emulator, each once, by its path without links."""
    seen: dict[str, tuple[Right, str]] = {}
    for paths, rights, why in _all(emulator, environment):
        of_file = rights & FILE_RIGHTS
        for path in paths:
            there = _there(path)
            if there is None:
                continue
            real, folder = there
            allowed = rights if folder else of_file
            before = seen.get(real)
            if before is None:
                seen[path if path == _SELF else real] = (allowed, why)
            elif allowed & ~before[0]:
                seen[real] = (allowed | before[0], why)
    return tuple(Owned(path, rights, why) for path, (rights, why) in seen.items())


def _there(path: str) -> tuple[str, bool] | None:
    """Return a path without links, and whether it is a folder's; None where there is nothing.

    The kernel is asked for the path in one go: `os.path.realpath` looks at each part of it.
    """
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{opened}"), stat.S_ISDIR(os.fstat(opened).st_mode)
    except OSError:
        return None
    finally:
        os.close(opened)


def _all(emulator: str, environment: Mapping[bytes, bytes]) -> tuple[tuple[Iterable[str], Right, str], ...]:
    """Return the paths that are looked for, with what may be done with them and why."""
    return (
        (programs(emulator), RUN, "the emulator"),
        (_LIBRARIES, READ, "libraries, modules and firmware"),
        (_SHARED, READ, "firmware, keymaps and time zones"),
        (_beside(os.path.realpath(emulator)), READ, "the emulator's own folders"),
        (_LINKER, READ, "the dynamic linker"),
        (_named(environment), READ, "the dynamic linker, by the caller's environment"),
        (_CONFIGURATION, READ, "libraries' configuration"),
        (_NAMES, READ, "names of users and hosts"),
        (_resolver(), READ, "names of hosts, as the network changes"),
        (_KERNEL, READ, "the kernel's files"),
        (_RANDOM, READ, "every process's"),
        (_NOTHING, DEVICE | WRITE, "every process's"),
    )


def _resolver() -> Iterator[str]:
    """Yield the folder in which a daemon of the host's replaces resolv.conf: QEMU's user network reads each new one."""
    folder = os.path.dirname(os.path.realpath(_RESOLVER))
    if folder.startswith("/run/"):
        yield folder


def programs(program: str) -> Iterator[str]:
    """Yield a program and all that the kernel executes for it: interpreters of scripts, the dynamic linker."""
    for _ in range(_DEEPEST):
        yield program
        try:
            with open(program, "rb") as file:
                head = file.read(_HEAD)
        except OSError:
            return
        if head.startswith(_ELF):
            linker = _linker(head)
            if linker is not None:
                yield linker
            return
        if not head.startswith(_SCRIPT):
            return
        words = head.splitlines()[0].removeprefix(_SCRIPT).split()
        if not words:
            return
        program = os.fsdecode(words[0])


def _linker(head: bytes) -> str | None:
    """Return the dynamic linker that an ELF program asks for; None for one that needs none, or says so oddly."""
    wide = head[4:5] == b"\x02"
    little = head[5:6] == b"\x01"

    def number(place: int, size: int) -> int:
        return int.from_bytes(head[place : place + size], "little" if little else "big")

    table, size, count = (
        (number(32, 8), number(54, 2), number(56, 2)) if wide else (number(28, 4), number(42, 2), number(44, 2))
    )
    for index in range(count):
        row = table + index * size
        if number(row, 4) == _INTERPRETER:
            at, length = (
                (number(row + 8, 8), number(row + 32, 8)) if wide else (number(row + 4, 4), number(row + 16, 4))
            )
            name = head[at : at + length].rstrip(b"\0")
            return os.fsdecode(name) if name.startswith(b"/") else None
    return None


def _beside(emulator: str) -> Iterator[str]:
    folder = os.path.dirname(emulator)
    prefix = os.path.dirname(folder)
    if os.path.basename(folder) == "bin" and prefix not in _OTHERS:
        yield from (os.path.join(prefix, name) for name in _BESIDE)
    elif os.path.isdir(os.path.join(folder, "qemu-bundle")):
        yield from (os.path.join(folder, name) for name in _BUILD)


def _named(environment: Mapping[bytes, bytes]) -> Iterator[str]:
    """Yield what the caller's environment gives the dynamic linker and QEMU's modules to read (ld.so(8))."""
    for name in (b"LD_LIBRARY_PATH", b"LD_PRELOAD", b"QEMU_MODULE_DIR"):
        for part in environment.get(name, b"").replace(b" ", b":").split(b":"):
            path = os.path.normpath(os.fsdecode(part))
            if path.startswith("/") and path not in _OTHERS:
                yield path
