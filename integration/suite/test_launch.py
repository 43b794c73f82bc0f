"""Launch and watch: whatever ends the VM, its exit status is handed on and its labels come back."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

import pytest

from integration.suite import harness, tinyguest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def test_sigterm_to_run_reaches_qemu_and_its_exit_code_comes_back(image: harness.Image) -> None:
    vm = harness.boot_spec(image)
    vm.popen.terminate()
    assert vm.wait() == 0
    assert harness.short_label(image.path) == harness.UNUSED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_run_ends_by_the_signal_that_ended_qemu(image: harness.Image, number: signal.Signals) -> None:
    vm = harness.boot_spec(image)
    harness.kill(harness.qemu_of(image.path), number)
    assert vm.wait() == -number
    assert harness.short_label(image.path) == harness.UNUSED


def test_sigkill_of_run_ends_the_vm_and_labels_come_back(image: harness.Image) -> None:
    vm = harness.boot_spec(image)
    qemu = harness.qemu_of(image.path)
    vm.popen.kill()
    assert vm.wait() == -signal.SIGKILL
    harness.settle()
    assert harness.context(qemu) == ""
    assert harness.short_label(image.path) == harness.UNUSED


def test_sigkill_of_the_watcher_under_run(image: harness.Image) -> None:
    vm = harness.boot_spec(image)
    (watcher,) = harness.watchers()
    harness.kill(watcher)
    assert harness.power_off(vm) == 0
    assert harness.short_label(image.path) == harness.UNUSED


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_daemonize_and_pidfile(image: harness.Image, folder: str, end: signal.Signals) -> None:
    pidfile = os.path.join(folder, "vm.pid")
    image.write_spec("-daemonize", "-pidfile", pidfile, serial="null")
    done = harness.confined("run", image.spec)
    assert done.returncode == 0, done.stderr
    with open(pidfile, encoding="ascii") as file:
        pid = int(file.read())
    pair = harness.level(harness.label(image.path))
    assert harness.context(pid) == f"system_u:system_r:svirt_t:{pair}"
    assert os.readlink(f"/proc/{pid}/exe") == harness.QEMU
    harness.kill(pid, end)
    harness.settle()
    assert harness.short_label(image.path) == harness.UNUSED
    assert not os.path.exists(pidfile)


def test_the_keys_of_a_terminal(image: harness.Image) -> None:
    """^Z stops QEMU and `run`, both go on together, ^C ends QEMU as it ends bare QEMU."""
    stopped, says_stopped = os.pipe()
    goes_on, go_on = os.pipe()
    pid, master = pty.fork()
    if pid == 0:
        _shell([harness.COMMAND, "run", image.spec], says_stopped, goes_on)
    seen = b""
    while tinyguest.MARKER not in seen:
        seen += os.read(master, 4096)
    qemu = harness.qemu_of(image.path)
    os.write(master, b"\x1a")
    assert os.read(stopped, 1) == b"s"
    harness.until("QEMU is stopped", lambda: _state(qemu) == "T")
    os.write(go_on, b"g")
    harness.until("QEMU goes on", lambda: _state(qemu) != "T")
    os.write(master, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for descriptor in (master, stopped, says_stopped, goes_on, go_on):
        os.close(descriptor)
    assert harness.short_label(image.path) == harness.UNUSED


def _shell(command: list[str], says_stopped: int, goes_on: int) -> NoReturn:
    """Do what a shell with job control does for one foreground job; ^Z has no effect without one."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(command[0], command)
    while os.WIFSTOPPED(status := os.waitpid(job, os.WUNTRACED)[1]):
        os.write(says_stopped, b"s")
        os.read(goes_on, 1)
        os.killpg(job, signal.SIGCONT)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(") ")[2][0]


# ---- sockets


@pytest.mark.parametrize("who", ["login shell", "service"])
def test_a_client_of_the_monitor(image: harness.Image, folder: str, who: str) -> None:
    """A login shell's client is at c0.c1023: the socket that QEMU would accept from it is not QEMU's to use."""
    path = os.path.join(folder, "qmp.sock")
    image.write_spec(qmp=f"unix:{path}")
    vm = harness.boot_spec(image)
    if who == "service":
        program = f"PYTHONPATH={os.getcwd()} exec python3 -m integration.suite.ask {path}"
        said = harness.run("systemd-run", "--quiet", "--wait", "--collect", "--unit=ask", "/bin/sh", "-c",
                           f"cd {os.getcwd()}; {program} > /var/log/ask.log 2>&1", check=False)  # fmt: skip
        with open("/var/log/ask.log", encoding="utf-8") as file:
            assert "running" in file.read(), said
    else:
        for _ in range(2):  # a client may hang up and another come
            client = harness.Qmp(path)
            assert "QMP" in client.greeting()
            client.ask("qmp_capabilities")
            assert client.ask("query-status")["return"]["status"] == "running"
            client.close()
    client = harness.Qmp(path)
    client.greeting()
    client.ask("qmp_capabilities")
    client.ask("quit")
    assert vm.wait() == 0
    assert not os.path.exists(path)
    client.close()


# ---- kill -9 at each step

NOBODY = 65534

_POINTS = {
    "the journal is written": ("labels.journal", "write", 1),
    "the watcher is started": ("launch.spawn", "watcher", 1),
    "the first label is set": ("host.lsm", "set_context", 1),
    "the second label is set": ("host.lsm", "set_context", 2),
    "labels are done": ("launch.execute", "become", 1),
    "the context is chosen": ("host.lsm", "set_exec_context", 1),
    "QEMU is executed": ("os", "execve", 2),
}


@pytest.fixture
def dying() -> Iterator[Callable[[str], str]]:
    """Return a function that makes a launcher which dies by SIGKILL just before a point."""
    made = ExitStack()

    def make(point: str) -> str:
        module, name, call = _POINTS[point]
        killer = (
            f"import os, signal\nimport {module if module == 'os' else 'confined_qemu.' + module} as target\n"
            f"original, calls = target.{name}, [0]\n"
            "def dying(*arguments, **named):\n"
            "    calls[0] += 1\n"
            f"    if calls[0] == {call}:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return original(*arguments, **named)\n"
            f"target.{name} = dying\n"
        )
        return made.enter_context(harness.trial(killer))

    with made:
        yield make


@pytest.mark.parametrize("point", [point for point in _POINTS if point != "QEMU is executed"])
def test_a_launcher_killed_before(
    make_image: Callable[[str], harness.Image], folder: str, dying: Callable[[str], str], point: str
) -> None:
    images = [make_image("a"), make_image("b")]
    log = os.path.join(folder, "serial.log")
    second = ["-drive", f"file={images[1].path},format=raw,if=ide", "-serial", f"file:{log}"]
    process = harness.Process(
        [dying(point), "exec", "--", *harness.raw_arguments(images[0].path)[:-2], *second], stdin=subprocess.DEVNULL
    )
    assert process.wait() == -signal.SIGKILL
    harness.settle()
    assert [harness.short_label(image.path) for image in images] == [harness.UNUSED] * 2
    assert harness.journals() == []
    if os.path.exists(log):
        assert harness.short_label(log) == harness.UNUSED


def test_a_crash_of_everything_is_mended_by_recover(image: harness.Image, drop_in: str) -> None:
    """What a power loss leaves: a label, a journal of another boot, no process."""
    vm = harness.boot(drop_in, *harness.raw_arguments(image.path))
    harness.kill(harness.watchers()[0])
    vm.popen.kill()
    vm.wait()
    (journal,) = harness.journals()
    with open(journal, encoding="ascii") as file:
        text = file.read()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    with open(journal, "w", encoding="ascii") as file:
        file.write(text.replace(boot, "00000000-0000-0000-0000-000000000000"))
    assert harness.short_label(image.path).startswith("svirt_image_t:s0:c")
    done = harness.confined("recover")
    assert (done.returncode, done.stdout) == (0, "qemu: labels put back\n")
    assert harness.short_label(image.path) == harness.UNUSED


def test_roots_recover_follows_a_users_journal_to_that_users_files_only(image: harness.Image) -> None:
    """A forged journal names root's image: it is read with its owner's rights, who may not relabel that."""
    forged = "system_u:object_r:svirt_image_t:s0:c1,c2"
    harness.run("chcon", forged, image.path)
    found = os.stat(image.path)
    folder = f"/var/lib/confined-qemu/{NOBODY}"
    os.makedirs(folder, mode=0o700)
    step = {
        "step": "relabel", "path": image.path, "identity": {"device": found.st_dev, "inode": found.st_ino,
        "generation": None}, "kind": "file", "links": 1, "before": forged, "after": forged,
        "restore": "system_u:object_r:virt_image_t:s0", "exclusive": True,
    }  # fmt: skip
    record = {
        "format": 1, "name": "forged", "boot_id": "of another boot", "pid": 1, "start_ticks": 1, "accel": "kvm",
        "context": "system_u:system_r:svirt_t:s0:c1,c2", "steps": [step],
    }  # fmt: skip
    path = os.path.join(folder, "1.1.vm.json")
    with open(path, "w", encoding="ascii") as file:
        json.dump(record, file)
    for name in (folder, path):
        os.chown(name, NOBODY, NOBODY)
    harness.run("restorecon", "-RF", folder)
    try:
        done = harness.confined("recover")
        assert done.returncode == 125
        assert "Operation not permitted" in done.stderr
        assert harness.label(image.path) == forged
    finally:
        shutil.rmtree(folder)


def test_two_launches_at_once_on_one_image(image: harness.Image) -> None:
    started = [harness.Process([harness.COMMAND, "run", image.spec]) for _ in range(2)]
    harness.until("one is refused", lambda: any(process.popen.poll() is not None for process in started))
    (loser,) = [process for process in started if process.popen.poll() is not None]
    (winner,) = [process for process in started if process is not loser]
    winner.read_until(tinyguest.MARKER)
    assert loser.wait() == 125
    assert harness.power_off(winner) == 0
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_socket_named_by_an_earlier_vm_is_taken_over(image: harness.Image, folder: str) -> None:
    path = os.path.join(folder, "monitor.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    image.write_spec(monitor=f"unix:{path}")
    vm = harness.boot_spec(image)
    assert harness.power_off(vm) == 0
    assert not os.path.exists(path)


def test_a_launch_says_for_whose_stopped_watcher_it_waits(image: harness.Image) -> None:
    """It puts back the labels of a VM that has ended, on the same files, and whoever may stop it is the user."""
    first = harness.boot_spec(image)
    (watcher,) = harness.watchers()
    harness.kill(watcher, signal.SIGSTOP)
    harness.kill(harness.qemu_of(image.path))
    second = harness.Process((harness.COMMAND, "run", image.spec), stderr=subprocess.STDOUT)
    said = second.read_until(f"kill -CONT {watcher}".encode())
    assert b"waiting for pid %d" % watcher in said
    harness.kill(watcher, signal.SIGCONT)
    second.read_until(tinyguest.MARKER)
    assert first.wait() == -signal.SIGKILL
    assert harness.power_off(second) == 0
    assert harness.short_label(image.path) == harness.UNUSED
