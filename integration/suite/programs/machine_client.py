"""A test harness on QEMU's own `qemu.machine`: starts VMs in each way that it knows, ends them in each way.

    machine_client.py EMULATOR IMAGE ROM

prints what a harness sees, one line for each thing; nothing in it depends on the run, or on what the emulator's name is.
"""

import logging
import os
import select
import signal
import sys

from qemu.machine import QEMUMachine
from qemu.machine.machine import VMLaunchFailure

EMULATOR, IMAGE, ROM = sys.argv[1:]
PATIENCE = 240
"""Seconds until a start counts as failed: `launch` of 7.2 would wait for ever for a QEMU that ends before it connects."""
logging.basicConfig(stream=sys.stdout, format="%(levelname)s: qemu.machine warned")
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # how many errors it logs depends on who is first


def machine(*more, image=True):
    args = ["-accel", "kvm", "-m", "32M", "-nodefaults", "-no-reboot", "-bios", ROM]
    args += ["-drive", f"file={IMAGE},format=raw,if=ide"] if image else []
    return QEMUMachine(EMULATOR, args=[*args, *more], qmp_timer=PATIENCE)


def booted(vm):
    """Have the guest echo a character: what it says before somebody listens is lost."""
    vm.console_socket.sendall(b".")
    seen = b""
    while b"." not in seen:
        assert select.select([vm.console_socket], [], [], PATIENCE)[0], seen
        seen += vm.console_socket.recv(4096)
    return vm


def say(*words):
    print(*words, flush=True)


def passes_a_descriptor():
    vm = machine("-drive", "file=/dev/fdset/2,format=raw,if=ide,index=0", image=False)
    images = [os.open(IMAGE, flags) for flags in (os.O_RDWR, os.O_RDONLY)]  # QEMU looks before it writes
    for image in images:
        vm.add_fd(image, 2, "opaque words")
    vm.set_console()
    vm.launch()
    for image in images:
        os.close(image)
    booted(vm)
    with open(f"/proc/{vm.get_pid()}/comm") as file:
        say("add_fd: the process that was started is", file.read().strip())
    for entry in vm.command("query-fdsets"):
        say("add_fd: set", entry["fdset-id"], [one["opaque"] for one in entry["fds"]])
    say("add_fd:", [one["inserted"]["file"] for one in vm.command("query-block") if "inserted" in one])
    vm.qmp("quit")
    vm.wait()
    say("add_fd, quit:", vm.exitcode(), repr(vm.get_log()))


def ends_by_the_debug_port():
    vm = machine("-device", "isa-debug-exit,iobase=0xf4,iosize=4")
    vm.set_console()
    vm.launch()
    console = booted(vm).console_socket
    console.sendall(b"x")
    while console.recv(4096):
        pass
    vm.wait()
    say("debug port:", vm.exitcode(), repr(vm.get_log()))


def ends(name, end):
    """Start a VM, which the client listens to, and end it; the next one has the same image at once."""
    vm = machine()
    vm.launch()
    end(vm)
    vm.wait()
    say(f"{name}:", vm.exitcode(), "running:", vm.is_running(), vm.get_pid())
    return vm.get_log()


def fails_early():
    vm = machine("-device", "no-such-device")
    try:
        vm.launch()
    except VMLaunchFailure as error:
        say("early failure:", error.exitcode, error.output.replace(EMULATOR, "qemu").strip())


passes_a_descriptor()
ends_by_the_debug_port()
ends("kill", lambda vm: vm.kill())
ends("abort", lambda vm: os.kill(vm.get_pid(), signal.SIGABRT))
log = ends("terminate", lambda vm: os.kill(vm.get_pid(), signal.SIGTERM))
say("its log names the signal:", "terminating on signal 15" in log)
with machine() as machine_at_work:
    machine_at_work.launch()
    say("with: status", machine_at_work.qmp("query-status")["return"]["status"])
say("with, shut down:", machine_at_work.exitcode())
fails_early()
