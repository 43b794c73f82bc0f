"""The door to SELinux, its light half: the kernel's own files and labels as text. `lsm` stands on it, with libselinux.

A start that cannot afford libselinux, a question to QEMU, uses it alone: there every answer is a plain yes or what was
read, and what cannot be read, or is not as simple as this module takes it, is None or False. What raises OSError is
for `lsm`, which says what failed and why.
"""

from __future__ import annotations

import os

ROOT = "/sys/fs/selinux"
CONFIG = "/etc/selinux/config"
_KIND = "selinuxfs"
_MOUNTS = "/proc/self/mountinfo"
_KINDS = "/proc/filesystems"
_LABEL = "security.selinux"
_LOWEST = "s0"
_LONGEST = 4096
"""Bytes of a context in /proc, which come with one read (fs/proc/base.c, `proc_pid_attr_read`: a page)."""


def text(path: str) -> str:
    """Return a file's text without what ends it.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
    finally:
        os.close(descriptor)
    return os.fsdecode(b"".join(parts)).rstrip("\0\n")


def read(path: str) -> str | None:
    """Return a file's text without what ends it, None where it cannot be read."""
    try:
        return text(path)
    except OSError:
        return None


def process_label(pid: int) -> str:
    """Return the context of a process.

    Raises:
        OSError: it is gone, or may not be seen.
    """
    descriptor = os.open(attribute("current", str(pid)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fsdecode(os.read(descriptor, _LONGEST)).rstrip("\0\n")
    finally:
        os.close(descriptor)


def attribute(name: str, process: str = "thread-self") -> str:
    """Return where the kernel shows a process's context: `current`, `prev`, or what `exec` or `fscreate` will get."""
    return f"/proc/{process}/attr/{name}"


def is_known() -> bool:
    """Tell whether this kernel has SELinux.

    Raises:
        OSError: the kernel does not say.
    """
    return _KIND in text(_KINDS).split()


def is_disabled() -> bool:
    """Tell whether this kernel runs without SELinux; not to know it is no yes."""
    try:
        return not is_known()
    except OSError:
        return False


def is_genuine() -> bool:
    """Tell whether it is the kernel's selinuxfs that lies at `ROOT`, and nothing that somebody put in its place.

    libselinux and go-selinux compare statfs(2)'s number of the file system's kind, which Python hands out only
    through ctypes. The kernel's table of mounts names the kind of each device number, and costs one read.

    Raises:
        OSError: there is nothing at `ROOT`, or the kernel does not show the table.
    """
    device = os.stat(ROOT).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    rows = (line.split(" ") for line in text(_MOUNTS).split("\n"))
    kinds = [row[row.index("-", 6) + 1] for row in rows if number in row[2:3] and "-" in row[6:]]
    return _KIND in kinds


def own_context() -> tuple[str, str] | None:
    """Return the type and the range of this process's context."""
    parts = (read(attribute("current")) or "").split(":", 3)
    return (parts[2], parts[3]) if len(parts) == 4 else None  # noqa: PLR2004 - user, role, type, range


def domain_at_lowest() -> str | None:
    """Return the policy's last context for VMs (`virtual_domain_context`), at s0 without categories.

    Where there are two, the second is for TCG, which QEMU starts for some questions too.
    """
    found = _vm_contexts()
    return at_lowest(found[-1]) if found else None


def vm_domains() -> frozenset[str]:
    """Return the types that the policy has for VMs (`virtual_domain_context`), none where that cannot be read."""
    return frozenset(context.split(":")[2] for context in _vm_contexts() if context.count(":") > 1)


def _vm_contexts() -> list[str]:
    kinds = [line.partition("=")[2].strip() for line in (read(CONFIG) or "").splitlines()
             if line.startswith("SELINUXTYPE=")]  # fmt: skip
    found = read(f"/etc/selinux/{kinds[-1]}/contexts/virtual_domain_context") if kinds else None
    return (found or "").split()


def at_lowest(context: str) -> str | None:
    """Return `context` at s0 without categories, None where it has no range."""
    parts = context.split(":", 3)
    return ":".join((*parts[:3], _LOWEST)) if len(parts) == 4 else None  # noqa: PLR2004 - as above


def label(path: str | int, *, follow: bool = True) -> str:
    """Return the label of a path or of an open descriptor.

    Raises:
        OSError: it has none, or it cannot be read.
    """
    return os.fsdecode(os.getxattr(path, _LABEL, follow_symlinks=follow)).rstrip("\0")


def set_label(path: str, wanted: str) -> None:
    """Label the file that `path` names.

    Raises:
        OSError: the kernel refuses.
    """
    # as libselinux's setfilecon_raw does it, NUL included
    os.setxattr(path, _LABEL, os.fsencode(wanted) + b"\0")


def label_of(descriptor: int) -> str | None:
    """Return the label of what a descriptor leads to."""
    try:
        return label(descriptor)
    except OSError:
        return None


def set_and_read_back(descriptor: int, wanted: str) -> bool:
    """Label what a descriptor leads to, and tell whether the label is there afterwards."""
    try:
        set_label(f"/proc/self/fd/{descriptor}", wanted)
    except OSError:
        return False
    return label_of(descriptor) == wanted


def device() -> int | None:
    """Return selinuxfs' device number: a null device on it stands for a descriptor that was taken away at exec."""
    try:
        return os.stat(ROOT).st_dev
    except OSError:
        return None


def _is_surely_genuine() -> bool:
    try:
        return is_genuine()
    except OSError:
        return False


def allows(source: str, target: str, kind: str, permissions: tuple[str, ...]) -> bool:
    """Tell whether the kernel would allow all these permissions (`/sys/fs/selinux/access`, selinuxfs.c)."""
    if not _is_surely_genuine():
        return False
    number = read(f"{ROOT}/class/{kind}/index")
    bits = [read(f"{ROOT}/class/{kind}/perms/{permission}") for permission in permissions]
    if number is None or any(bit is None for bit in bits):
        return False
    try:
        descriptor = os.open(f"{ROOT}/access", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, os.fsencode(f"{source} {target} {number}"))
        allowed = int(os.read(descriptor, 256).split()[0], 16)
    except (OSError, ValueError, IndexError):
        return False
    finally:
        os.close(descriptor)
    return all(allowed >> (int(bit or 0) - 1) & 1 for bit in bits)


def execute_as(context: str | None) -> bool:
    """Choose the context of the next exec, None for what the policy chooses; tell whether the choice was taken."""
    path = attribute("exec")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, os.fsencode(context or "\n"))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return read(path) == (context or "")
