"""QEMU and the host's files, sockets and names: probes of points."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess

from integration.suite import harness, sides, tinyguest
from integration.suite.sides import Seen, Side

_SYSTEM = "/usr/share/seabios/bios-256k.bin"
_SOCKET = "/tmp/confined-daemon.sock"  # noqa: S108 - where daemons of a caller listen


def _quit(vm: harness.Process) -> Seen:
    vm.send(b'{"execute": "qmp_capabilities"}{"execute": "quit"}')
    return sides.ended(vm)


def _disk(name: str, *more: str) -> list[str]:
    """Return a disk that is there for any number of VMs to read."""
    drive = ",".join((f"file={sides.at(name)}", "format=raw", "readonly=on", "if=none", "id=d", *more))
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=d"]


def bad_option(side: Side) -> Seen:
    """What QEMU itself refuses, it says itself."""
    device = side.run("-accel", "kvm", "-nodefaults", "-display", "none", "-device", "no-such-device")
    return {"device": device, "machine": side.run("-accel", "kvm", "-display", "none", "-M", "no-such-machine")}


def shared(side: Side) -> Seen:
    """Two VMs read one image at once, with a system's firmware, which keeps its label."""
    side.make("base.img", bytes(harness.IMAGE_SIZE))
    before = [harness.label(path) for path in (_SYSTEM, tinyguest.ROM)]
    vms = [side.idle(*_disk("base.img"), "-bios", path) for path in (_SYSTEM, tinyguest.ROM)]
    during = [harness.label(path) for path in (_SYSTEM, tinyguest.ROM)]
    return {"ends": [_quit(vm) for vm in vms], "the system's labels stay": before == during}


def not_yet_there(side: Side) -> Seen:
    """A log, a pidfile, a serial line's file, memory and a socket that QEMU makes, by names in its folder."""
    vm = side.idle(
        *("-d", "guest_errors", "-D", "log", "-pidfile", "pid", "-chardev", "file,id=s,path=serial,logfile=copy"),
        *("-object", "memory-backend-file,id=m,size=1M,share=on,mem-path=memory"),
        *("-chardev", "socket,id=q,path=socket,server=on,wait=off", "-device", "isa-serial,chardev=s"),
    )
    modes = {name: stat.filemode(os.lstat(sides.at(name)).st_mode) for name in sorted(os.listdir(sides.FOLDER))}
    with open(sides.at("pid"), encoding="ascii") as file:
        written = int(file.read()) == vm.pid
    ended = _quit(vm)
    if side.confined:
        harness.settle()
    return {"made": modes, "pidfile": written, "left": sorted(os.listdir(sides.FOLDER))} | ended


def vanishing(side: Side) -> Seen:
    """A client removes the disk and puts another file in its place, and removes the socket, while QEMU runs."""
    vm = side.boot("-chardev", "socket,id=q,path=socket,server=on,wait=off")
    os.unlink(sides.at("socket"))
    os.unlink(sides.at("a.img"))
    side.make("a.img", b"another one")
    subprocess.run(["chcon", "-t", "user_home_t", sides.at("a.img")], check=True)
    return {"exit": harness.power_off(vm)}


def sockets(side: Side) -> Seen:
    """A client reaches QEMU's socket; QEMU reaches a socket of the caller's."""
    daemon = socket.socket(socket.AF_UNIX)
    daemon.bind(_SOCKET)
    daemon.listen()
    out = ["-chardev", f"socket,id=s,path={_SOCKET}", "-serial", "chardev:s"]
    vm = side.start(*sides.raw(), *out, "-qmp", "unix:socket,server=on,wait=off")
    serial, _ = daemon.accept()
    serial.settimeout(harness.PATIENCE)
    text = b""
    while tinyguest.MARKER not in text:
        text += serial.recv(4096)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(harness.PATIENCE)
        client.connect(sides.at("socket"))
        greeting = client.recv(7)
    serial.sendall(b"q")
    for one in (serial, daemon):
        one.close()
    os.unlink(_SOCKET)
    # the end of its line may come in another piece
    return {"serial": text.rstrip(), "greeting": greeting} | sides.ended(vm)


def daemon(side: Side) -> Seen:
    """The command returns when the VM is up; the pidfile's process is the VM, and its end puts the labels back."""
    disk = ["-drive", f"file={sides.at('a.img')},format=raw,if=ide", "-serial", "null"]
    seen = side.run(*sides.raw(), *disk, "-daemonize", "-pidfile", "pid")
    with open(sides.at("pid"), encoding="ascii") as file:
        pid = int(file.read())
    side.check(pid)
    words = os.path.basename(sides.words(pid, "cmdline")[0])
    watched = os.pidfd_open(pid)
    os.kill(pid, signal.SIGTERM)
    signal.pidfd_send_signal(watched, 0)
    harness.until("the daemon's end", lambda: not os.path.exists(f"/proc/{pid}"))
    os.close(watched)
    return {"program": words, "status": seen}


def other_ways_to_say_it(side: Side) -> Seen:
    """A disk in a configuration file that -set changes, one by dotted keys, one by JSON, one in a pseudo-protocol."""
    for name in ("b.img", "c.img", "d,e.img", "f.img"):
        side.make(name, bytes(harness.IMAGE_SIZE))
    drive = 'if = "none"\n  format = "raw"\n  file = "nowhere"\n'
    config = side.make("vm.conf", f'[drive "one"]\n  {drive}'.encode())
    node = json.dumps({"driver": "raw", "node-name": "three", "file": {"driver": "file", "filename": "d,e.img"}})
    inner = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "f.img"}}).replace(",", ",,")
    vm = side.idle(
        *("-readconfig", config, "-set", "drive.one.file=b.img", "-blockdev", node),
        *(
            "-drive",
            "driver=raw,file.driver=file,file.filename=c.img,if=none",
            "--drive",
            f"file=json:{inner}",
        ),
    )
    opened = sorted(os.path.basename(path) for path in _open_files(vm.pid) if path.startswith(sides.FOLDER))
    return {"open": opened} | _quit(vm)


def _open_files(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]


def unknown_option(side: Side) -> Seen:
    """An option that no QEMU has."""
    return side.run("-accel", "kvm", "-display", "none", "-no-such-option")


def declared(side: Side) -> Seen:
    """A file that is opened over QMP, and was declared beforehand."""
    path = side.make("later.img", bytes(harness.IMAGE_SIZE))
    return _plugged(side, path, {**os.environ, "CONFINED_QEMU_EXTRA_PATHS": path})


def undeclared(side: Side) -> Seen:
    """A file that is opened over QMP, and that nobody spoke of."""
    return _plugged(side, side.make("later.img", bytes(harness.IMAGE_SIZE)), None)


def _plugged(side: Side, path: str, environment: dict[str, str] | None) -> Seen:
    vm = side.start(*sides.raw("-S", "-qmp", "unix:socket,server=on,wait=off"), env=environment)
    harness.until("QEMU's socket", lambda: os.path.exists(sides.at("socket")))
    client = harness.Qmp(sides.at("socket"))
    client.greeting()
    side.check(vm.pid)
    client.ask("qmp_capabilities")
    answer = client.ask("blockdev-add", **{"driver": "file", "node-name": "later", "filename": path})
    client.ask("quit")
    client.close()
    return {"denied": "Permission denied" in str(answer.get("error"))} | sides.ended(vm)


def by_name(side: Side) -> Seen:
    """QEMU by its name, where PATH has the drop-in in two folders before the system's."""
    ours = [sides.NAMES, f"{sides.FOLDER}/again"]
    os.mkdir(ours[1])
    os.symlink(os.path.join(sides.NAMES, "qemu-system-x86_64"), os.path.join(ours[1], "qemu-system-x86_64"))
    path = ":".join((*(ours if side.confined else ()), "/usr/bin"))
    named = Side("qemu-system-x86_64", side.confined)
    environment = {**os.environ, "PATH": path}
    vm = named.idle(env=environment)
    program = os.readlink(f"/proc/{vm.pid}/exe")
    return {"question": named.run("-version", env=environment), "program": program} | _quit(vm)
