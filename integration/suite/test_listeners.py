"""Sockets of displays, networks and migration: a client of the caller's gets through, another VM does not."""

from __future__ import annotations

import glob
import json
import os
import socket
from typing import TYPE_CHECKING

from integration.suite import harness, hostile
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSED = ["-accel", "kvm", "-m", "32M", "-nodefaults", "-display", "none", "-S", "-name", "sockets"]
RFB = b"RFB 003.008\n"


def client_of(path: str) -> socket.socket:
    """Connect as a program in the caller's login shell does."""
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(harness.PATIENCE)
    made.connect(path)
    return made


def test_sockets_that_qemu_serves_and_one_that_it_connects_to(
    make_image: Callable[[str], harness.Image], hostile_qemu: str, audit: harness.AuditTrail, folder: str
) -> None:
    other = make_image("other")
    vnc, net, moved, agent = (os.path.join(folder, f"{name}.sock") for name in ("vnc", "net", "moved", "agent"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(agent)
        listener.listen(1)
        listener.settimeout(harness.PATIENCE)
        vm = harness.Process(
            [
                harness.COMMAND, "exec", "--", *PAUSED, "-qmp", "stdio", "-vnc", f"unix:{vnc}",
                "-netdev", f"stream,id=served,server=on,addr.type=unix,addr.path={net}",
                "-netdev", json.dumps({"type": "stream", "id": "peer", "addr": {"type": "unix", "path": agent}}),
                "-incoming", f"unix:{moved}",
            ]
        )  # fmt: skip
        vm.read_until(b'"QMP"')
        peer, _ = listener.accept()
    vm.send(b'{"execute":"qmp_capabilities"}\n')
    pair = harness.level(harness.label(vnc))
    assert harness.context(vm.pid) == f"system_u:system_r:svirt_t:{pair}"
    # the caller's clients
    with client_of(vnc) as viewer:
        assert b"".join(viewer.recv(1) for _ in RFB) == RFB
    with client_of(net):
        vm.read_until(b'"netdev-id": "served"')
    # another VM, at the paths and where QEMU made its own sockets
    paths, denied = [vnc, net, moved], [("write", "sock_file")]
    if HERE.relays:  # what it made itself lies in the VM's own folder
        (inner,) = glob.glob("/run/confined-qemu/sockets.*/vnc")
        assert harness.short_label(inner) == f"svirt_image_t:{pair}"
        paths.append(inner)
        denied.append(("search", "dir"))
    answers = hostile.attempt(other, hostile_qemu, [("connect", path) for path in paths])
    assert list(answers.values()) == ["EACCES"] * len(paths)
    for permission, kind in denied:
        assert audit.has(permission, "svirt_t", f"svirt_image_t:{pair}", kind), kind
    # what is no VM on its way ends the one that waits for it, as it ends bare QEMU
    client_of(moved).close()
    assert vm.wait() == 1
    peer.close()
    harness.settle()
    assert [path for path in paths if os.path.exists(path)] == []
    kinds = {"dir", "sock_file", "unix_stream_socket", "fd"}
    assert [denial.text for denial in audit.denials() if pair in denial.source and denial.kind in kinds] == []


def test_a_socket_in_a_configuration_file(image: harness.Image, folder: str) -> None:
    """QEMU cannot make the socket that its configuration file names, so the file is written out as options."""
    config, path = os.path.join(folder, "vm.cfg"), os.path.join(folder, "monitor.sock")
    with open(config, "w", encoding="utf-8") as file:
        file.write(
            f'[drive "d"]\nif = "none"\nformat = "raw"\nfile = "{folder}/missing.img"\n'
            f'[chardev "c"]\nbackend = "socket"\npath = "{path}"\nserver = "on"\nwait = "off"\n'
            '[mon "m"]\nchardev = "c"\nmode = "control"\n'
        )
    before = harness.short_label(config)
    vm = harness.Process(
        [
            harness.COMMAND, "exec", "--", *PAUSED, "-readconfig", config, "-set", f"drive.d.file={image.path}",
            "-serial", "stdio",
        ]
    )  # fmt: skip
    harness.until("the monitor is there", lambda: os.path.exists(path))
    client = harness.Qmp(path)
    assert "QMP" in client.greeting()
    client.ask("qmp_capabilities")
    [disk] = client.ask("query-block")["return"]
    assert disk["inserted"]["image"]["filename"] == image.path
    assert harness.level(harness.label(image.path)) == harness.level(harness.context(vm.pid))
    assert harness.short_label(config) == before
    client.ask("quit")
    client.close()
    assert vm.wait() == 0
    harness.settle()
    assert harness.short_label(image.path) == harness.UNUSED
