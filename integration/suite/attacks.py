"""Has the hostile program make the attempts of the table `strikes`: bare, started by libvirt, and by the launcher.

`python3 -m integration.suite.attacks`, in the guest, makes all of them and prints the answers as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from integration.guestlib import strikes
from integration.guestlib.strikes import Side
from integration.suite import harness, hostile, tinyguest, virtd

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLER = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
SOCKET, ABSTRACT = "/tmp/hostile-strike.sock", "\0hostile-strike"  # noqa: S108 - a program's socket
SECRET = "/root/hostile-strike-secret"  # noqa: S105 - a file's name
KEY, SHM = "hostile-strike", 0x48535421
_ADD_KEY, _KEYCTL = 248, 250
"""Numbers of x86-64 (asm/unistd_64.h)."""
_SETPERM, _INVALIDATE, _USER_KEYRING, _ALL_OF_USER = 5, 21, -4, 0x3F3F0000
_CREATE, _REMOVE = 0o1000, 0


@contextmanager
def _shared() -> Iterator[dict[str, Any]]:
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


def _targets(common: dict[str, Any], victim: harness.Image, own: str, monitor: str) -> list[tuple[str, Any]]:
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
    return [(one.kind, here.get(str(one.target), one.target)) for one in strikes.STRIKES]


def _bare(own: harness.Image, program: str, tried: list[tuple[str, Any]]) -> None:
    hostile.prepare(own.path, tried)
    harness.run(program, "-drive", f"file={own.path},format=raw")


def _under_libvirt(own: harness.Image, program: str, tried: list[tuple[str, Any]]) -> None:
    hostile.prepare(own.path, tried)
    domain = virtd.Domain(os.path.dirname(own.path), "hostile", [own.path])
    with open(domain.xml, encoding="utf-8") as file:
        text = file.read()
    with open(domain.xml, "w", encoding="utf-8") as file:
        file.write(text.replace(harness.QEMU, program))
    # it ends without a monitor, which libvirt takes for a failed start
    assert harness.run("virsh", "create", domain.xml, check=False).returncode != 0


def _ours(own: harness.Image, program: str, tried: list[tuple[str, Any]]) -> None:
    hostile.attempt(own, program, tried)


_WAYS = {Side.BARE: _bare, Side.LIBVIRT: _under_libvirt, Side.OURS: _ours}
_LEFT = ("/etc", "/tmp", "/var/tmp", "/dev/shm", "/etc/cron.d")  # noqa: S108 - where it was tried


def answers(side: Side, folder: str, program: str) -> dict[str, str]:
    """Make the attempts while another VM runs; return what came of each.

    libvirt's daemon has to run where `side` is libvirt.
    """
    number = list(Side).index(side)
    victim, attacker = (harness.fresh_image(folder, f"{name}-{number}") for name in ("victim", "attacker"))
    monitor = os.path.join(folder, f"{number}.sock")
    victim.write_spec(monitor=f"unix:{monitor}")
    vm = harness.boot_spec(victim)
    try:
        with _shared() as common:
            _WAYS[side](attacker, program, _targets(common, victim, attacker.path, monitor))
    finally:
        for left in _LEFT:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(left, "hostile-strike"))
        vm.end()
        harness.settle()
    names = (one.what for one in strikes.STRIKES)
    said = hostile.answers(attacker.path)
    return {name: strikes.meaning(word) for name, word in zip(names, said, strict=True)}


def main() -> None:
    """Make all attempts from all sides."""
    tinyguest.install()
    with harness.images_folder("hostile") as folder, hostile.installed() as program, virtd.running():
        found = {side: answers(side, folder, program) for side in Side}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
