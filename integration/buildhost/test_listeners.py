"""The rewriting of sockets that listen, against the installed QEMU: it must serve on a descriptor as on a path."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from confined_qemu.model.resource import Takes
from confined_qemu.read.qemu.reader import read

if TYPE_CHECKING:
    from pathlib import Path

QEMU = "qemu-system-x86_64"
QMP = b'{"QMP"'
HMP = b"QEMU "
SILENT = b""
CASES = [
    pytest.param(["-chardev", "socket,id=c,path=@,server=on,wait=off", "-mon", "c,mode=control"], QMP, id="chardev"),
    pytest.param(
        ["-chardev", "socket,path=@,logfile=@.log,id=c,server,nowait", "-mon", "c,mode=control"],
        QMP,
        id="chardev-short-booleans",
    ),
    pytest.param(
        ["-chardev", "backend=socket,server=on,wait=off,abstract=off,tight=on,id=c,path=@", "-mon", "c,mode=control"],
        QMP,
        id="chardev-path-last",
    ),
    pytest.param(["-qmp", "unix:@,server,nowait"], QMP, id="qmp"),
    pytest.param(["-qmp", "unix:@,server=on,wait=on"], QMP, id="qmp-waits"),
    pytest.param(["--qmp-pretty", "unix:@,server=on,wait=off"], b'{\r\n    "QMP"', id="qmp-pretty"),
    pytest.param(["-monitor", "unix:@,server=on,wait=off"], HMP, id="monitor"),
    pytest.param(["-monitor", "unix:@,server=on,wait=off,telnet=on"], b"\xff\xfb\x01", id="telnet"),
    pytest.param(["-serial", "mon:unix:@,server=on,wait=off", "-monitor", "none"], SILENT, id="serial-mux"),
    pytest.param(["-serial", "unix:@,server,nowait"], SILENT, id="serial"),
    pytest.param(["-parallel", "unix:@,server=on,wait=off"], SILENT, id="parallel"),
    pytest.param(["-debugcon", "unix:@,server=on,wait=off"], SILENT, id="debugcon"),
    pytest.param(["-gdb", "unix:@,server=on,wait=off"], SILENT, id="gdb"),
    pytest.param(["-qtest", "unix:@,server=on,wait=off"], SILENT, id="qtest"),
    pytest.param(["-netdev", "stream,id=n,server=on,addr.type=unix,addr.path=@"], SILENT, id="stream"),
    pytest.param(
        ["-netdev", '{"type":"stream","id":"n","server":true,"addr":{"type":"unix","path":"@"}}'], SILENT, id="json"
    ),
]


class Machine:
    """A QEMU with a paused machine whose own monitor is on its standard input and output."""

    def __init__(self, arguments: list[str], listener: socket.socket) -> None:
        common = ["-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", "64", "-qmp", "stdio"]
        self.process = subprocess.Popen(
            [QEMU, *common, *arguments],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"execute": command}).encode() + b"\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                return answer["return"]
        pytest.fail(f"QEMU ended with {self.process.wait()}")

    def quit(self) -> int:
        self.ask("quit")
        return self.process.wait(timeout=20)


def launch(arguments: list[str], path: str) -> Machine:
    """Make the one listening socket of `arguments` as the launcher does, and start QEMU with it."""
    found = read("qemu-system-x86_64", arguments)
    [listener] = found.listeners
    assert listener.path == path
    final = list(found.arguments)
    assert final[listener.index] == f"{listener.before}{{{listener.name}}}{listener.after}"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        bound.listen(1)
        final[listener.index] = f"{listener.before}{bound.fileno()}{listener.after}"
        return Machine(final, bound)


@pytest.mark.parametrize(("arguments", "greeting"), CASES)
def test_a_socket_made_by_the_launcher_serves_like_qemus_own(
    tmp_path: Path, arguments: list[str], greeting: bytes
) -> None:
    path = str(tmp_path / "s,ock")
    text = path.replace(",", ",,")
    written = [argument.replace("@", path if argument.startswith("{") else text) for argument in arguments]
    with launch(written, path) as machine:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(path)
            assert b"".join(client.recv(1) for _ in greeting) == greeting
            machine.ask("qmp_capabilities")
            # QEMU takes the connection from its main loop, and says so in the device's name
            end = time.monotonic() + 20
            while any(device["filename"].startswith("disconnected:") for device in machine.ask("query-chardev")):
                assert time.monotonic() < end, machine.ask("query-chardev")
        assert machine.quit() == 0


def test_the_monitor_of_a_multiplexed_serial_line_is_there(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with launch(["-serial", f"mon:unix:{path},server=on,wait=off"], path) as machine:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(path)
            client.sendall(b"\x01cinfo status\r")  # ctrl-a c: to the monitor
            heard = b""
            while b"VM status: paused" not in heard:
                piece = client.recv(4096)
                assert piece, heard
                heard += piece
        machine.ask("qmp_capabilities")
        assert machine.quit() == 0


@pytest.mark.parametrize(
    ("arguments", "greeting"),
    [
        pytest.param(["-vnc", "unix:@,password=off"], b"RFB 003.008\n", id="vnc"),
        pytest.param(["-display", "vnc=unix:@"], b"RFB 003.008\n", id="display"),
        pytest.param(["-incoming", "unix:@"], SILENT, id="incoming"),
    ],
)
def test_a_socket_that_qemu_makes_is_where_it_was_told_to(
    tmp_path: Path, arguments: list[str], greeting: bytes
) -> None:
    inner = str(tmp_path / "s.c1,c2")
    found = read("qemu-system-x86_64", [argument.replace("@", "/else,,where") for argument in arguments])
    [listener] = found.listeners
    final = list(found.arguments)
    text = inner.replace(",", ",,") if listener.takes is Takes.LISTED_PATH else inner
    final[listener.index] = f"{listener.before}{text}{listener.after}"
    with socket.socket(socket.AF_UNIX) as unused, Machine(final, unused) as machine:
        machine.ask("qmp_capabilities")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(inner)
            assert b"".join(client.recv(1) for _ in greeting) == greeting
        # what hangs up is no virtual machine that comes in
        assert (machine.process.wait(20) if "-incoming" in arguments else machine.quit()) == ("-incoming" in arguments)


@pytest.mark.parametrize(
    "argument",
    [
        "stream,id=n,server=off,addr.type=unix,addr.path=/s",
        '{"type":"stream","id":"n","server":false,"addr":{"type":"unix","path":"/s"}}',
    ],
)
def test_a_network_takes_a_connection_of_the_launchers(argument: str) -> None:
    found = read("qemu-system-x86_64", ["-netdev", argument])
    [listener] = found.listeners
    final = list(found.arguments)
    ours, qemus = socket.socketpair()
    with ours, qemus:
        final[listener.index] = f"{listener.before}{qemus.fileno()}{listener.after}"
        with Machine(final, qemus) as machine:
            machine.ask("qmp_capabilities")
            assert machine.quit() == 0
