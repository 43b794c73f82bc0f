"""What VMs are made of, held by Landlock on the building machine: disks, firmware, networks, shares, TPM, hot-plug."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

import pytest

from confined_qemu.launch import dryrun, helpers, inputs
from confined_qemu.launch.collect import Caller
from confined_qemu.model.errors import HostError
from confined_qemu.model.invocation import Invocation
from confined_qemu.model.lean import replace
from confined_qemu.model.steps import StartHelper
from integration.buildhost import hosted
from integration.buildhost.hosted import Started, Vm, run
from integration.guestlib import qemumachine

if TYPE_CHECKING:
    from pathlib import Path

    from confined_qemu.model.ruleset import Ruleset

OVMF = "/usr/share/OVMF"
_TUNSETIFF, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000


def _boots(*command: str, **options: Any) -> None:
    options.setdefault("stderr", subprocess.DEVNULL)
    started = Started(*command, **options).boot()
    started.send(b"q")
    assert started.code() == 0


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def _holder(path: str) -> int:
    """Return the process that has a folder or a file open."""
    wanted = os.stat(path)
    for name in os.listdir("/proc"):
        if name.isdecimal():
            for link in (f"/proc/{name}/cwd", *_links(f"/proc/{name}/fd")):
                try:
                    found = os.stat(link)
                except OSError:
                    continue
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return int(name)
    raise AssertionError(f"nobody has {path} open")


def _links(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:
        return []


def _no_new_privs(pid: int) -> bool:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return "NoNewPrivs:\t1\n" in file.read()


# ---- disks and firmware


def test_a_chain_of_overlays(drop_in: str, command: str, vm: Vm) -> None:
    for name, base, form in (("middle", "a.img", "raw"), ("top", "middle", "qcow2")):
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", base, name]
        subprocess.run(words, cwd=vm.folder, check=True)
    top = os.path.join(vm.folder, "top")
    disk = f"file={top},format=qcow2,if=ide"
    machine = ["-accel", "tcg", "-m", "32M", "-nodefaults", "-display", "none", "-serial", "stdio"]
    _boots(drop_in, *machine, "-drive", disk)
    plan = json.loads(run(command, "plan", "--json", "--", *machine, "-drive", disk).stdout)
    rights = {os.path.basename(rule["path"]): rule["rights"] for rule in plan["landlock"]["rules"]}
    assert rights["top"] == ["read", "write", "truncate"]
    assert rights["middle"] == rights["a.img"] == ["read"], "what others may build on is only read"


def test_a_cdrom_and_a_read_only_disk(command: str, vm: Vm) -> None:
    iso = shutil.copy(vm.image, os.path.join(vm.folder, "a.iso"))
    other = shutil.copy(vm.image, os.path.join(vm.folder, "b.img"))
    disks = [{"file": "a.img", "format": "raw", "bus": "ide"}, {"file": other, "format": "raw", "readonly": True}]
    _boots(command, "run", vm.write(confinement="landlock", cdrom=iso, disks=disks))


def test_uefi_keeps_its_variables(command: str, vm: Vm) -> None:
    variables = shutil.copy(os.path.join(OVMF, "OVMF_VARS_4M.fd"), os.path.join(vm.folder, "vars.fd"))
    before = _content(variables)
    vm.write(
        confinement="landlock", machine="q35", memory="256M", firmware=os.path.join(OVMF, "OVMF_CODE_4M.fd"),
        nvram=variables, disks=None,
    )  # fmt: skip
    started = Started(command, "run", vm.spec, stderr=subprocess.DEVNULL)
    hosted.await_true(lambda: _content(variables) != before, "the firmware wrote no variable")
    (child,) = _children(started.pid)
    os.kill(child, 15)
    assert started.code() == 0


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# ---- networks


def test_a_forwarded_port_is_bound_and_no_other(command: str, vm: Vm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    vm.write(confinement="landlock", network={"type": "user", "hostfwd": [f"tcp:127.0.0.1:{port}-:22"]})
    started = Started(command, "run", vm.spec, stderr=subprocess.DEVNULL).boot()
    socket.create_connection(("127.0.0.1", port)).close()
    started.send(b"q")
    assert started.code() == 0


def test_a_tap_by_its_name(command: str, vm: Vm) -> None:
    name = f"cq{os.getpid() % 100000}"
    vm.write(confinement="landlock", network={"type": "tap", "ifname": name})
    assert "net_admin (a tap by its name)" in run(command, "plan", vm.spec).stdout
    started = Started(command, "run", vm.spec, stderr=subprocess.DEVNULL).boot()
    assert os.path.exists(f"/sys/class/net/{name}")
    started.send(b"q")
    assert started.code() == 0


def test_a_tap_that_is_handed_over_open(drop_in: str, vm: Vm) -> None:
    """A shell opens it, as it does a macvtap's own node (`3<>/dev/tap5`); QEMU needs no right for it."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", f"cq{os.getpid() % 100000}h".encode(), _TAP | _NO_HEADER))
        words = ("-netdev", f"tap,id=n,fd={tap}", "-device", "virtio-net-pci,netdev=n")
        _boots(drop_in, *vm.raw(*words), pass_fds=[tap])
    finally:
        os.close(tap)


# ---- helpers and shares


def test_shares_and_a_tpm_have_helpers_with_rules_of_their_own(command: str, vm: Vm, tmp_path: Path) -> None:
    for name in ("nine", "virt"):
        (tmp_path / name).mkdir()
    (tmp_path / "tpm").mkdir(mode=0o700)
    vm.write(
        confinement="landlock",
        tpm={"state": str(tmp_path / "tpm")},
        shares=[
            {"dir": str(tmp_path / "nine"), "tag": "nine", "driver": "9p"},
            {"dir": str(tmp_path / "virt"), "tag": "virt", "driver": "virtiofs"},
        ],
    )
    plan = run(command, "plan", vm.spec).stdout
    assert plan.count("held by Landlock with rules of its own") == 2
    started = Started(command, "run", vm.spec, stderr=subprocess.DEVNULL).boot()
    for folder in ("tpm", "virt"):
        helper = _holder(str(tmp_path / folder))
        assert _no_new_privs(helper)
    assert os.listdir(tmp_path / "tpm") != [], "swtpm makes its state there"
    started.send(b"q")
    assert started.code() == 0


_TRIES = 'for one; do (: <"$one") && echo "opened $one"; done; echo >made && echo made; echo over'
"""What a helper that a guest has taken over may do: each file, and a file of its own."""


def _taken_over(step: StartHelper, ruleset: Ruleset | None, *files: str) -> str:
    """Start a shell in a helper's place and return all that it said."""
    shell = shutil.which("busybox")
    assert shell is not None
    if ruleset is not None:
        own = tuple(replace(rule, path=shell) if rule.path == step.program else rule for rule in ruleset.rules)
        ruleset = replace(ruleset, rules=own)
    hostile = replace(step, program=shell, arguments=("sh", "-c", _TRIES, "sh", *files), ruleset=ruleset)
    said = os.memfd_create("said")
    with mock.patch.object(helpers, "_log", return_value=os.dup(said)), pytest.raises(HostError, match="over"):
        helpers.start(hostile, None, None)
    with os.fdopen(said, "rb") as file:
        file.seek(0)
        return file.read().decode()


def _opened(said: str) -> list[str]:
    return [line.removeprefix("opened ") for line in said.splitlines() if line.startswith("opened ")]


def test_a_helper_that_is_taken_over_has_its_folder_and_nothing_else(vm: Vm, tmp_path: Path) -> None:
    """The shell runs where swtpm would, under swtpm's rules; without them it reads all that root may."""
    mine, others = (tmp_path / name for name in ("mine", "others"))
    for folder in (mine, others):
        folder.mkdir(mode=0o700)
        (folder / "tpm2-00.permall").write_text("keys")
    vm.write(confinement="landlock", tpm={"state": str(mine)})
    invocation = inputs.wanted(vm.spec, ())
    assert isinstance(invocation, Invocation)
    plan = dryrun.here(invocation, Caller({}, (), ""))
    (step,) = (step for step in plan.steps if isinstance(step, StartHelper))
    kept = str(mine / "tpm2-00.permall")
    outside = [vm.image, str(others / "tpm2-00.permall"), "/etc/shadow", f"/proc/{os.getpid()}/environ"]
    held = _taken_over(step, step.ruleset, kept, *outside)
    assert _opened(held) == [kept]
    assert held.count("Permission denied") == len(outside), held
    assert "made" in held.splitlines()
    assert _opened(_taken_over(step, None, kept, *outside)) == [kept, *outside]


# ---- hot-plug


@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_is_handed_to_a_running_vm(command: str, vm: Vm, readonly: bool) -> None:
    late = shutil.copy(vm.image, os.path.join(vm.folder, "late.img"))
    path = os.path.join(vm.folder, "q.sock")
    name = f"late{os.getpid()}"
    started = Started(command, "run", vm.write(name=name, confinement="landlock", qmp=f"unix:{path}")).boot()
    assert _refused_by_path(path, late)
    words = ["--readonly"] if readonly else []
    done = run(command, "allow", name, late, *words)
    assert done.returncode == 0, done
    node = next(word.rstrip(",") for word in done.stdout.split() if word.startswith("confined-"))
    with Qmp(path) as qmp:
        block = {"driver": "raw", "node-name": "late", "file": node, "read-only": readonly}
        assert "return" in qmp.ask("blockdev-add", **block)
        assert "return" in qmp.ask("device_add", driver="virtio-blk-pci", drive="late", id="plugged")
    assert "nobody can take a descriptor back" in run(command, "revoke", name, late).stderr
    started.send(b"q")
    assert started.code() == 0


def _refused_by_path(socket_path: str, image: str) -> bool:
    """Tell whether the VM may not open a file by its path: the fence that `allow` goes through."""
    with Qmp(socket_path) as qmp:
        answer = qmp.ask("blockdev-add", driver="file", **{"node-name": "x", "filename": image})
    return "Permission denied" in str(answer.get("error"))


def test_a_vm_without_a_monitor_says_what_to_do(command: str, vm: Vm) -> None:
    name = f"mute{os.getpid()}"
    started = Started(command, "run", vm.write(name=name, confinement="landlock")).boot()
    done = run(command, "allow", name, vm.image)
    assert done.returncode == 125
    assert "no QMP socket" in done.stderr
    assert "extra_files" in done.stderr
    started.send(b"q")
    assert started.code() == 0


class Qmp:
    """A client of QEMU's monitor."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")
        json.loads(self._file.readline())
        self.ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return the answer, not an event."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            said: dict[str, Any] = json.loads(self._file.readline())
            if "event" not in said:
                return said


# ---- clients

_HARNESS = """
import sys
from qemu.machine import QEMUMachine

emulator, image, folder = sys.argv[1:]
disk = ["-accel", "tcg", "-m", "32M", "-nodefaults", "-drive", f"file={image},format=raw,if=ide"]
vm = QEMUMachine(emulator, args=disk, base_temp_dir=folder)
vm.set_console()
vm.launch()
with vm:
    print(vm.qmp("query-status")["return"]["status"])
    seen = b""
    while b"guest: ready" not in seen:
        seen += vm.console_socket.recv(4096)
    print("guest: ready")
print(vm.exitcode(), vm.get_log() or "")
"""


def test_qemus_own_harness_sees_the_same(drop_in: str, qemu: str, vm: Vm) -> None:
    environment = hosted.environment(PYTHONPATH=qemumachine.tree())
    for emulator in (qemu, drop_in):
        with tempfile.TemporaryDirectory(prefix="m") as folder:  # a socket's name is short
            done = run("/usr/bin/python3", "-c", _HARNESS, emulator, vm.image, folder, env=environment)
            assert (done.stdout, done.returncode) == ("running\nguest: ready\n0 \n", 0), done
            assert os.listdir(folder) == []
