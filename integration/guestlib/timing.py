"""Times how VMs start and end, several ways side by side, in turns.

Stands alone: runs in the guest and on the machine that builds, `python3 -m integration.guestlib.timing --help`.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from integration.guestlib.series import Group, Series

QEMU = "/usr/bin/qemu-system-x86_64"
LAUNCH = "/usr/local/libexec/confined-qemu/launch"
IMAGES = "/var/lib/libvirt/images"
UNUSED = b"system_u:object_r:virt_image_t:s0"
XATTR = "security.selinux"
SIZE = 16 << 20
MEMORY_MIB = 128
QUIT = b'{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n'
LIBVIRTD = "confined-qemu-bench-libvirtd"
# chcon and runcon in one: image, pipes, execution context, QEMU. It runs in the launcher's domain, as nothing else may
# start QEMU in svirt_t; what it leaves out is what confined-qemu is for.
BY_HAND = """#!/usr/bin/python3 -IS
import os, sys
image, level, *command = sys.argv[1:]
os.setxattr(image, "security.selinux", b"system_u:object_r:svirt_image_t:" + os.fsencode(level))
for number in (0, 1):
    pipe = f"/proc/self/fd/{number}"
    os.setxattr(pipe, "security.selinux", os.getxattr(pipe, "security.selinux").rstrip(b"\\0").split(b"-")[0])
with open("/proc/self/attr/exec", "w") as file:
    file.write("system_u:system_r:svirt_t:" + level)
os.execv(command[0], command)
"""
# Without SELinux, and without what `policy install` writes: the same entry points, from a copy of a checkout.
ENTRY = """#!/usr/bin/python3 {flags}
import sys
sys.path += ["/usr/lib/python3/dist-packages", {folder!r}]
from confined_qemu.{module} import main
main()
"""
# The same machine, as libvirt is told of it; its image is relabelled by libvirt as ours is by us.
DOMAIN = """<domain type='kvm'><name>bench</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>{qemu}</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>
<target dev='hda' bus='ide'/></disk>
</devices></domain>
"""
# QEMU's session daemon settings with which libvirt starts VMs in Debian's own domain for it, as the suite has them.
LIBVIRT = 'user = "root"\ngroup = "root"\nnamespaces = []\ncgroup_controllers = []\nstdio_handler = "file"\n'


@dataclass
class Way:
    """One way to do the same, and how long each time took, in ms."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    """How long it took from SIGTERM to the end, where it is ended so."""

    def series(self) -> Series:
        """Return the times of the start."""
        return Series(self.name, self.took)


@contextlib.contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    began = time.monotonic()
    yield
    into.append((time.monotonic() - began) * 1000)


def greet(way: Way, *, stop: bool = False) -> None:
    """Start a VM, take the time to QEMU's QMP greeting, end it: by QMP, or by SIGTERM with the time of that."""
    began = time.monotonic()
    with subprocess.Popen(
        way.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **way.environment},
    ) as process:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        way.took.append((time.monotonic() - began) * 1000)
        if b'"QMP"' not in greeting:
            raise SystemExit(f"error: {way.name}: no greeting: {process.communicate()[1].decode().strip()}")
        if stop:
            with _timed(way.ended):
                process.send_signal(signal.SIGTERM)
                process.wait()
        _, errors = process.communicate(None if stop else QUIT)
    # a QEMU that has greeted may not handle SIGTERM yet
    if process.returncode and not (stop and process.returncode == -signal.SIGTERM):
        raise SystemExit(f"error: {way.name}: exit code {process.returncode}: {errors.decode().strip()}")


def ask(way: Way) -> None:
    """Ask QEMU for its version and take the time to its end."""
    with _timed(way.took):
        subprocess.run(way.command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **way.environment})


def create(way: Way) -> None:
    """Let libvirt start its domain and end it; `virsh` returns when QEMU answers on QMP and runs."""
    with _timed(way.took):
        subprocess.run(way.command, check=True, stdout=subprocess.DEVNULL)
    with _timed(way.ended):
        subprocess.run(["virsh", "destroy", "bench"], check=True, stdout=subprocess.DEVNULL)


def _turns(count: int, steps: list[tuple[Callable[[Way], None], Way]], after: Callable[[], None]) -> None:
    """Take each step in turn, so that what slows the machine slows all; the first round only fills caches."""
    for turn in range(count + 1):
        for step, way in steps:
            step(way)
            after()
            if turn == 0:
                way.took.clear()
                way.ended.clear()


def _files(folder: str, confinement: str, accel: str) -> tuple[str, str, list[str]]:
    """Write image and spec; return both and QEMU's arguments for the same VM."""
    image, spec = os.path.join(folder, "bench.img"), os.path.join(folder, "bench.yaml")
    with open(image, "wb") as file:
        file.truncate(SIZE)
    disk = {"file": image, "format": "raw", "bus": "ide"}
    memory = f"{MEMORY_MIB}M"
    vm = {"name": "bench", "accel": accel, "memory": memory, "disks": [disk], "serial": "null", "display": "none"}
    with open(spec, "w", encoding="ascii") as file:
        json.dump({**vm, "network": "none", "confinement": confinement}, file)
    drive = f"file={image},format=raw,if=ide"
    machine = ["-no-user-config", "-nodefaults", "-machine", "pc", "-accel", accel, "-m", memory, "-vga", "std"]
    return image, spec, [*machine, "-display", "none", "-drive", drive, "-S", "-qmp", "stdio"]


def write_program(path: str, text: str) -> str:
    """Write a program and return its path."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o755)
    return path


# ---- where SELinux enforces


def confined(folder: str, count: int) -> list[Group]:
    """Measure on a host that enforces and has libvirt."""
    image, spec, arguments = _files(folder, "selinux", "kvm")
    subprocess.run(["restorecon", "-RF", IMAGES], check=True)
    helper, link = write_program(os.path.join(folder, "by-hand"), BY_HAND), os.path.join(folder, "qemu-system-x86_64")
    os.setxattr(helper, XATTR, b"system_u:object_r:confined_qemu_exec_t:s0")
    os.symlink(LAUNCH, link)
    run = ["confined-qemu", "run", spec, "--", "-S", "-qmp", "stdio"]
    hand = Way("by hand: label, exec", [helper, image, "s0:c1,c2", QEMU, *arguments])
    starts = [
        hand,
        Way("bare QEMU, unconfined", [QEMU, *arguments]),
        Way("a link to ours", [link, *arguments]),
        Way("`confined-qemu run`", run),
    ]

    def unlabel() -> None:
        os.setxattr(image, XATTR, UNUSED)

    _turns(count, [(greet, way) for way in starts], unlabel)
    where = "guest"
    return [
        Group(f"{where}; to the greeting", "ms", [way.series() for way in starts]),
        *_beside_libvirt(folder, image, run, count, where),
    ]


def _beside_libvirt(folder: str, image: str, run: list[str], count: int, where: str) -> list[Group]:
    definition = os.path.join(folder, "bench.xml")
    with open(definition, "w", encoding="ascii") as file:
        file.write(DOMAIN.format(memory=MEMORY_MIB, qemu=QEMU, image=image))
    ours, virsh = Way("`confined-qemu run`", run), Way("`virsh create`", ["virsh", "create", definition])
    with _libvirtd():
        _turns(count, [(lambda way: greet(way, stop=True), ours), (create, virsh)], lambda: None)
    ended = [Series("SIGTERM to `confined-qemu run`", ours.ended), Series("`virsh destroy`", virsh.ended)]
    return [
        Group(f"{where}; until it is there", "ms", [ours.series(), virsh.series()]),
        Group(f"{where}; until it has ended", "ms", ended),
    ]


@contextlib.contextmanager
def _libvirtd() -> Iterator[None]:
    """Run libvirt's daemon as a unit, so that it enters its own domain."""
    subprocess.run(["groupadd", "-rf", "libvirt-qemu"], check=True)
    nologin = ["-s", "/usr/sbin/nologin", "libvirt-qemu"]
    subprocess.run(["useradd", "-r", "-g", "libvirt-qemu", *nologin], check=False, stderr=subprocess.DEVNULL)
    for path in ("/etc/libvirt/qemu", "/var/log/libvirt/qemu", "/var/lib/libvirt/qemu"):
        os.makedirs(path, exist_ok=True)
    with open("/etc/libvirt/qemu.conf", "w", encoding="ascii") as file:
        file.write(LIBVIRT)
    subprocess.run(["restorecon", "-RF", "/etc/libvirt", "/var/log/libvirt", "/var/lib/libvirt"], check=True)
    unit = ["systemd-run", f"--unit={LIBVIRTD}", "-q", "/usr/sbin/libvirtd"]
    subprocess.run(unit, check=True)
    try:
        # virsh itself waits for the socket's answer; only the socket's file has to be there
        while subprocess.run(["virsh", "list"], check=False, capture_output=True).returncode:
            time.sleep(0.2)
        yield
    finally:
        subprocess.run(["systemctl", "stop", LIBVIRTD], check=False)


# ---- where it does not


def unconfined(folder: str, count: int, package: str) -> list[Group]:
    """Measure on a host without SELinux, with a copy of the package in `package` (the parent of confined_qemu)."""
    _, spec, arguments = _files(folder, "none", "tcg")
    command = write_program(
        os.path.join(folder, "confined-qemu"), ENTRY.format(flags="-I", folder=package, module="__main__")
    )
    link = write_program(
        os.path.join(folder, "qemu-system-x86_64"),
        ENTRY.format(flags="-IS", folder=package, module="cli.launchscript"),
    )
    run = [command, "run", spec, "--", "-S", "-qmp", "stdio"]
    starts = [Way("bare QEMU", [QEMU, *arguments])]
    for word in ("none", "landlock"):
        chosen = {"CONFINED_QEMU_CONFINEMENT": word}
        typed = [*run[:2], "--confinement", word, *run[2:]]
        starts.append(Way(f"a link to ours, `{word}`", [link, *arguments], chosen))
        starts.append(Way(f"`run`, `{word}`", typed, chosen))
    questions = [Way("bare QEMU, `-version`", [QEMU, "-version"])]
    questions.append(Way("a link to ours, `-version`", [link, "-version"]))
    _turns(count, [*((greet, way) for way in starts), *((ask, way) for way in questions)], lambda: None)
    where = "build machine"
    return [
        Group(f"{where}; to the greeting", "ms", [way.series() for way in starts]),
        Group(f"{where}; a question", "ms", [way.series() for way in questions]),
    ]


def main(argv: list[str]) -> int:
    """Measure and print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--package", help="measure this copy of the package, without SELinux")
    chosen = parser.parse_args(argv)
    if chosen.package is None:
        os.makedirs(IMAGES, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-", dir=IMAGES if chosen.package is None else None)
    try:
        groups = (
            confined(folder, chosen.count)
            if chosen.package is None
            else unconfined(folder, chosen.count, chosen.package)
        )
        print(json.dumps([group.to_json() for group in groups]))
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
