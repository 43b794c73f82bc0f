"""A program in QEMU's place tries all that a table names: bare, as libvirt starts it, and as the launcher does."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from integration.guestlib import strikes
from integration.guestlib.strikes import Answer
from integration.suite import harness, hostile
from integration.suite.policies import HERE
from integration.suite.test_libvirt import Domain, libvirtd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["libvirtd"]
CALLER = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
SOCKET, ABSTRACT = "/tmp/hostile-strike.sock", "\0hostile-strike"  # noqa: S108 - a program's socket
SECRET = "/root/hostile-strike-secret"  # noqa: S105 - a file's name
KEY, SHM = "hostile-strike", 0x48535421
_ADD_KEY, _KEYCTL = 248, 250
"""Numbers of x86-64 (asm/unistd_64.h)."""
_SETPERM, _INVALIDATE, _USER_KEYRING, _ALL_OF_USER = 5, 21, -4, 0x3F3F0000
_CREATE, _REMOVE = 0o1000, 0
_REFUSED = frozenset({"EACCES", "EPERM"})


@contextmanager
def shared() -> Iterator[dict[str, Any]]:
    """Have what processes of a host share: sockets, System V memory, a key, a secret."""
    libc = ctypes.CDLL(None, use_errno=True)
    with ExitStack() as held:
        for address in (SOCKET, ABSTRACT):
            listener = held.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen(8)
        held.callback(os.unlink, SOCKET)
        with open(SECRET, "w", encoding="ascii") as file:
            file.write("secret")
        held.callback(os.unlink, SECRET)
        memory = libc.shmget(SHM, 4096, _CREATE | 0o600)
        held.callback(libc.shmctl, memory, _REMOVE, None)
        key = libc.syscall(_ADD_KEY, b"user", KEY.encode(), b"x", ctypes.c_size_t(1), ctypes.c_int(_USER_KEYRING))
        held.callback(libc.syscall, _KEYCTL, _INVALIDATE, key)
        assert memory >= 0
        assert key > 0
        assert libc.syscall(_KEYCTL, _SETPERM, key, ctypes.c_uint(_ALL_OF_USER)) == 0
        yield {"socket": SOCKET, "abstract": ABSTRACT, "secret": SECRET, "shm": SHM, "key": key}


def targets(common: dict[str, Any], victim: harness.Image, own: str, monitor: str) -> list[tuple[str, Any]]:
    """Return what is tried, with what this host has in the places of the table's words."""
    pid, folder = harness.qemu_of(victim.path), os.path.dirname(own)
    (journal,) = harness.journals()
    (watcher,) = harness.watchers()
    disk = next(name for name in sorted(os.listdir("/sys/block")) if name.startswith("vd"))
    os.makedirs(f"{folder}/mount", exist_ok=True)
    here = common | {
        "own": own, "image": victim.path, "linked": (victim.path, f"{own}.linked"), "qmp": monitor, "pid": pid,
        "environ": f"/proc/{pid}/environ", "maps": f"/proc/{pid}/maps", "descriptors": f"/proc/{pid}/fd",
        "root": f"/proc/{pid}/root", "journal": journal, "journals": os.path.dirname(journal),
        "pairs": "/var/lib/confined-qemu/pairs", "watcher": watcher, "launch": harness.LAUNCH,
        "outside": (CALLER, "/bin/true"), "caller": CALLER, "labelled": (harness.label(victim.path), f"{own}.labelled"),
        "boolean": "/sys/fs/selinux/booleans/virt_use_nfs", "disk": f"/dev/{disk}",
        "beside": f"{own}.node", "folder": f"{folder}/mount",
    }  # fmt: skip
    return [(one.kind, here.get(str(one.target), one.target)) for one in strikes.STRIKES[: HERE.strikes]]


def bare(own: harness.Image, program: str, tried: list[tuple[str, Any]]) -> None:
    hostile.prepare(own.path, tried)
    subprocess.run([program, "-drive", f"file={own.path},format=raw"], check=True)


def under_libvirt(own: harness.Image, program: str, tried: list[tuple[str, Any]]) -> None:
    hostile.prepare(own.path, tried)
    domain = Domain(os.path.dirname(own.path), "hostile", [own.path])
    with open(domain.xml, encoding="utf-8") as file:
        text = file.read()
    with open(domain.xml, "w", encoding="utf-8") as file:
        file.write(text.replace(harness.QEMU, program))
    # it ends without a monitor, which libvirt takes for a failed start
    assert harness.run("virsh", "create", domain.xml, check=False).returncode != 0


def ours(own: harness.Image, program: str, tried: list[tuple[str, Any]]) -> None:
    hostile.attempt(own, program, tried)


@pytest.mark.usefixtures("libvirtd")
def test_what_a_hostile_program_gets(
    make_image: Callable[[str], harness.Image], hostile_qemu: str, folder: str
) -> None:
    assert len({one.what for one in strikes.STRIKES}) == len(strikes.STRIKES) >= 60
    found: dict[str, dict[str, str]] = {}
    for side, act in (("bare", bare), ("libvirt", under_libvirt), ("ours", ours)):
        victim, attacker = make_image(f"victim-{side}"), make_image(f"attacker-{side}")
        monitor = os.path.join(folder, f"{side}.sock")
        victim.write_spec(monitor=f"unix:{monitor}")
        vm = harness.boot_spec(victim)
        with shared() as common:
            tried = targets(common, victim, attacker.path, monitor)
            act(attacker, hostile_qemu, tried)
        names = (one.what for one in strikes.STRIKES[: HERE.strikes])
        found[side] = dict(zip(names, hostile.answers(attacker.path), strict=True))
        for left in ("/etc", "/tmp", "/var/tmp", "/dev/shm", "/etc/cron.d"):  # noqa: S108 - where it was tried
            path = os.path.join(left, "hostile-strike")
            if os.path.exists(path):
                os.unlink(path)
        vm.end()
        harness.settle()
    wanted = {
        "bare": {one.what: one.bare for one in strikes.STRIKES},
        "libvirt": {one.what: one.confined for one in strikes.STRIKES},
        "ours": {one.what: one.confined for one in strikes.STRIKES},
    }
    for side, said in found.items():
        different = {what: answer for what, answer in said.items() if _kind(answer) != wanted[side][what]}
        assert different == {}, side


def _kind(answer: str) -> str:
    return Answer.DENIED if answer in _REFUSED else Answer.DONE if answer == "ok" else answer
