"""The door to Landlock: the three system calls, which no library in a distribution's Python has.

They are made by ctypes, loaded where they are used. Each raises with operation, object and cause, and what was set is
proved by trying what it must deny.
"""

from __future__ import annotations

import errno
import os
import sys

from confined_qemu.model.errors import HostError, why
from confined_qemu.model.landlock import FILE_RIGHTS, Lacking, Right, Tcp
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from confined_qemu.model.ruleset import Rule, Ruleset

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""System calls (landlock_create_ruleset(2) and so on); the same numbers on every architecture."""
_VERSION = 1
"""LANDLOCK_CREATE_RULESET_VERSION: only tell the ABI."""
_BENEATH, _PORT = 1, 2
"""LANDLOCK_RULE_PATH_BENEATH and LANDLOCK_RULE_NET_PORT."""
_WORD = 8
"""Bytes of each field of `struct landlock_ruleset_attr`, which grew by one with ABI 4 and one with ABI 6."""
_ABSENT = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})
"""The kernel was built without Landlock, or booted without it (`lsm=`)."""
_OUT_OF_REACH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENXIO, errno.ENODEV})
"""A rule for what is not there, or what this user does not reach, would allow nothing."""
_NO_FILE_SYSTEM = errno.EBADFD
"""What lies on no mount (a pipe, a memfd) takes no rule and needs none."""
_CANARIES = ("/usr/bin", "/proc", "/etc", "/", "/dev", "/sys")
"""Folders that everybody may list, under SELinux the launcher too the first ones; a ruleset allows one only where the
VM shares it."""
_FILE = int(FILE_RIGHTS)
"""Those that fit what is no folder."""
_LOADED: list[Any] = []
"""syscall(2) of libc, once it is loaded: a ruleset takes a hundred calls."""


def _syscall() -> Any:
    if not _LOADED:
        import ctypes

        found = ctypes.CDLL(None, use_errno=True).syscall
        found.restype = ctypes.c_long
        _LOADED.append((found, {number: ctypes.c_long(number) for number in (_CREATE, _ADD, _RESTRICT)}))
    return _LOADED[0]


def _call(operation: str, where: str | None, number: int, *arguments: Any) -> int:
    syscall, numbers = _syscall()
    result = syscall(numbers[number], *arguments)
    if result < 0:
        import ctypes

        code = ctypes.get_errno()
        error = HostError(f"{operation} failed: {os.strerror(code)}", where=where)
        error.__cause__ = OSError(code, os.strerror(code))
        raise error
    return int(result)


def abi() -> int:
    """Return the kernel's ABI, 0 where it has no Landlock.

    Raises:
        HostError: the kernel may not be asked, as a container's seccomp filter can have it.
    """
    import ctypes

    syscall, numbers = _syscall()
    found = syscall(numbers[_CREATE], None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if found >= 0:
        return int(found)
    code = ctypes.get_errno()
    if code in _ABSENT:
        return 0
    raise HostError(
        f"whether this kernel has Landlock cannot be asked: {os.strerror(code)}",
        hint="a container's seccomp profile must allow landlock_create_ruleset(2)",
    )


def made(ruleset: Ruleset) -> int:
    """Return a descriptor of the kernel's ruleset with all these rules.

    Raises:
        HostError: the kernel refuses, or a file is not the one that was planned for.
    """
    import ctypes

    words = 1 + (ruleset.abi >= Lacking.TCP.since) + (ruleset.abi >= Lacking.SCOPES.since)
    fields = (ctypes.c_uint64 * words)(*(int(ruleset.files), int(ruleset.tcp), int(ruleset.scopes))[:words])
    size = ctypes.c_size_t(words * _WORD)
    made_one = _call("landlock_create_ruleset", None, _CREATE, ctypes.byref(fields), size, ctypes.c_uint32(0))
    try:
        for rule in ruleset.rules:
            _add(made_one, rule)
        for right, ports in ((Tcp.BIND, ruleset.bind), (Tcp.CONNECT, ruleset.connect)):
            for port in sorted(ports) if right & ruleset.tcp else ():
                _rule(made_one, _PORT, _word(right) + _word(port), f"port {port}")
    except BaseException:
        os.close(made_one)
        raise
    return made_one


def _word(number: int, size: int = _WORD) -> bytes:
    return int(number).to_bytes(size, sys.byteorder)


def _rule(ruleset: int, kind: int, attribute: bytes, where: str) -> None:
    """Add a rule; ctypes hands on the address of its bytes."""
    _call("landlock_add_rule", where, _ADD, ruleset, kind, attribute, 0)


def _add(ruleset: int, rule: Rule) -> None:
    try:
        opened = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _OUT_OF_REACH and rule.identity is None:
            return
        raise HostError(f"no rule can be made for it: {why(error)}", where=rule.path, hint="run again") from error
    try:
        planned = rule.identity
        if planned is not None:
            found = os.fstat(opened)
            if (found.st_dev, found.st_ino) != (planned.device, planned.inode):
                raise HostError("changed during launch", where=rule.path, hint="run again")
        wanted = int(rule.rights)
        # SELinux does not let the launcher look at every file of the host: the kernel says which is no folder
        if wanted and not _beneath(ruleset, opened, wanted, rule.path) and wanted & _FILE:
            _beneath(ruleset, opened, wanted & _FILE, rule.path)
    finally:
        os.close(opened)


def _beneath(ruleset: int, opened: int, wanted: int, path: str) -> bool:
    """Add a rule; tell whether these rights fit the file: a folder's do not fit another."""
    # struct landlock_path_beneath_attr is packed: rights, and a descriptor of four bytes
    packed = _word(wanted) + _word(opened, 4)
    try:
        _rule(ruleset, _BENEATH, packed, path)
    except HostError as error:
        number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
        if number == errno.EINVAL and wanted & ~_FILE:
            return False
        if number != _NO_FILE_SYSTEM:
            raise
    return True


def enforce(ruleset: int, planned: Ruleset) -> None:
    """Take from this process, for good, all that the ruleset does not allow, and prove it.

    It must have no_new_privs. Nothing can be imported afterwards that lies outside the rules.

    Raises:
        HostError: the kernel refuses, or what must be denied is not.
    """
    import ctypes

    canary = next((path for path in _CANARIES if not _allowed(path, planned) and _lists(path)), None)
    _call("landlock_restrict_self", None, _RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    if canary is not None and _lists(canary):
        raise HostError("Landlock should deny this and does not: nothing was started", where=canary)
    # without one the VM shares all of them, or SELinux closes the rest


def _lists(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError:
        return False
    return True


def _allowed(path: str, planned: Ruleset) -> bool:
    """Tell whether a rule lets the folder be listed: one for itself, or for a folder that it lies in."""
    above = [rule.path for rule in planned.rules if rule.rights & Right.READ_DIR]
    return any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in above)
