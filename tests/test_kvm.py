"""Is VT-x or AMD-V there: each thing that can be missing has its own words and its own way to mend it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

import pytest

from confined_qemu.host import kvm
from confined_qemu.model.facts import KvmFacts

if TYPE_CHECKING:
    from collections.abc import Callable

AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu sse svm\nbugs\t\t: x\n"
INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx sse\nvmx flags\t: vnmi\n"
BARE_AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu sse\n"
BARE_INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: fpu sse\nvmx flags\t: vmx svm\n"
VIRTUAL = "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor\n"


def node() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def fails(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def untouched() -> NoReturn:
    raise AssertionError("the node is not looked at without a CPU that can")


def answers(version: int) -> Callable[[int], int]:
    return lambda _: version


@pytest.mark.parametrize(("cpu", "flag"), [(AMD, "svm"), (INTEL, "vmx")])
def test_usable(cpu: str, flag: str) -> None:
    found = kvm.probe(cpu, node, answers(12))
    assert found == KvmFacts(flag, 12)
    assert found.usable


@pytest.mark.parametrize(
    ("cpu", "open_node", "version", "problem", "hint"),
    [
        (BARE_AMD, untouched, 12, "neither VT-x (vmx) nor AMD-V (svm)", "enable SVM in the firmware"),
        (BARE_INTEL, untouched, 12, "neither VT-x (vmx) nor AMD-V (svm)", "enable VT-x in the firmware"),
        ("", untouched, 12, "neither VT-x", "firmware"),
        ("flags\n", untouched, 12, "neither VT-x", "firmware"),
        (VIRTUAL, untouched, 12, "whose hypervisor does not offer them", "nested virtualization on in the outer host"),
        (AMD, fails(errno.ENOENT), 12, "the module kvm_amd is not loaded", "modprobe kvm_amd"),
        (INTEL, fails(errno.ENOENT), 12, "the module kvm_intel is not loaded", "modprobe kvm_intel"),
        (INTEL, fails(errno.ENODEV), 12, "has VT-x and /dev/kvm is missing", "firmware has VT-x disabled"),
        (AMD, fails(errno.ENXIO), 12, "has AMD-V and /dev/kvm is missing", "firmware has AMD-V disabled"),
        (AMD, fails(errno.EBUSY), 12, "cannot be opened: Device or resource busy", "reload the module kvm_amd"),
        (AMD, node, 11, "speaks API version 11 instead of 12", "update the kernel"),
        (AMD, node, 13, "speaks API version 13", "update the kernel"),
    ],
)
def test_what_is_missing(cpu: str, open_node: Callable[[], int], version: int, problem: str, hint: str) -> None:
    found = kvm.probe(cpu, open_node, answers(version))
    assert not found.usable
    assert problem in (found.problem or "")
    assert hint in (found.hint or "")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize(
    ("ids", "hint"),
    [
        ((1000, 0, 104), "usermod -aG kvm"),
        ((1000, 0, 1000), "SELinux or a device rule"),
        ((1000, 1000, 0), "SELinux or a device rule"),
        ((0, 0, 104), "SELinux or a device rule"),
        ((1000, None, None), "ls -lZ /dev/kvm"),
    ],
)
def test_who_may_not_open_it(
    monkeypatch: pytest.MonkeyPatch, number: int, ids: tuple[int, int | None, int | None], hint: str
) -> None:
    uid, owner, group = ids

    def stat(_: str) -> os.stat_result:
        if owner is None or group is None:
            raise PermissionError
        return os.stat_result((0o20660, 0, 0, 1, owner, group, 0, 0, 0, 0))

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: uid)
    monkeypatch.setattr(os, "getgroups", lambda: [uid])
    monkeypatch.setattr(os, "stat", stat)
    found = kvm.probe(AMD, fails(number), answers(12))
    assert os.strerror(number) in (found.problem or "")
    assert hint in (found.hint or "")


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL])
def test_a_node_that_is_something_else(number: int) -> None:
    found = kvm.probe(AMD, node, fails(number))
    assert "opens and does not answer as KVM" in (found.problem or "")
    assert found.hint == "remove the stray node"


@pytest.mark.parametrize("api_version", [answers(12), answers(3), fails(errno.ENOTTY)])
def test_the_node_is_closed(api_version: Callable[[int], int]) -> None:
    before = os.listdir("/proc/self/fd")
    kvm.probe(AMD, node, api_version)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.touches_host
def test_this_host_is_told_as_it_is() -> None:
    """Opening /dev/kvm changes nothing; a host without the CPU flag is unusable whatever its node says."""
    found = kvm.host()
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if not {"vmx", "svm"} & set(flags):
        assert not found.usable
    assert found.usable == (found.problem is None) == (found.api_version == kvm.API_VERSION)
