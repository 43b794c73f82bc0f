"""Times the start of QEMU, from the command to its first QMP greeting, several ways side by side.

Stands alone: runs in the guest and on the machine that builds, `python3 -m integration.guestlib.timing --help`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

QEMU = "/usr/bin/qemu-system-x86_64"
LAUNCH = "/usr/local/libexec/confined-qemu/launch"
IMAGES = "/var/lib/libvirt/images"
UNUSED = b"system_u:object_r:virt_image_t:s0"
XATTR = "security.selinux"
SIZE = 16 << 20
QUIT = b'{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n'
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
# Without SELinux, and without what `policy install` writes: the same entry points, from a checkout.
ENTRY = """#!/usr/bin/python3 {flags}
import sys
sys.path += ["/usr/lib/python3/dist-packages", {checkout!r}]
from confined_qemu.{module} import main
main()
"""


@dataclass
class Way:
    """One way to start the same VM, and the seconds that its starts took."""

    name: str
    command: list[str]
    seconds: list[float] = field(default_factory=list)


def sample(way: Way) -> None:
    """Start once, take the time, end it."""
    began = time.monotonic()
    with subprocess.Popen(
        way.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        way.seconds.append(time.monotonic() - began)
        if b'"QMP"' not in greeting:
            raise SystemExit(f"error: {way.name}: no greeting: {process.communicate()[1].decode().strip()}")
        _, errors = process.communicate(QUIT)
    if process.returncode:
        raise SystemExit(f"error: {way.name}: exit code {process.returncode}: {errors.decode().strip()}")


def table(ways: list[Way], where: str) -> str:
    """Return the times as a markdown table; ratios are of medians, to the first way."""
    lines = [f"| {where} | min | median | max | ratio |", "|---|---|---|---|---|"]
    first = statistics.median(ways[0].seconds)
    for way in ways:
        middle = statistics.median(way.seconds)
        times = " | ".join(f"{value * 1000:.0f} ms" for value in (min(way.seconds), middle, max(way.seconds)))
        lines.append(f"| {way.name} | {times} | {middle / first:.2f} |")
    return "\n".join(lines)


def _files(folder: str, confinement: str, accel: str) -> tuple[str, str, list[str]]:
    """Write image and spec; return both and QEMU's arguments for the same VM."""
    image, spec = os.path.join(folder, "bench.img"), os.path.join(folder, "bench.yaml")
    with open(image, "wb") as file:
        file.truncate(SIZE)
    disk = {"file": image, "format": "raw", "bus": "ide"}
    vm = {"name": "bench", "accel": accel, "memory": "128M", "disks": [disk], "serial": "null", "display": "none"}
    with open(spec, "w", encoding="ascii") as file:
        json.dump({**vm, "network": "none", "confinement": confinement}, file)
    drive = f"file={image},format=raw,if=ide"
    machine = ["-no-user-config", "-nodefaults", "-machine", "pc", "-accel", accel, "-m", "128M", "-vga", "std"]
    return image, spec, [*machine, "-display", "none", "-drive", drive, "-S", "-qmp", "stdio"]


def _confined(folder: str) -> list[Way]:
    """Return the ways of a host that enforces."""
    image, spec, arguments = _files(folder, "selinux", "kvm")
    subprocess.run(["restorecon", "-RF", IMAGES], check=True)
    helper, link = os.path.join(folder, "by-hand"), os.path.join(folder, "qemu-system-x86_64")
    with open(helper, "w", encoding="ascii") as file:
        file.write(BY_HAND)
        os.fchmod(file.fileno(), 0o755)
    os.setxattr(helper, XATTR, b"system_u:object_r:confined_qemu_exec_t:s0")
    os.symlink(LAUNCH, link)
    return [
        Way("bare `qemu-system-x86_64`", [QEMU, *arguments]),
        Way("by hand: label, exec context, exec", [helper, image, "s0:c1,c2", QEMU, *arguments]),
        Way("`confined-qemu run`", ["confined-qemu", "run", spec, "--", "-S", "-qmp", "stdio"]),
        Way("`qemu-system-x86_64`, a link to ours", [link, *arguments]),
    ]


def _unconfined(folder: str, checkout: str) -> list[Way]:
    """Return the ways of a host without SELinux."""
    _, spec, arguments = _files(folder, "none", "tcg")
    paths = []
    for name, flags, module in (
        ("confined-qemu", "-B", "__main__"),
        ("qemu-system-x86_64", "-IBS", "cli.launchscript"),
    ):
        paths.append(os.path.join(folder, name))
        with open(paths[-1], "w", encoding="utf-8") as file:
            file.write(ENTRY.format(flags=flags, checkout=checkout, module=module))
            os.fchmod(file.fileno(), 0o755)
    os.environ["CONFINED_QEMU_CONFINEMENT"] = "none"
    return [
        Way("bare `qemu-system-x86_64`", [QEMU, *arguments]),
        Way("`confined-qemu run`, `confinement: none`", [paths[0], "run", spec, "--", "-S", "-qmp", "stdio"]),
        Way("`qemu-system-x86_64`, a link to ours, the same", [paths[1], *arguments]),
    ]


def main(argv: list[str]) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--where", default="", help="the table's first heading")
    parser.add_argument("--checkout", help="measure this checkout without SELinux")
    chosen = parser.parse_args(argv)
    confined = chosen.checkout is None
    if confined:
        os.makedirs(IMAGES, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-", dir=IMAGES if confined else None)
    try:
        ways = _confined(folder) if confined else _unconfined(folder, chosen.checkout)
        for turn in range(chosen.count + 1):
            for way in ways:
                sample(way)
                if confined:
                    os.setxattr(os.path.join(folder, "bench.img"), XATTR, UNUSED)
                if turn == 0:  # the first one fills the caches
                    way.seconds.clear()
        print(table(ways, chosen.where))
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
