"""The capabilities of this process: which it has, and how it gives them up for good (capabilities(7))."""

from __future__ import annotations

import os

from confined_qemu.model.errors import HostError
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


NAMES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner"),
    *("sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice"),
    *("sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap"),
    *("mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf"),
    "checkpoint_restore",
)
"""By their numbers (include/uapi/linux/capability.h)."""
_BOUNDING_DROP, _AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 24, 47, 2, 4
"""prctl(2): PR_CAPBSET_DROP, PR_CAP_AMBIENT and what it takes."""
_VERSION_3 = 0x20080522
_SETPCAP = 1 << NAMES.index("setpcap")


def _masks() -> dict[str, int]:
    """Return the sets of this process by the kernel's names: `CapPrm`, `CapBnd` and so on."""
    with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as file:
        rows = [line.split(":\t") for line in file if line.startswith("Cap")]
    return {name: int(value, 16) for name, value in rows}


def held() -> frozenset[str]:
    """Return what this process may do, by name.

    Raises:
        OSError: /proc is not there.
    """
    mask = _masks()["CapPrm"]
    return frozenset(name for number, name in enumerate(NAMES) if mask >> number & 1)


def bound(names: frozenset[str]) -> None:
    """Let no program that this process executes bring a capability but `names`: the bounding set, which takes setpcap.

    Raises:
        HostError: the kernel refuses.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    before = _masks()
    kept = sum(1 << NAMES.index(name) for name in names)
    for number in range(64) if before["CapEff"] & _SETPCAP else ():
        if before["CapBnd"] >> number & 1 and not kept >> number & 1:
            _prctl(libc, "narrowing the bounding set", _BOUNDING_DROP, number)


def keep(names: frozenset[str]) -> None:
    """Give up every capability but `names`, also what a program could bring that this process executes.

    A process without CAP_SETPCAP keeps its bounding set, which gives nothing to who has no_new_privs.

    Raises:
        HostError: the kernel refuses, or the sets read back are not what was asked for.
    """
    before = _masks()
    if not any(before[name] for name in ("CapPrm", "CapInh", "CapAmb")):
        return  # an ordinary user's, who has none
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    kept = sum(1 << NAMES.index(name) for name in names) & before["CapPrm"]
    _prctl(libc, "clearing the ambient capabilities", _AMBIENT, _AMBIENT_CLEAR_ALL)
    bound(names)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    if libc.capset(ctypes.byref(header), ctypes.byref(data)) != 0:
        raise _failed("giving up capabilities")
    for number in range(64):
        # what is kept outlives the exec of a user other than root only so
        if kept >> number & 1 and os.geteuid() != 0:
            _prctl(libc, "keeping a capability", _AMBIENT, _AMBIENT_RAISE, number)
    after = _masks()
    if after["CapPrm"] != kept or (before["CapEff"] & _SETPCAP and after["CapBnd"] & ~kept):
        raise HostError(f"capabilities were given up and are still there: {after['CapPrm']:x} {after['CapBnd']:x}")


def _prctl(libc: Any, operation: str, option: int, first: int, second: int = 0) -> None:
    import ctypes

    if libc.prctl(option, *(ctypes.c_ulong(word) for word in (first, second, 0, 0))) != 0:
        raise _failed(operation)


def _failed(operation: str) -> HostError:
    import ctypes

    return HostError(f"{operation} failed: {os.strerror(ctypes.get_errno())}")
