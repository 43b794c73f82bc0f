"""Boots a guest under QEMU's TCG and ends it; what runs is recorded in the cache folder, one folder a guest."""

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from integration.guestlib import cache, hypervisor, layers, programs, saved, sshkeys
from integration.guestlib.qmp import Monitor
from integration.guestlib.report import GuestError, progress

READY = b"confined-qemu-guest: ready"
# Seconds. A boot takes 15 to 30 on two cores; a quiet guest is a hung one.
BOOT_LIMIT = 240.0
SILENCE_LIMIT = 60.0
END_LIMIT = 10.0
BOOTS = 2
XEN_PATIENCE = 3.0
"""How much longer a boot under Xen may take and be silent."""
MEMORY_MIB = 3072
# security=selinux: Debian's kernel also has AppArmor. net.ifnames: init.sh knows the card as eth0. log_buf_len: what a
# part of the suite leaves in the kernel's log stays there, so that a test can read its own denials without auditd.
KERNEL_ARGUMENTS = (
    "console=ttyS0 security=selinux selinux=1 enforcing=1 audit=1 audit_backlog_limit=65536 "
    "net.ifnames=0 mitigations=off nokaslr loglevel=4 log_buf_len=4M panic=-1"
)
# One CPU: with two, guests that ran inner KVM machines hung now and then, both CPUs spinning in the kernel.
# What the guest sees of its machine; a saved state fits only the same one.
MACHINE = [
    "-no-user-config", "-nodefaults", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MIB),
    "-display", "none", "-no-reboot",
    "-nic", "user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:0-:22",
    "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
]  # fmt: skip
# Under Xen: QEMU's TCG faults where a PV kernel returns to user space under SMAP, and gives no next instruction where
# a PVH guest executes RDTSCP. With XSAVE, dom0's programs find wrong values in their vector registers while a PVH guest
# runs, and crash. With two CPUs they crashed now and then.
XEN_MACHINE = ["max,-smap,-rdtscp,-xsave" if word == "max" else word for word in MACHINE]
XEN_ARGUMENTS = (
    "console=com1 com1=115200,8n1 dom0_mem=1536M,max:1536M dom0_max_vcpus=1 noreboot=1 loglvl=all guest_loglvl=all "
    "flask=enforcing"
)
UNIX_PATH_LIMIT = 90  # bytes; the kernel takes 107, ssh appends a suffix of its own


class BootHungError(GuestError):
    """The guest went silent or took too long; booting again may help."""


@dataclass(frozen=True)
class Running:
    """A started guest. `ticks` is the start time of its process, so that a reused pid is not taken for it."""

    name: str
    policy: str
    pid: int
    ticks: int
    port: int
    retries: int

    def alive(self) -> bool:
        """Tell whether its QEMU runs."""
        return start_ticks(self.pid) == self.ticks

    def ssh(self, *options: str) -> list[str]:
        """Return the ssh command line up to the command to run."""
        settings = {
            "BatchMode": "yes",
            "ControlPath": file_of(self.name, "ssh.sock"),
            "HostKeyAlias": "guest",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "ServerAliveInterval": "60",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": sshkeys.known_hosts(),
        }
        pairs = [item for key, value in settings.items() for item in ("-o", f"{key}={value}")]
        login = ["-p", str(self.port), "-i", sshkeys.private_key(), "-l", "root"]
        return ["ssh", "-F", "none", *pairs, *login, *options, "127.0.0.1"]


def file_of(name: str, file: str) -> str:
    """Return the path of one of a guest's files."""
    path = os.path.join(cache.subfolder("guests", name, mode=0o700), file)
    if len(os.fsencode(path)) > UNIX_PATH_LIMIT:
        raise GuestError(f"{path}: too long for a socket; set CONFINED_QEMU_CACHE to a shorter folder")
    return path


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None where there is none (or a zombie)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == b"Z" else int(fields[19])


def find(name: str) -> Running | None:
    """Return the guest as recorded, alive or not, or None where none was started."""
    try:
        with open(file_of(name, "state.json"), encoding="ascii") as file:
            return Running(**json.load(file))
    except FileNotFoundError:
        return None


def running(name: str) -> Running:
    """Return the guest, which must be alive."""
    found = find(name)
    if found is None:
        raise GuestError(f"no guest {name} runs; start it with: integration/guest up --name {name}")
    if not found.alive():
        raise GuestError(
            f"the QEMU of guest {name} (pid {found.pid}) has died; its last words are in "
            f"{file_of(name, 'qemu.log')}; start anew with: integration/guest up --name {name}"
        )
    return found


def up(name: str, policy: str, *, cold: bool = False) -> Running:
    """Start the guest, or return it where it runs already; a start that hangs is tried once more, and said.

    Args:
        name: which guest.
        policy: what it enforces.
        cold: boot it even where the state of an earlier boot is saved.
    """
    with cache.locked(f"up-{name}"):
        found = find(name)
        if found is not None and found.alive():
            if found.policy != policy:
                raise GuestError(f"guest {name} runs with the policy {found.policy}; use another --name, or down first")
            return found
        image = layers.guest(layers.policy_named(policy))
        for retries in range(BOOTS):
            _clean(name)
            try:
                # What hung once does not get its second chance from the same saved state.
                start = Start(name, policy, image, retries, cold=cold or retries > 0)
                # a hypervisor's state is more than QEMU's TCG saves
                return _start(dataclasses.replace(start, cold=start.cold or start.hypervisor is not None))
            except BootHungError as error:
                _clean(name)
                if retries + 1 == BOOTS:
                    raise
                progress(f"{error}; booting again (retry {retries + 1} of {BOOTS - 1})")
    raise AssertionError


def down(name: str) -> bool:
    """End the guest's QEMU and remove its overlay; tells whether one was alive."""
    found = find(name)
    alive = found is not None and found.alive()
    if found is not None and alive:
        _kill(found.pid)
    _clean(name)
    return alive


@dataclass(frozen=True)
class Start:
    """One attempt to start a guest."""

    name: str
    policy: str
    image: layers.Guest
    retries: int
    cold: bool

    @property
    def hypervisor(self) -> str | None:
        """The Xen that its kernel is dom0 of, None for a plain machine."""
        return layers.policy_named(self.policy).hypervisor

    @property
    def machine(self) -> list[str]:
        """What the guest sees of its machine."""
        return XEN_MACHINE if self.hypervisor else MACHINE

    @property
    def key(self) -> str:
        """The key of the state that this start may go on from."""
        return saved.key(self.image.folder, [*MACHINE, KERNEL_ARGUMENTS])

    def kernel(self) -> list[str]:
        """Return QEMU's options for what it boots: a kernel, or Xen with its dom0's as modules."""
        if not self.hypervisor:
            return ["-kernel", self.image.kernel, "-initrd", self.image.initrd, "-append", KERNEL_ARGUMENTS]
        arguments = KERNEL_ARGUMENTS.replace("console=ttyS0", "console=hvc0")
        # QEMU's multiboot loader takes modules in a list, the first one's arguments behind its name
        modules = [f"{self.image.kernel} {arguments}", self.image.initrd]
        listed = ",".join(module.replace(",", ",,") for module in modules)
        xen = os.path.join(hypervisor.folder(), self.hypervisor)
        return ["-kernel", xen, "-initrd", listed, "-append", XEN_ARGUMENTS]


def _start(start: Start) -> Running:
    name = start.name
    began = time.monotonic()
    state = None if start.cold else saved.find(start.policy, start.key)
    progress(f"{'booting' if state is None else 'resuming'} guest {name} (policy {start.policy})")
    backing = ("raw", start.image.disk) if state is None else ("qcow2", saved.overlay(state))
    overlay = file_of(name, "overlay")
    programs.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", backing[0], "-b", backing[1], overlay])
    with contextlib.ExitStack() as stack:
        listeners = {part: stack.enter_context(_listener(file_of(name, f"{part}.sock"))) for part in ("console", "qmp")}
        console = stack.enter_context(_connect(file_of(name, "console.sock")))
        control = stack.enter_context(_connect(file_of(name, "qmp.sock")))
        log = stack.enter_context(open(file_of(name, "qemu.log"), "wb"))
        numbers = {part: listener.fileno() for part, listener in listeners.items()}
        process = subprocess.Popen(
            [*_command(start, numbers), *([] if state is None else ["-incoming", "defer"])],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            pass_fds=tuple(numbers.values()), start_new_session=True,
        )  # fmt: skip
        try:
            monitor = stack.enter_context(Monitor(control, log.name))
            ticks = start_ticks(process.pid) or 0
            guest = Running(name, start.policy, process.pid, ticks, _forwarded_port(monitor), start.retries)
            if state is None:
                _wait_ready(guest, console, began, XEN_PATIENCE if start.hypervisor else 1.0)
                if not start.cold:
                    saved.save(start.policy, start.key, monitor, overlay)
            else:
                saved.resume(monitor, state)
            _open_connection(guest)
            _record(guest)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = 0  # It outlives this command: keep Popen from warning about that.
    progress(f"guest {name} is ready after {time.monotonic() - began:.1f} s, {start.retries} retries")
    return guest


def _command(start: Start, listeners: dict[str, int]) -> list[str]:
    overlay = file_of(start.name, "overlay").replace(",", ",,")
    log = file_of(start.name, "console.log").replace(",", ",,")
    return [
        "qemu-system-x86_64", "-name", f"confined-qemu-guest-{start.name}", *start.machine,
        "-drive", f"if=virtio,format=qcow2,cache=unsafe,discard=unmap,file={overlay}",
        "-chardev", f"socket,id=console,fd={listeners['console']},server=on,wait=on,logfile={log}",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=qmp,fd={listeners['qmp']},server=on,wait=off", "-mon", "chardev=qmp,mode=control",
        *start.kernel(),
    ]  # fmt: skip


def _listener(path: str) -> socket.socket:
    """Return a listening socket that QEMU inherits: a client can connect before QEMU runs."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    return listener


def _connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client


def _forwarded_port(monitor: Monitor) -> int:
    """Ask QEMU which port of 127.0.0.1 it took for the guest's ssh."""
    text = monitor.human("info usernet")
    for row in text.splitlines():
        if "HOST_FORWARD" in row:
            return int(row.split()[3])
    raise GuestError(f"QEMU forwards no port: {text}")


def _wait_ready(state: Running, console: socket.socket, started: float, patience: float) -> None:
    """Read the console until the line that says commands are taken."""
    log = file_of(state.name, "console.log")
    seen = b""
    while READY not in seen:
        silence, limit = patience * SILENCE_LIMIT, patience * BOOT_LIMIT
        left = started + limit - time.monotonic()
        if not select.select([console], [], [], max(0.0, min(left, silence)))[0]:
            what = f"was silent for {silence:.0f} s" if left > 0 else f"took more than {limit:.0f} s"
            raise BootHungError(f"the boot of guest {state.name} {what}; its console is in {log}")
        data = console.recv(65536)
        if not data:
            raise GuestError(f"QEMU ended during the boot of guest {state.name}; see {log} and qemu.log beside it")
        seen = seen[-len(READY) :] + data


def _open_connection(state: Running) -> None:
    """Log in once; later commands share this connection. Then set the clock, which stood still in a saved state."""
    # -f: goes to the background once it is logged in, out of the reach of a terminal's ^C.
    _ssh(state, state.ssh("-M", "-N", "-f"))
    context = layers.policy_named(state.policy).user_context
    _ssh(state, [*state.ssh("-T"), f"date -s @{time.time():.0f} && test $(id -Z) = {context}"])


def _ssh(state: Running, command: list[str]) -> None:
    with tempfile.TemporaryFile("w+") as words:  # not a pipe: what stays in the background would hold it open
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words, check=False,
                timeout=SILENCE_LIMIT, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BootHungError(f"guest {state.name} does not answer on its port {state.port}") from error
        words.seek(0)
        if done.returncode:
            context = layers.policy_named(state.policy).user_context
            raise GuestError(f"root's login into guest {state.name} is not {context}: {words.read().strip()}")


def _record(state: Running) -> None:
    path = file_of(state.name, "state.json")
    with open(path + ".new", "w", encoding="ascii") as file:
        json.dump(dataclasses.asdict(state), file)
    os.rename(path + ".new", path)


def _kill(pid: int) -> None:
    """End a process and wait until it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], END_LIMIT)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    print(f"pid {pid} does not end", file=sys.stderr)


def _clean(name: str) -> None:
    """Remove what a guest that is gone left; its logs stay until the next boot."""
    for file in ("state.json", "state.json.new", "overlay", "console.sock", "qmp.sock", "ssh.sock"):
        cache.remove(file_of(name, file))
