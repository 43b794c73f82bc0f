"""Where QEMU's output goes: the places people use, and what a service manager gives. The rest is test_dropin's."""

from __future__ import annotations

import functools
import os
import shlex
import signal
import subprocess

import pytest

from integration.suite import harness, tinyguest


def test_a_file(image: harness.Image, drop_in: str) -> None:
    for target in ("/root/out.log", "/tmp/out.log", "/var/log/out.log"):  # noqa: S108 - the places people use
        with open(target, "wb") as out:
            vm = harness.Process([drop_in, *harness.raw_arguments(image.path)], stdout=out, stderr=out)
        harness.until(f"the marker in {target}", functools.partial(_holds, target, tinyguest.MARKER))
        assert harness.power_off(vm) == 0
        os.unlink(target)


def _holds(path: str, text: bytes) -> bool:
    with open(path, "rb") as file:
        return text in file.read()


@pytest.mark.parametrize("sink", ["pipe", "file", "socket"])
def test_from_a_service(image: harness.Image, drop_in: str, sink: str) -> None:
    """A unit has no login shell's range: its pipes, files and journal sockets are at s0."""
    log = "/var/log/confined-test.log"
    unit = f"confined-test-{sink}"
    command = ["systemd-run", "--quiet", "--wait", "--collect", f"--unit={unit}"]
    service = [drop_in, *harness.raw_arguments(image.path)]
    if sink == "pipe":
        # what a CI runner does: a shell of the service's own, whose pipe the VM writes into
        service = ["/bin/sh", "-c", f"{shlex.join(service)} | cat > {log}"]
    elif sink == "file":
        command.append(f"--property=StandardOutput=file:{log}")
    # the guest waits for a key that no service has: it is ended when its marker has arrived
    process = harness.Process([*command, *service], stdin=subprocess.DEVNULL)
    if sink == "socket":
        journal = ("journalctl", "-u", unit, "-o", "cat")
        harness.until("the marker in the journal", lambda: "guest: ready" in harness.run(*journal).stdout)
    else:
        harness.until("the marker in the file", lambda: os.path.exists(log) and _holds(log, tinyguest.MARKER))
        os.unlink(log)
    os.kill(harness.qemu_of(image.path), signal.SIGTERM)
    assert process.wait() == 0
    harness.settle()
    assert harness.short_label(image.path) == harness.UNUSED
