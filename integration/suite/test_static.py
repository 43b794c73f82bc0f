"""Static labels, as the sVirt page has them: chosen by hand, checked before the start, kept from dynamic VMs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LABEL = "system_u:system_r:svirt_t:s0:c1022,c1023"
MINE = "svirt_image_t:s0:c1022,c1023"
PERSON = "unconfined_u:unconfined_r:unconfined_t:s0:c11,c22"
USERDOMAIN = "confined_qemu_transition_userdomain"
DAEMON = ("-daemonize", "-pidfile")


def _static(image: harness.Image, *extra: str, label: str = LABEL, relabel: bool | None = None, **more: object) -> None:
    seclabel: dict[str, object] = {"type": "static", "label": label}
    if relabel is not None:
        seclabel["relabel"] = relabel
    image.write_spec(*extra, seclabel=seclabel, **more)


def _of_vms(audit: harness.AuditTrail) -> list[str]:
    """Return what VMs were denied; the rest of the system is denied this and that all the time."""
    return [denial.text for denial in audit.denials() if ":svirt_t:" in denial.source]


def _label(path: str, *, kind: str = "svirt_image_t", level: str = "s0:c1022,c1023") -> None:
    harness.run("chcon", "-t", kind, path)
    harness.run("chcon", "-l", level, path)


def _pid_in(path: str) -> int:
    with open(path, encoding="ascii") as file:  # -daemonize: it is there once the command has returned
        return int(file.read())


def test_the_pages_sequence(make_image: Callable[[str], harness.Image], audit: harness.AuditTrail) -> None:
    image = make_image("it's 1 image, $HOME")
    _static(image, name="page")
    done = harness.confined("run", image.spec)
    (line,) = harness.messages(done.stderr)
    assert done.returncode == 125
    assert image.path in line
    assert "system_u:object_r:virt_image_t:s0" in line
    assert LABEL in line
    assert f"it needs {MINE}\n" in line
    assert harness.short_label(image.path) == harness.UNUSED
    assert _of_vms(audit) == []  # refused before QEMU was started

    command = line.rpartition("run: ")[2]
    path = shlex.quote(image.path)
    assert command == f"chcon -t svirt_image_t {path} && chcon -l s0:c1022,c1023 {path}"
    subprocess.run(command, shell=True, check=True, executable="/bin/bash")  # noqa: S602 - as a person pastes it
    assert harness.short_label(image.path) == MINE
    vm = harness.boot_spec(image)
    assert harness.processes_as(LABEL) == [harness.qemu_of(image.path)]
    assert harness.power_off(vm) == 0
    assert harness.short_label(image.path) == MINE


def _folders() -> list[str]:
    """Return the VMs' own folders."""
    return os.listdir("/run/confined-qemu") if os.path.isdir("/run/confined-qemu") else []


def test_two_with_one_context_end_apart(make_image: Callable[[str], harness.Image], folder: str) -> None:
    """The one that ended is put back while the other lives on: a daemon, found by what it inherited."""
    first, second = make_image("a"), make_image("b")
    pidfiles = [os.path.join(folder, name) for name in ("a.pid", "b.pid")]
    sockets = [os.path.join(folder, name) for name in ("a.sock", "b.sock")]
    for image, pidfile, path in zip((first, second), pidfiles, sockets, strict=True):
        _static(image, *DAEMON, pidfile, name="twin", relabel=True, serial="null", qmp=f"unix:{path}")
        assert harness.confined("run", image.spec).returncode == 0
        assert harness.short_label(image.path) == MINE
    one, two = (_pid_in(path) for path in pidfiles)
    assert harness.context(one) == harness.context(two) == LABEL
    assert sorted(harness.processes_as(LABEL)) == sorted([one, two])
    assert len(harness.watchers()) == 2
    rows = harness.confined("ps").stdout.splitlines()[1:]
    assert sorted(int(row.split()[1]) for row in rows) == sorted([one, two])
    assert len(_folders()) == (2 if HERE.relays else 0), "their folders are two"

    def left() -> list[str]:
        return [path for path in (first.path, second.path) if harness.short_label(path) == MINE]

    harness.kill(one)
    harness.until("the first is put back", lambda: left() == [second.path])
    harness.until("and its socket and pidfile go", lambda: not any(map(os.path.exists, (sockets[0], pidfiles[0]))))
    assert harness.context(two) == LABEL
    harness.until("its journal goes, last", lambda: len(harness.journals()) == 1)
    client = harness.Qmp(sockets[1])
    assert "QMP" in client.greeting()
    client.close()
    harness.until("the first one's watcher ends", lambda: len(harness.watchers()) == 1)

    # and one without a watcher: recover knows the dead from the living as well
    harness.kill(harness.watchers()[0])
    harness.until("the watcher is gone", lambda: not harness.watchers())
    assert harness.confined("recover").stdout == ""
    assert left() == [second.path]
    refused = harness.confined("run", second.spec)
    assert f"in use by the VM twin (pid {two})" in refused.stderr
    harness.kill(two)
    harness.until("the second ended", lambda: not harness.processes_as(LABEL))
    assert harness.confined("recover").stdout == "twin: labels put back\n"
    assert left() == []
    assert _folders() == []


def test_one_context_and_one_image(make_image: Callable[[str], harness.Image]) -> None:
    """Nobody relabels it, so whether both may have it is QEMU's own locks' business."""
    first, second, third = (make_image(name) for name in "abc")
    os.unlink(second.path)
    _label(first.path)
    shared = [{"file": first.path, "format": "raw", "bus": "ide", "shareable": True}]
    for image in (first, second):
        _static(image, disks=shared)
    vms = [harness.boot_spec(image) for image in (first, second)]
    assert len(harness.processes_as(LABEL)) == 2
    third.write_spec(disks=[{"file": first.path, "format": "raw", "bus": "ide"}])
    refused = harness.confined("run", third.spec)
    assert re.search(r"in use by the VM [ab] \(pid \d+\)", refused.stderr), refused.stderr
    assert harness.short_label(first.path) == MINE
    for vm in vms:
        assert harness.power_off(vm) == 0
    _static(second, disks=[{"file": first.path, "format": "raw", "bus": "ide"}])
    _static(first)
    vm = harness.boot_spec(first)
    done = harness.confined("run", second.spec)
    assert done.returncode == 1
    assert 'Failed to get "write" lock' in done.stderr
    assert harness.power_off(vm) == 0
    assert harness.short_label(first.path) == MINE


def test_its_level_is_kept_from_dynamic_vms(make_image: Callable[[str], harness.Image]) -> None:
    """A span holds every pair in it; and a dynamic VM's pair is nobody else's."""
    static, dynamic = make_image("a"), make_image("b")
    span = "system_u:system_r:svirt_t:s0:c1.c5"
    _static(static, label=span, relabel=True)
    vm = harness.boot_spec(static)
    assert harness.processes_as(span) != []
    done = harness.run("runcon", "-l", "s0-s0:c1.c5", harness.COMMAND, "plan", dynamic.spec, check=False)
    assert done.returncode == 125
    assert "all 10 category pairs of this window are in use" in done.stderr
    assert harness.power_off(vm) == 0
    assert harness.short_label(static.path) == harness.UNUSED

    done = harness.run("runcon", "-l", "s0-s0:c1.c5", harness.COMMAND, "plan", dynamic.spec)
    vm = harness.boot_spec(dynamic)
    pid = harness.qemu_of(dynamic.path)
    pair = harness.level(harness.context(pid))
    for level in (pair, "s0:c0.c1023"):
        _static(static, label=f"system_u:system_r:svirt_t:{level}", relabel=True)
        done = harness.confined("run", static.spec)
        assert done.returncode == 125
        assert f"overlaps {pair}, which is reserved for the VM b (pid {pid})" in done.stderr
    assert harness.short_label(static.path) == harness.UNUSED
    assert harness.power_off(vm) == 0


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("system_u:system_r:no_such_t:s0:c1,c2", "not a context of the loaded policy:"),
        ("system_u:system_r:svirt_t:s3:c1,c2", "not a context of the loaded policy:"),
        (
            "system_u:system_r:httpd_t:s0:c1,c2",
            "to httpd_t, which is not a VM's domain\n  use svirt_t",
        ),
    ],
)
def test_a_label_that_cannot_be(image: harness.Image, audit: harness.AuditTrail, label: str, said: str) -> None:
    _static(image, label=label, relabel=True)
    done = harness.confined("run", image.spec)
    (line,) = harness.messages(done.stderr)
    assert (done.returncode, line.startswith("confined-qemu: seclabel.label: "), said in line) == (125, True, True), (
        line
    )
    assert harness.short_label(image.path) == harness.UNUSED
    assert _of_vms(audit) == []


@pytest.fixture
def userdomain() -> Iterator[None]:
    """VMs may run in a person's domain, for one test."""
    harness.run("setsebool", *(f"{name}=on" for name in HERE.userdomain))
    yield
    harness.run("setsebool", *(f"{name}=off" for name in HERE.userdomain))


def test_a_persons_domain_is_refused_by_name(image: harness.Image, audit: harness.AuditTrail) -> None:
    _static(image, label=PERSON, relabel=True)
    done = harness.confined("run", image.spec)
    (line,) = harness.messages(done.stderr)
    assert done.returncode == 125
    assert line.endswith(f"run: {HERE.people()}")
    assert "unconfined_t is a user's domain" in line
    assert harness.short_label(image.path) == harness.UNUSED
    assert _of_vms(audit) == []


@pytest.mark.usefixtures("userdomain")
def test_a_persons_domain_where_it_is_allowed(image: harness.Image, folder: str) -> None:
    _static(image, label=PERSON, relabel=True)
    vm = harness.boot_spec(image)
    assert harness.short_label(image.path) == "svirt_image_t:s0:c11,c22"
    (pid,) = harness.processes_as(PERSON)
    assert harness.qemu_of(image.path) == pid
    harness.kill(pid)
    assert vm.wait() == -9
    harness.until("put back", lambda: harness.short_label(image.path) == harness.UNUSED)
    pidfile = os.path.join(folder, "pid")
    _static(image, *DAEMON, pidfile, label=PERSON, relabel=True, serial="null")
    assert harness.confined("run", image.spec).returncode == 0
    pid = _pid_in(pidfile)
    assert harness.context(pid) == PERSON
    assert str(pid) in harness.confined("ps").stdout
    harness.kill(pid, 15)
    harness.until("put back", lambda: harness.short_label(image.path) == harness.UNUSED)
