"""Landlock on the building machine, whose kernel enforces it: what a VM may still do, and what it may not.

Each denial is beside the same thing allowed: what the hostile program is denied in a VM's place it may do without.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from integration.buildhost import hosted
from integration.buildhost.hosted import CHECKOUT, Started, Vm, run
from integration.guestlib import walls
from integration.guestlib.strikes import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HOSTILE = os.path.join(CHECKOUT, "integration", "suite", "programs", "hostile.py")
_ROOM = 1 << 16
"""Bytes of the hostile program's image."""
DENIED = {"EACCES", "EPERM"}


@pytest.fixture
def other(tmp_path: Path) -> Vm:
    """A second VM, in a folder of its own."""
    folder = tmp_path / "other"
    folder.mkdir()
    return Vm(str(folder))


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def attempt(
    command: str, vm: Vm, targets: Sequence[tuple[str, Any]], *words: str, confinement: str = "landlock"
) -> dict[tuple[str, Any], str]:
    """Run the hostile program in the place of QEMU, with the VM's own image, and return its answers."""
    image = os.path.join(vm.folder, "hostile.img")
    with open(image, "wb") as file:
        file.write(json.dumps(targets).encode().ljust(_ROOM, b"\0"))
    program = shutil.copy(HOSTILE, vm.folder)
    os.chmod(program, 0o755)
    drive = ["-drive", f"file={image},format=raw"]
    done = run(
        command, "exec", "--confinement", confinement, "--emulator", program, "--", "-nodefaults", "-display", "none",
        *drive, *words,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert "hostile:" in done.stdout, done
    with open(image, "rb") as file:
        answers = json.loads(file.read().rstrip(b"\0"))
    return {(kind, target): answer for kind, target, answer in answers}


# ---- it boots, and is QEMU


@pytest.mark.parametrize("confinement", ["auto", "landlock", None])
def test_a_spec_boots_held(command: str, vm: Vm, confinement: str | None) -> None:
    ours = Started(command, "run", vm.write(confinement=confinement)).boot()
    with open(f"/proc/{ours.pid}/task/{ours.pid}/children", encoding="ascii") as file:
        (child,) = file.read().split()
    found = _status(int(child))
    assert found["NoNewPrivs"] == "1"
    assert {found[name] for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
    ours.send(b"q")
    assert ours.code() == 0
    assert sorted(os.listdir(vm.folder)) == ["a.img", "a.yaml"]


def test_the_drop_in_is_qemu_and_says_nothing(drop_in: str, qemu: str, vm: Vm) -> None:
    errors, inner = os.pipe()
    started = Started(drop_in, *vm.raw(), stderr=inner).boot()
    os.close(inner)
    assert os.path.samefile(f"/proc/{started.pid}/exe", qemu)
    with open(f"/proc/{started.pid}/cmdline", "rb") as file:
        assert file.read().split(b"\0")[1:-1] == [word.encode() for word in vm.raw()]
    assert _status(started.pid)["NoNewPrivs"] == "1"
    started.send(b"q")
    assert started.code() == 0
    with open(errors, "rb") as file:
        assert file.read() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_signals_end_it_as_they_end_bare_qemu(drop_in: str, qemu: str, vm: Vm, number: int) -> None:
    ends = []
    for program in (qemu, drop_in):
        started = Started(program, *vm.raw(), stderr=subprocess.DEVNULL).boot()
        os.kill(started.pid, number)
        ends.append(started.code())
    assert ends[0] == ends[1]


def test_exit_codes_pass_through(drop_in: str, command: str, vm: Vm) -> None:
    for words in (
        [drop_in, *vm.raw(*hosted.DEBUG_EXIT)],
        [command, "run", vm.write(confinement=None), "--", *hosted.DEBUG_EXIT],
    ):
        started = Started(*words).boot()
        started.send(b"x")
        assert started.code() == 33


def test_the_plan_names_each_rule(command: str, vm: Vm) -> None:
    vm.write(confinement=None, network={"type": "user", "hostfwd": ["tcp:127.0.0.1:2222-:22"]})
    printed = json.loads(run(command, "plan", "--json", vm.spec).stdout)
    assert printed["confinement"] == "landlock"
    rules = {rule["path"]: rule["rights"] for rule in printed["landlock"]["rules"]}
    assert rules[vm.image] == ["read", "write", "truncate"]
    assert not any(path in rules for path in ("/", "/home", "/root", "/var", vm.folder))
    assert (printed["landlock"]["tcp_bind"], printed["landlock"]["tcp_connect"]) == ([2222], None)
    text = run(command, "plan", vm.spec).stdout
    assert f"{vm.image}: read write truncate (disks[0].file)" in text


# ---- what it may not do


def test_two_vms_do_not_reach_each_other(command: str, drop_in: str, vm: Vm, other: Vm) -> None:
    path = os.path.join(other.folder, "qmp.sock")
    running = Started(drop_in, *other.raw("-qmp", f"unix:{path},server=on,wait=off"), stderr=subprocess.DEVNULL).boot()
    pid = running.pid
    pipes = {("read", f"/proc/{pid}/fd/0")}  # who may read it waits for what is typed
    targets = [
        ("read", other.image), ("write", other.image), ("unlink", other.image), ("list", other.folder),
        ("read", f"/proc/{pid}/mem"), ("read", f"/proc/{pid}/environ"), ("read", f"/proc/{pid}/fd/0"),
        ("ptrace", pid), ("create", os.path.join(other.folder, "new")), ("create", os.path.join(vm.folder, "new")),
        ("terminate", pid),
    ]  # fmt: skip
    held = attempt(command, vm, targets)
    assert {what: answer for what, answer in held.items() if answer not in DENIED} == {}
    assert os.path.exists(f"/proc/{pid}"), "it was killed"
    assert not os.path.exists(os.path.join(vm.folder, "new"))
    harmless = [target for target in targets if target not in {("unlink", other.image), ("ptrace", pid), *pipes}]
    bare = attempt(command, vm, harmless, confinement="none")
    assert set(bare.values()) <= {"ok", "EIO"}, "nothing lies at a process's first address"
    assert running.code() == 0, "bare, it could be ended by a signal"


def test_its_own_image_is_all_that_it_has(command: str, vm: Vm) -> None:
    own = os.path.join(vm.folder, "hostile.img")
    home = os.path.expanduser("~")
    targets = [
        ("read", own), ("write", own), ("read", vm.image), ("list", vm.folder), ("list", home), ("list", "/var"),
        ("read", "/etc/shadow"), ("execute", "/bin/sh"), ("execute", "/usr/bin/env"),
    ]  # fmt: skip
    held = attempt(command, vm, targets)
    allowed = {what for what, answer in held.items() if answer == "ok"}
    assert allowed == {("read", own), ("write", own)}


@pytest.mark.parametrize("words", [(), ("-netdev", "user,id=n,hostfwd=tcp:127.0.0.1:0-:22")])
def test_a_vm_without_a_network_connects_nowhere(command: str, vm: Vm, words: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = ("tcp", server.getsockname()[1])
        held = attempt(command, vm, [target], *words)
        assert held[target] == ("ok" if words else "EACCES")


def test_abstract_sockets_of_others_are_out_of_reach(command: str, vm: Vm) -> None:
    name = f"\0confined-qemu-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        assert attempt(command, vm, [("connect", name)])[("connect", name)] == "EPERM"
        assert attempt(command, vm, [("connect", name)], confinement="none")[("connect", name)] == "ok"


# ---- all that the table of the help topic says


def _targets(vm: Vm, other: Vm, running: Started, name: str, port: int) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        unused = free.getsockname()[1]
    return {
        "own": os.path.join(vm.folder, "hostile.img"), "image": other.image, "folder": other.folder,
        "new": os.path.join(other.folder, "new"), "beside": os.path.join(vm.folder, "new"), "vm": running.pid,
        "child": running.pid, "environ": f"/proc/{running.pid}/environ", "shadow": "/etc/shadow",
        "home": os.path.expanduser("~"), "shell": "/bin/sh", "port": port, "free": unused, "abstract": name,
        "socket": os.path.join(other.folder, "qmp.sock"), "nobody": 65534,
    }  # fmt: skip


@pytest.mark.parametrize("confinement", ["none", "landlock"])
def test_the_table_of_attempts(command: str, qemu: str, vm: Vm, other: Vm, confinement: str) -> None:
    """Another VM runs, bare: what it is kept from the hostile one is kept by the hostile one's own wall."""
    path = os.path.join(other.folder, "qmp.sock")
    running = Started(qemu, *other.raw("-qmp", f"unix:{path},server=on,wait=off"), stderr=subprocess.DEVNULL).boot()
    name = f"\0confined-qemu-walls-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        where = _targets(vm, other, running, name, server.getsockname()[1])
        targets = [(one.kind, where[one.target]) for one in walls.ATTEMPTS]
        answers = attempt(command, vm, targets, confinement=confinement)
    seen = {one.what: answers[one.kind, where[one.target]] for one in walls.ATTEMPTS}
    wanted = {one.what: one.landlock if confinement == "landlock" else Answer.DONE for one in walls.ATTEMPTS}
    got = {what: Answer.DONE if answer == "ok" else Answer.DENIED for what, answer in seen.items()}
    assert got == wanted, seen
    assert {answer for answer in seen.values() if answer != "ok"} <= DENIED, seen
    if confinement == "landlock":
        os.kill(running.pid, signal.SIGTERM)
    assert running.code() == 0


# ---- what is made for it


def test_sockets_pidfile_and_log_are_made_and_removed(drop_in: str, vm: Vm) -> None:
    names = ("qmp.sock", "mon.sock", "pid")
    words = [
        *("-qmp", "unix:qmp.sock,server=on,wait=off", "-monitor", "unix:mon.sock,server=on,wait=off"),
        *("-pidfile", "pid", "-D", "log"),
    ]  # fmt: skip
    started = Started(drop_in, *vm.raw(*words), cwd=vm.folder, stderr=subprocess.DEVNULL).boot()
    assert set(names) <= set(os.listdir(vm.folder))
    with open(os.path.join(vm.folder, "pid"), encoding="ascii") as file:
        assert int(file.read()) == started.pid
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.path.join(vm.folder, "qmp.sock"))
        assert b"QMP" in client.recv(4096)
    started.send(b"q")
    assert started.code() == 0
    hosted.await_true(lambda: not set(names) & set(os.listdir(vm.folder)), "they are still there")
    assert "log" in os.listdir(vm.folder)


def test_what_was_made_is_removed_after_a_kill_and_run_waits_for_it(command: str, vm: Vm) -> None:
    vm.write(confinement=None, qmp="unix:q.sock")
    for end in (signal.SIGKILL, signal.SIGTERM):
        ours = Started(command, "run", vm.spec, stderr=subprocess.DEVNULL).boot()
        assert "q.sock" in os.listdir(vm.folder)
        with open(f"/proc/{ours.pid}/task/{ours.pid}/children", encoding="ascii") as file:
            child = next(int(pid) for pid in file.read().split())
        os.kill(child, end)
        ours.code()
        assert sorted(os.listdir(vm.folder)) == ["a.img", "a.yaml"]


def test_a_snapshot_has_a_folder_of_its_own(drop_in: str, vm: Vm, tmp_path: Path) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    started = Started(drop_in, *vm.raw("-snapshot"), env=hosted.environment(TMPDIR=str(temporary))).boot()
    assert len(os.listdir(temporary)) == 1
    started.send(b"q")
    assert started.code() == 0
    hosted.await_true(lambda: os.listdir(temporary) == [], "it is still there")


def test_a_daemon_keeps_its_socket_until_it_ends(drop_in: str, command: str, vm: Vm) -> None:
    quiet = [*vm.raw()[:-2], "-qmp", f"unix:{vm.folder}/q.sock,server=on,wait=off", "-pidfile", f"{vm.folder}/pid"]
    done = run(drop_in, *quiet, "-daemonize", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert done.returncode == 0
    with open(f"{vm.folder}/pid", encoding="ascii") as file:
        pid = int(file.read())
    handle = os.pidfd_open(pid)
    assert _status(pid)["NoNewPrivs"] == "1"
    rows = json.loads(run(command, "ps", "--json").stdout)["vms"]
    assert [row["wall"] for row in rows if row["pid"] == pid] == ["landlock"]
    os.kill(pid, signal.SIGTERM)
    assert hosted.wait_gone(handle)
    hosted.await_true(lambda: sorted(os.listdir(vm.folder)) == ["a.img", "a.yaml"], "they are still there")
    rows = json.loads(run(command, "ps", "--json").stdout)["vms"]
    assert [row for row in rows if row["pid"] == pid] == []


def test_a_specs_daemon_lives_with_its_own_filter(command: str, vm: Vm) -> None:
    vm.write(confinement=None, serial="null")
    pidfile = f"{vm.folder}/pid"
    arguments = [command, "run", vm.spec, "--", "-daemonize", "-pidfile", pidfile]
    done = run(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert done.returncode == 0
    with open(pidfile, encoding="ascii") as file:
        pid = int(file.read())
    handle = os.pidfd_open(pid)
    assert _status(pid)["Seccomp"] == "2"
    os.kill(pid, signal.SIGTERM)
    assert hosted.wait_gone(handle)


def test_nothing_is_left_of_a_launch_that_fails(command: str, vm: Vm) -> None:
    vm.write(confinement=None, qmp="unix:q.sock", emulator=vm.image)
    os.chmod(vm.image, 0o700)  # the kernel does not take it
    done = run(command, "run", vm.spec)
    assert (done.returncode, done.stdout) == (126, "")
    assert "Traceback" not in done.stderr
    hosted.await_true(lambda: sorted(os.listdir(vm.folder)) == ["a.img", "a.yaml"], "something is still there")


# ---- who starts it


@pytest.fixture
def open_folder() -> Iterator[Vm]:
    """A VM in a folder that `nobody` owns, and the launcher beside it: pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory(prefix="confined-") as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(os.path.join(CHECKOUT, "confined_qemu"), os.path.join(folder, "lib", "confined_qemu"))
        vm = Vm(folder)
        script = os.path.join(folder, "qemu-system-x86_64")
        with open(script, "w", encoding="utf-8") as file:
            file.write(_LAUNCHER.format(library=os.path.join(folder, "lib")))
        for path in (folder, vm.image, vm.spec):
            os.chown(path, 65534, 65534)
        os.chmod(script, 0o755)
        yield vm


_LAUNCHER = """#!/usr/bin/python3 -B
import sys
sys.path.insert(0, {library!r})
from confined_qemu.cli.launchscript import main
main()
"""
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
CONTAINED = (*AS_NOBODY, "unshare", "--user", "--map-current-user")
IN_A_SERVICE = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")


def test_a_service_without_new_privileges_starts_it(drop_in: str, vm: Vm) -> None:
    started = Started(*IN_A_SERVICE, drop_in, *vm.raw(), stderr=subprocess.DEVNULL).boot()
    started.send(b"q")
    assert started.code() == 0


@pytest.mark.parametrize("how", [AS_NOBODY, CONTAINED], ids=["a user", "a container"])
def test_it_takes_no_privilege(open_folder: Vm, how: tuple[str, ...]) -> None:
    words = open_folder.raw("-qmp", f"unix:{open_folder.folder}/q.sock,server=on,wait=off")
    home = hosted.environment(HOME=open_folder.folder)
    program = os.path.join(open_folder.folder, "qemu-system-x86_64")
    started = Started(*how, program, *words, env=home, stderr=subprocess.DEVNULL).boot()
    assert _status(started.pid)["NoNewPrivs"] == "1"
    started.send(b"q")
    assert started.code() == 0


def test_a_path_that_the_plan_does_not_know_is_named_when_qemu_fails(command: str, vm: Vm) -> None:
    other = shutil.copy(vm.image, os.path.join(vm.folder, "other.img"))
    vm.write(confinement="landlock")
    done = run(command, "run", "--unknown-options=warn", vm.spec, "--", "-bogus", other)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert any(line.startswith("confined-qemu: ") and other in line for line in lines), lines
    assert any("extra_files" in line for line in lines)


def test_root_gives_qemu_a_user_of_its_own(command: str, open_folder: Vm) -> None:
    folder = open_folder.folder
    spec = open_folder.write(confinement="landlock", user="nobody", qmp="unix:q.sock", serial="stdio")
    started = Started(command, "run", spec, "--", "-pidfile", f"{folder}/pid", stderr=subprocess.DEVNULL).boot()
    with open(f"{folder}/pid", encoding="ascii") as file:
        found = _status(int(file.read()))
    assert found["Uid"].split() == ["65534"] * 4
    assert found["CapPrm"] == found["CapBnd"] == "0" * 16
    assert {os.stat(f"{folder}/{name}").st_uid for name in ("pid", "q.sock")} == {65534}
    started.send(b"q")
    assert started.code() == 0
    assert not {"pid", "q.sock"} & set(os.listdir(folder))
    assert "would be root" not in run(command, "check", spec).stdout
