"""Whole launches on a host that enforces: at each call launcher, watcher, QEMU, or all of them are killed or fail.

strace follows forks, and counts the calls of each process by itself: the n-th call of a name is hit in whoever comes to
it, one process or several. QEMU is a stand-in that ends at once, so that an end is a part of each launch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from integration.campaigns.syscalls import FAILING, KILL
from integration.campaigns.world import LABEL, Loss

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE = "/var/lib/libvirt/images/campaign"
STAND_IN = "/usr/local/bin/campaign-qemu"
COMMAND = "/usr/local/bin/confined-qemu"
STATE, RUNTIME = "/var/lib/confined-qemu/0", "/run/confined-qemu"
_CALL = re.compile(r"^(\d+) +([a-z_0-9]+)\(")
_STAYS = frozenset({"lock", "history"})
_PATIENCE = 120.0
"""Seconds until watchers that do not end are a loss."""


FEW = (
    ("rename", 1, KILL),  # the journal gets its name
    ("fsync", 2, KILL),  # the folder of the journal is on disk
    ("setxattr", 1, KILL),  # the label: launcher and watcher
    ("syncfs", 1, KILL),  # the watcher, before the journal goes
    ("fsync", 1, "error=EIO"),
    ("rename", 1, "error=ENOSPC"),
    ("setxattr", 1, "error=ENOSPC"),
)
"""Calls of which each launch has some, and what becomes of them."""
_HIT = re.compile(r"\(INJECTED\)|killed by SIGKILL")


def run(every: int) -> Iterator[str]:
    """Hit every `every`-th call of a launch with each fault; yield figures.

    Raises:
        Loss: a label was lost, or something was left.
    """
    with _prepared() as before:
        _launch(before, "nothing")
        found = _calls(before)
        for fault in (KILL, "error=EIO", "error=ENOSPC"):
            hit = [(*call, fault) for call in found[::every] if fault == KILL or call[0] in FAILING]
            yield _figures(before, hit, f"{fault} at {len(hit)} of {len(found)} calls")


def few() -> Iterator[str]:
    """Hit the calls of `FEW`; yield figures.

    Raises:
        Loss: a label was lost, or something was left.
    """
    with _prepared() as before:
        _launch(before, "nothing")
        yield _figures(before, list(FEW), "kills and faults")


def _figures(before: bytes, hits: list[tuple[str, int, str]], what: str) -> str:
    fired, log = 0, "/root/campaign-strace"
    for name, number, fault in hits:
        # only this call stops: the others take their usual time
        traced = ["--seccomp-bpf", "-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={number}"]
        _launch(before, f"{name}:{fault}:when={number}", traced, log)
        with open(log, encoding="utf-8", errors="replace") as lines:
            fired += _HIT.search(lines.read()) is not None
        os.unlink(log)
    return f"launch: {what}, {fired} of {len(hits)} came about: 0 lost"


@contextmanager
def _prepared() -> Iterator[bytes]:
    """Make an image, a spec and a stand-in for QEMU; yield the image's label."""
    os.makedirs(PLACE, exist_ok=True)
    try:
        shutil.copy(os.path.realpath("/bin/true"), STAND_IN)
        subprocess.run(["chcon", "-t", "qemu_exec_t", STAND_IN], check=True)
        with open(f"{PLACE}/disk.img", "wb") as file:
            file.truncate(1 << 20)
        with open(f"{PLACE}/vm.yaml", "w", encoding="ascii") as spec:
            spec.write(
                f"name: campaign\nemulator: {STAND_IN}\nserial: none\naccel: kvm\n"
                f"disks: [{{file: {PLACE}/disk.img, format: raw}}]\nqmp: unix:{PLACE}/qmp.sock\n"
            )
        subprocess.run(["restorecon", "-RF", PLACE], check=True)
        yield os.getxattr(f"{PLACE}/disk.img", LABEL)
    finally:
        shutil.rmtree(PLACE)
        if os.path.exists(STAND_IN):
            os.unlink(STAND_IN)


def _calls(before: bytes) -> list[tuple[str, int]]:
    """Return each call of a launch: its name, and which of this name it is in its process."""
    log = f"{PLACE}/strace"
    _launch(before, "a trace", ["-e", "trace=all"], log)
    counted: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], None] = {}
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _CALL.match(line)
            if match is not None:
                counted[match[1], match[2]] += 1
                found[match[2], counted[match[1], match[2]]] = None
    os.unlink(log)
    return list(found)


def _launch(before: bytes, what: str, options: list[str] | None = None, log: str = os.devnull) -> None:
    traced = ["strace", "-f", "-o", log, *options] if options is not None else []
    done = subprocess.run([*traced, COMMAND, "run", f"{PLACE}/vm.yaml"], capture_output=True, text=True, check=False)
    if options is None and done.returncode != 0:
        raise Loss(f"{what}: {done.returncode} {done.stderr}")
    _await_watchers(what)
    recovered = subprocess.run([COMMAND, "recover"], capture_output=True, text=True, check=False)
    left = [name for name in os.listdir(STATE) if name not in _STAYS and not name.endswith(".new")]
    left += os.listdir(RUNTIME) if os.path.isdir(RUNTIME) else []
    label = os.getxattr(f"{PLACE}/disk.img", LABEL)
    if recovered.returncode != 0 or label != before or left or os.path.lexists(f"{PLACE}/qmp.sock"):
        raise Loss(f"{what}: label {label!r}, left {left}, recover: {recovered.returncode} {recovered.stderr.strip()}")


def _await_watchers(what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while any(_name(pid) == "confined-watch" for pid in os.listdir("/proc") if pid.isdecimal()):
        if time.monotonic() > deadline:
            raise Loss(f"{what}: a watcher does not end")
        time.sleep(0.1)


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
