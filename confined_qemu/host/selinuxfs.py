"""The kernel's own files of SELinux as text, for a start that cannot afford libselinux: a question to QEMU.

Every answer is a plain yes or what was read. What cannot be read, or is not as simple as this module takes it, is
None or False: `lsm` and the plan then say why, with all that they know.
"""

from __future__ import annotations

import os

ROOT = "/sys/fs/selinux"
_LABEL = "security.selinux"
_CONFIG = "/etc/selinux/config"
_LOWEST = "s0"


def read(path: str) -> str | None:
    """Return the text of a small file, None where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fsdecode(os.read(descriptor, 1 << 16)).rstrip("\0\n")
    except OSError:
        return None
    finally:
        os.close(descriptor)


def is_disabled() -> bool:
    """Tell whether this kernel runs without SELinux; not to know it is no yes."""
    kinds = read("/proc/filesystems")
    return kinds is not None and "selinuxfs" not in kinds.split()


def own_context() -> tuple[str, str] | None:
    """Return the type and the range of this process's context."""
    parts = (read("/proc/thread-self/attr/current") or "").split(":", 3)
    return (parts[2], parts[3]) if len(parts) == 4 else None  # noqa: PLR2004 - user, role, type, range


def domain_at_lowest() -> str | None:
    """Return the policy's first context for VMs (`virtual_domain_context`), at s0 without categories."""
    kinds = [line.partition("=")[2].strip() for line in (read(_CONFIG) or "").splitlines()
             if line.startswith("SELINUXTYPE=")]  # fmt: skip
    text = read(f"/etc/selinux/{kinds[-1]}/contexts/virtual_domain_context") if kinds else None
    return at_lowest(text.split()[0]) if text and text.split() else None


def at_lowest(context: str) -> str | None:
    """Return `context` at s0 without categories, None where it has no range."""
    parts = context.split(":", 3)
    return ":".join((*parts[:3], _LOWEST)) if len(parts) == 4 else None  # noqa: PLR2004 - as above


def label_of(descriptor: int) -> str | None:
    """Return the label of what a descriptor leads to."""
    try:
        return os.fsdecode(os.getxattr(descriptor, _LABEL)).rstrip("\0")
    except OSError:
        return None


def relabel(descriptor: int, label: str) -> bool:
    """Label what a descriptor leads to, and tell whether the label is there afterwards."""
    try:
        os.setxattr(f"/proc/self/fd/{descriptor}", _LABEL, os.fsencode(label) + b"\0")
    except OSError:
        return False
    return label_of(descriptor) == label


def device() -> int | None:
    """Return selinuxfs' device number: a null device on it stands for a descriptor that was taken away at exec."""
    try:
        return os.stat(ROOT).st_dev
    except OSError:
        return None


def allows(source: str, target: str, kind: str, permissions: tuple[str, ...]) -> bool:
    """Tell whether the kernel would allow all these permissions (`/sys/fs/selinux/access`, selinuxfs.c)."""
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
    path = "/proc/thread-self/attr/exec"
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
