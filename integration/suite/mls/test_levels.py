"""MLS: a VM at a level reads what it dominates and writes at its own, and the launcher stays in its caller's range."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEVEL = "s2:c1.c5"
PROCESS = f"system_u:system_r:svirt_t:{LEVEL}"
AT_LEVEL = ("runcon", "-l", f"{LEVEL}-s15:c0.c1023")
LOWER = "confined_qemu_lower_labels"
STATIC = {"type": "static", "relabel": False, "label": PROCESS}
TALK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "talk.py")
QUIET: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _chcon(path: str, level: str, type_name: str | None = None) -> None:
    if type_name is not None:
        harness.run("chcon", "-t", type_name, path)
    harness.run("chcon", "-l", level, path)


def _talk(range_text: str, path: str, *commands: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask a monitor, as a client that works at `range_text`."""
    texts = [json.dumps(command) for command in commands]
    done = harness.run("runcon", "-l", range_text, sys.executable, "-B", TALK, path, *texts, cwd=os.getcwd())
    return [json.loads(line) for line in done.stdout.splitlines()]


def _io(command: str) -> tuple[str, dict[str, Any]]:
    return "human-monitor-command", {"command-line": f'qemu-io vm-disk0 "{command}"'}


def _added(path: str, *, read_only: bool) -> tuple[str, dict[str, Any]]:
    name = re.sub(r"\W", "", os.path.basename(path)) + ("ro" if read_only else "rw")
    return "blockdev-add", {"driver": "file", "node-name": name, "filename": path, "read-only": read_only}


def _piped(range_text: str, image: harness.Image) -> list[str]:
    """Return the command of a person who works at `range_text`; input may come from below."""
    return ["runcon", "-l", range_text, "sh", "-c", f"{harness.COMMAND} run {image.spec} 2>&1 | cat"]


def test_a_vm_reads_and_writes_at_its_level(
    make_image: Callable[[str], harness.Image], folder: str, audit: harness.AuditTrail
) -> None:
    image, below, above = (make_image(name) for name in ("a", "below", "above"))
    monitor = os.path.join(folder, "monitor.sock")
    image.write_spec(seclabel=STATIC, qmp=f"unix:{monitor}")
    _chcon(below.path, "s1", "virt_content_t")
    _chcon(above.path, "s4:c1.c5", "svirt_image_t")
    _chcon(image.path, LEVEL, "svirt_image_t")
    _chcon(folder, LEVEL)
    vm = harness.boot(*_piped(AT_LEVEL[2], image))
    qemu = harness.processes_as(PROCESS)
    assert len(qemu) == 1
    assert f"{PROCESS} " in harness.run("ps", "-eZ").stdout
    _, _, lower, lower_rw, higher = _talk(
        AT_LEVEL[2], monitor, _io("write -P 0x5a 0 4k"), _io("read -P 0x5a 0 4k"),
        _added(below.path, read_only=True), _added(below.path, read_only=False), _added(above.path, read_only=True),
    )  # fmt: skip
    with open(image.path, "rb") as file:
        assert file.read(4096) == b"\x5a" * 4096
    assert lower == {"return": {}}
    assert "Permission denied" in lower_rw["error"]["desc"]
    assert "Permission denied" in higher["error"]["desc"]
    assert audit.has("write", "svirt_t", "virt_content_t:s1", "file")
    assert audit.has("read", "svirt_t", "svirt_image_t:s4:c1.c5", "file")
    # relabelled under it: the kernel asks anew, also about what is open
    _chcon(image.path, "s4:c1.c5")
    _talk(AT_LEVEL[2], monitor, _io("read 4k 4k"))
    _chcon(image.path, LEVEL)
    vm.send(b"q")
    assert vm.popen.stdout is not None
    said = vm.popen.stdout.read()
    assert vm.wait() == 0
    for answer in (b"wrote 4096/4096 bytes at offset 0", b"read 4096/4096 bytes at offset 0", b"Permission denied"):
        assert answer in said
    assert b"bytes at offset 4096" not in said
    assert harness.short_label(image.path) == f"svirt_image_t:{LEVEL}"


def _at(range_text: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command whose pipes are made by one who works at `range_text`."""
    return harness.run(
        "runcon", "-l", range_text, "sh", "-c", f"{{ {command}; echo = $?; }} 2>&1 | cat", stdin=subprocess.DEVNULL
    )


def test_what_lies_above_is_refused_before_the_start(image: harness.Image, audit: harness.AuditTrail) -> None:
    image.write_spec(seclabel=STATIC)
    _chcon(image.path, "s4:c1.c5", "svirt_image_t")
    said = _at(AT_LEVEL[2], f"{harness.COMMAND} run {image.spec}").stdout
    line, end = harness.messages(said)
    assert end == "= 125"
    assert f"{PROCESS} may not read and write what is labelled system_u:object_r:svirt_image_t:s4:c1.c5" in line
    assert "give the VM the label system_u:system_r:svirt_t:s4:c1.c5" in line
    mend = f"chcon -t svirt_image_t {image.path} && chcon -l {LEVEL} {image.path}"
    assert line.endswith(f"run: {mend}")
    # nothing was tried, so nothing was denied
    assert not any(":svirt_t:" in denial.source for denial in audit.denials())
    harness.run("sh", "-c", mend)
    found = _at(AT_LEVEL[2], f"{harness.COMMAND} check {image.spec} && {harness.COMMAND} policy status").stdout
    assert f"can be started, kvm, {PROCESS}" in found
    assert found.endswith("= 0\n")


def test_what_it_says_is_not_for_a_lower_level(image: harness.Image) -> None:
    image.write_spec(seclabel=STATIC)
    _chcon(image.path, LEVEL, "svirt_image_t")
    done = harness.confined("run", image.spec)
    assert done.returncode == 125
    for number, line in enumerate(harness.messages(done.stderr), start=1):
        assert f"descriptor {number} (" in line
        assert f"newrole -l {LEVEL}-s15:c0.c1023\n  or give it /dev/null" in line


def test_the_callers_clearance_is_the_limit(image: harness.Image) -> None:
    image.write_spec(seclabel=STATIC)
    said = _at("s0-s1:c0.c1023", f"{harness.COMMAND} run {image.spec}").stdout
    assert f"the VM's level, {LEVEL}, is beyond your clearance, s1:c0.c1023" in said
    assert said.endswith("= 125\n")


@pytest.fixture
def may_lower() -> Iterator[None]:
    """Let the launcher put a label back at a lower level than a VM wrote at."""
    harness.run("setsebool", LOWER, "on")
    yield
    harness.run("setsebool", LOWER, "off")


def test_nothing_is_lowered_for_whoever_asks(image: harness.Image) -> None:
    image.write_spec(seclabel=STATIC | {"relabel": True}, serial="none")
    before = harness.short_label(image.path)
    done = subprocess.run([harness.COMMAND, "run", image.spec], check=False, capture_output=True, text=True)
    assert done.returncode == 125
    (line,) = (line for line in harness.messages(done.stderr) if "(disks[0].file)" in line)
    assert f"written at {LEVEL} and then labelled" in line
    assert line.endswith(f"or, if they may: setsebool -P {LOWER} on")
    assert harness.short_label(image.path) == before
    assert not harness.processes_as(PROCESS)


@pytest.mark.usefixtures("may_lower")
def test_relabel_yes_raises_the_image_and_puts_it_back(image: harness.Image, folder: str) -> None:
    pidfile = os.path.join(folder, "pid")
    image.write_spec("-daemonize", "-pidfile", pidfile, seclabel=STATIC | {"relabel": True}, serial="none")
    assert subprocess.run([harness.COMMAND, "run", image.spec], check=False, **QUIET).returncode == 0
    assert harness.short_label(image.path) == f"svirt_image_t:{LEVEL}"
    with open(pidfile, encoding="ascii") as file:
        pid = int(file.read())
    assert harness.context(pid) == PROCESS
    # a watcher that is killed leaves it to `recover`
    (watcher,) = harness.watchers()
    harness.kill(watcher)
    harness.kill(pid)
    harness.until("QEMU is gone", lambda: not harness.processes_as(PROCESS))
    assert harness.short_label(image.path) == f"svirt_image_t:{LEVEL}"
    harness.confined("recover")
    assert harness.short_label(image.path) == harness.UNUSED
    assert not os.path.exists(pidfile)
    plan = harness.confined("plan", image.spec).stdout
    assert f"{image.path} (disks[0].file): written at {LEVEL} and then labelled" in plan
    assert f"to keep its level: chcon -l {LEVEL} {image.path}" in plan


def test_a_dynamic_vm_takes_its_callers_sensitivity(image: harness.Image, folder: str) -> None:
    monitor = os.path.join(folder, "monitor.sock")
    image.write_spec(qmp=f"unix:{monitor}")
    low = "s2-s15:c0.c1023"
    # an image below the caller would be written down to
    said = _at(low, f"{harness.COMMAND} run {image.spec}").stdout
    assert f"it is at s0, below your level s2\nconfined-qemu:   run: chcon -l s2 {image.path}" in said
    for path in (folder, image.path):
        _chcon(path, "s2")
    vm = harness.boot(*_piped(low, image))
    label = harness.short_label(image.path)
    pair = re.fullmatch(r"svirt_image_t:(s2:c\d+,c\d+)", label)
    assert pair is not None, label
    assert harness.processes_as(f"system_u:system_r:svirt_t:{pair[1]}")
    (status,) = _talk(low, monitor, ("query-status", {}))
    assert status["return"]["running"]
    vm.send(b"q")
    assert vm.wait() == 0
    assert harness.short_label(image.path) == "virt_image_t:s2"
