"""Does this CPU have VT-x or AMD-V, and does `/dev/kvm` answer? Found out by using both.

The node alone proves nothing: it may open, answer, and still not run a kernel (software-only variants exist).
"""

from __future__ import annotations

import errno
import os

from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import KvmFacts
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NODE = "/dev/kvm"
GET_API_VERSION = 0xAE00
"""`_IO(KVMIO, 0x00)` of linux/kvm.h."""
API_VERSION = 12
"""The one stable version, as the kernel's Documentation/virt/kvm/api.rst says."""
FLAGS = {"vmx": "VT-x", "svm": "AMD-V"}
MODULES = {"vmx": "kvm_intel", "svm": "kvm_amd"}


def probe(cpuinfo: str, open_node: Callable[[], int], api_version: Callable[[int], int]) -> KvmFacts:
    """Return what CPU and node say; `open_node` and `api_version` reach them and raise OSError as the kernel does."""
    flags = _flags(cpuinfo)
    flag = next((name for name in FLAGS if name in flags), None)
    if flag is None:
        return _no_flag(cpuinfo, flags)
    try:
        descriptor = open_node()
    except OSError as error:
        return _not_opened(flag, error)
    try:
        version = api_version(descriptor)
    except OSError as error:
        return KvmFacts(
            flag,
            None,
            f"{NODE} opens and does not answer as KVM: {os.strerror(error.errno or 0)}",
            "remove the stray node",
        )
    finally:
        os.close(descriptor)
    if version != API_VERSION:
        return KvmFacts(
            flag,
            version,
            f"{NODE} speaks API version {version} instead of {API_VERSION}",
            "update the kernel",
        )
    return KvmFacts(flag, version)


def host() -> KvmFacts:
    """Probe this host."""
    import fcntl

    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        cpuinfo = file.read(65536)
    return probe(
        cpuinfo,
        lambda: os.open(NODE, os.O_RDWR | os.O_CLOEXEC),
        lambda descriptor: fcntl.ioctl(descriptor, GET_API_VERSION, 0),
    )


def _flags(cpuinfo: str) -> frozenset[str]:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _no_flag(cpuinfo: str, flags: frozenset[str]) -> KvmFacts:
    if "hypervisor" in flags:
        where = "the CPU shows neither VT-x nor AMD-V: this is a VM whose hypervisor does not offer them"
        return KvmFacts(None, None, where, "turn nested virtualization on in the outer host")
    vendor = "SVM" if "AuthenticAMD" in cpuinfo else "VT-x"
    return KvmFacts(
        None,
        None,
        "the CPU shows neither VT-x (vmx) nor AMD-V (svm)",
        f"enable {vendor} in the firmware, if the CPU has it",
    )


def _not_opened(flag: str, error: OSError) -> KvmFacts:
    module = MODULES[flag]
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return KvmFacts(
            flag,
            None,
            f"the CPU has {FLAGS[flag]} and {NODE} is missing: the module {module} is not loaded",
            f"run: modprobe {module} (where it fails, the firmware has {FLAGS[flag]} disabled)",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return KvmFacts(flag, None, f"{NODE} may not be opened: {os.strerror(error.errno)}", _permission_hint())
    return KvmFacts(
        flag, None, f"{NODE} cannot be opened: {os.strerror(error.errno or 0)}", f"reload the module {module}"
    )


def _permission_hint() -> str:
    try:
        found = os.stat(NODE)
    except OSError:
        return f"see: ls -lZ {NODE}"
    mine = found.st_uid == os.geteuid() or found.st_gid in (os.getegid(), *os.getgroups())
    if os.geteuid() == 0 or mine:
        return f"SELinux or a device rule denies it{HINT}see: ls -lZ {NODE}"
    return "join the group that owns it, for example: usermod -aG kvm USER"
