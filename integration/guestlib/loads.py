"""Measures what a launch costs where there is much of something: VMs, pairs, layers, files; and what stays beside a VM.

Stands alone: runs in the guest with the product installed, and the part that needs no SELinux on the machine that
builds; `python3 -m integration.guestlib.loads --help`.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from integration.guestlib.series import Group, Series
from integration.guestlib.timing import IMAGES, LAUNCH, QEMU, QUIT, UNUSED, XATTR, write_program

EMULATOR = b"system_u:object_r:qemu_exec_t:s0"
PAIRS = 1024 * 1023 // 2
DESCRIPTORS_BESIDE = 64
"""What a process has open beside what it holds pairs by."""
DESCRIPTORS_OF_A_PAIR = 2
REGISTRY_FILES = 16
"""As `policy install` makes them."""
KVM = ("-accel", "kvm")
"""TCG, which QEMU takes by itself, is denied to VMs where the policy has not turned it on."""
RESERVERS = 8
DRAWS = 20
WALLS = 60
"""Rounds of what takes milliseconds."""
# In the launcher's domain, as nothing else may start a process in svirt_t: NUMBER processes, each at a pair of its own.
CROWD = """#!/usr/bin/python3 -IS
import os, sys
count, program = int(sys.argv[1]), sys.argv[2]
for number in range(count):
    with open("/proc/thread-self/attr/exec", "w") as file:
        file.write(f"system_u:system_r:svirt_t:s0:c{number % 500},c{500 + number % 499}")
    os.posix_spawn(program, [program, "infinity"], {})
"""
# A process that holds pairs of the registry, each by descriptions of its own, as as many launches would.
HOLDER = """
import os, resource, sys
sys.path.insert(0, {folder!r})
from confined_qemu.host import locks
from confined_qemu.launch import pairs
from confined_qemu.model.mcs import Window
path, first, last, step = sys.argv[1], *map(int, sys.argv[2:])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
window = Window.of(None)
for number in range(first, last):
    byte = pairs.byte_of(window.pair(number * step))
    assert locks.take(pairs.Registry(path).file(byte), locks.EXCLUSIVE, byte, 1)
print("held", flush=True)
sys.stdin.read()
"""
RESERVER = """
import os, sys, time
sys.path.insert(0, {folder!r})
from confined_qemu.launch import pairs, session
from confined_qemu.model.mcs import Window
for _ in range(int(sys.argv[2])):
    registry = pairs.Registry(sys.argv[1])
    began = time.perf_counter()
    pairs.reserve(registry, Window.of(None), (), {choose})
    print((time.perf_counter() - began) * 1000)
    registry.close()
"""
CHOOSE = "lambda count: int.from_bytes(os.urandom(8), 'little') % count"

WALL = """
import json, os, sys, threading, time
sys.path.insert(0, {folder!r})
from confined_qemu.host import survey
from confined_qemu.launch import collect, inputs, walls
from confined_qemu.model.lean import replace
from confined_qemu.model.policy import NO_POLICY
from confined_qemu.plan.planner import plan
words = ["-accel", "tcg", "-drive", "if=none,format=raw,file=" + sys.argv[1]]
wanted = inputs.from_arguments(sys.argv[2], words, confinement="landlock")
caller = collect.Caller(dict(os.environb), (), "")
found = collect.collect(wanted, caller, survey.selinux(scan=False))
times = []
def lay_on(planned, ruleset, laid):
    began = time.perf_counter()
    walls.hold(planned, ruleset)
    laid.append(time.perf_counter() - began)
for _ in range(int(sys.argv[3])):
    began = time.perf_counter()
    facts = survey.landlock_for(survey.landlock_of_kernel(), found, caller.environment)
    looked = time.perf_counter()
    made = plan(wanted, replace(found, landlock=facts), NO_POLICY)
    planned = time.perf_counter()
    ruleset = walls.prepared(made)
    prepared = time.perf_counter()
    laid = []
    # Landlock holds the thread that asks for it, and this one goes on
    thread = threading.Thread(target=lay_on, args=(made.landlock, ruleset, laid))
    thread.start()
    thread.join()
    os.close(ruleset)
    times.append([1000 * one for one in (looked - began, planned - looked, prepared - planned, *laid)])
print(json.dumps(times))
"""


# ---- anywhere


def wall(folder: str, package: str) -> Group:
    """Time what Landlock adds to a start, in a process that has what it needs loaded."""
    image = os.path.join(folder, "wall.img")
    with open(image, "wb") as file:
        file.truncate(1 << 20)
    command = [sys.executable, "-IS", "-c", WALL.format(folder=package), image, QEMU, str(WALLS)]
    rounds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    names = ("QEMU's installation is found", "the plan is made", "the rules are made", "they are laid on")
    found = [Series("all of it", [sum(one) for one in rounds])]
    found += [Series(name, list(values)) for name, values in zip(names, zip(*rounds, strict=True), strict=True)]
    return Group("what Landlock adds to a start", "ms", found)


def pairs(folder: str, package: str, most: int) -> Group:
    """Time a pair from the registry, by eight processes at once, with none and with many pairs taken."""
    found = []
    for held in (0, most):
        path = os.path.join(folder, f"pairs-{held}")
        for number in range(REGISTRY_FILES):
            with open(f"{path}.{number}" if number else path, "wb"):
                pass
        with _holding(path, held, package):
            command = [sys.executable, "-IS", "-c", RESERVER.format(folder=package, choose=CHOOSE), path, str(DRAWS)]
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(RESERVERS)]
            texts = [process.communicate()[0] for process in running]
            if any(process.returncode for process in running):
                raise SystemExit("error: a pair could not be had")
        found.append(Series(f"{held} pairs taken", [float(line) for text in texts for line in text.split()]))
    return Group(f"a category pair, {RESERVERS} processes at once", "ms", found)


@contextlib.contextmanager
def _holding(path: str, count: int, package: str) -> Iterator[None]:
    """Hold every fifth pair or so, in as many processes as the limit of open files asks for."""
    each = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - DESCRIPTORS_BESIDE) // DESCRIPTORS_OF_A_PAIR
    with contextlib.ExitStack() as held:
        for first in range(0, count, each):
            words = [path, str(first), str(min(first + each, count)), str(PAIRS // count)]
            command = [sys.executable, "-IS", "-c", HOLDER.format(folder=package), *words]
            holder = held.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert holder.stdin is not None
            assert holder.stdout is not None
            held.callback(holder.stdin.close)
            if holder.stdout.readline().strip() != "held":
                raise SystemExit("error: the pairs could not be taken")
        yield


# ---- where SELinux enforces


def beside(folder: str, seconds: int) -> list[Group]:
    """Measure what stays beside a VM while it runs: private memory, and system calls in some seconds."""
    image = _image(folder, "beside.img")
    before = _companions()
    command = [_link(folder), *KVM, "-display", "none", "-machine", "none", "-S", "-qmp", "stdio"]
    command += ["-drive", f"if=none,format=raw,file={image}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if b'"QMP"' not in process.stdout.readline():
            raise SystemExit("error: no greeting")
        ours = sorted(_companions() - before)
        memory = sum(_private(pid) for pid in ours) / 1024
        calls = _calls(ours, seconds)
        process.communicate(QUIT)
    return [
        Group("beside a VM: private memory", "MB", [Series(f"{len(ours)} process", [memory])]),
        Group(f"beside a VM: system calls in {seconds} s", "", [Series("strace", [float(calls)])]),
    ]


def _companions() -> set[int]:
    """Return the pids of our programs beside VMs."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if b"/launch/companions/" in file.read():
                    found.add(int(name))
    return found


def _private(pid: int) -> int:
    """Return the private memory of a process, in KiB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def _calls(pids: Sequence[int], seconds: int) -> int:
    """Return how many system calls they begin in some seconds."""
    with tempfile.NamedTemporaryFile() as trace:
        attach = [word for pid in pids for word in ("-p", str(pid))]
        # the end of the time is what is waited for here: nothing must happen in it
        subprocess.run(["timeout", str(seconds), "strace", "-qqfo", trace.name, *attach], check=False)
        with open(trace.name, encoding="utf-8", errors="replace") as file:
            return sum("detached" not in line and "<unfinished" not in line for line in file)


def crowd(folder: str, live: int, count: int) -> Group:
    """Time launches with many processes in svirt_t beside them, in turns with none."""
    program, helper = os.path.join(folder, "stand-in"), write_program(os.path.join(folder, "crowd"), CROWD)
    shutil.copy("/usr/bin/sleep", program)
    os.setxattr(program, XATTR, EMULATOR)
    os.setxattr(helper, XATTR, b"system_u:object_r:confined_qemu_exec_t:s0")
    command = [*_stand_in(folder), "-drive", f"if=none,format=raw,file={_image(folder, 'crowd.img')}"]
    alone, among = Series("no other VM"), Series(f"{live} processes in svirt_t")
    _launched(command)
    for _ in range(count):
        alone.values.append(_launched(command))
        subprocess.run([helper, str(live), program], check=True)
        try:
            among.values.append(_launched(command))
        finally:
            subprocess.run(["pkill", "-x", "-KILL", "stand-in"], check=True)
    return Group("a launch among VMs", "ms", [alone, among])


def chains(folder: str, count: int) -> Group:
    """Time launches with a backing chain of 1, 10 and 50 layers."""
    below, found = _image(folder, "layer-0.img"), []
    for layer in range(1, 51):
        path = os.path.join(folder, f"layer-{layer}.qcow2")
        form = "raw" if layer == 1 else "qcow2"
        subprocess.run(["qemu-img", "create", "-qf", "qcow2", "-b", below, "-F", form, path], check=True)
        os.setxattr(path, XATTR, UNUSED)
        below = path
        if layer in (1, 10, 50):
            command = [*_stand_in(folder), "-drive", f"if=none,format=qcow2,file={path}"]
            found.append(Series(f"{layer} layers", [_launched(command) for _ in range(count)]))
    return Group("a backing chain", "ms", found)


def files(folder: str, count: int) -> Group:
    """Time launches with 1, 100 and 1,000 disks."""
    found, words, made = [], [], 0
    for number in (1, 100, 1000):
        for index in range(made, number):
            words += ["-drive", f"if=none,id=d{index},format=raw,file={_image(folder, f'disk-{index}.img')}"]
        made = number
        took = [_launched([*_stand_in(folder), *words]) for _ in range(count)]
        found.append(Series(f"{number} disks", took))
    return Group("files of one VM", "ms", found)


def _launched(command: list[str]) -> float:
    """Run a launch of a stand-in to the end of its labels; return the ms that the launch took."""
    began = time.monotonic()
    subprocess.run(command, check=True)
    took = (time.monotonic() - began) * 1000
    subprocess.run(["confined-qemu", "settle"], check=True)
    return took


def _stand_in(folder: str) -> list[str]:
    """Return the words that launch, in QEMU's place, a program that ends at once."""
    program = os.path.join(folder, "bin", "qemu-system-x86_64")
    if not os.path.exists(program):
        os.mkdir(os.path.dirname(program))
        shutil.copy("/usr/bin/true", program)
        os.setxattr(program, XATTR, EMULATOR)
    return [LAUNCH, "exec", "--emulator", program, "--", *KVM]


def peak(folder: str) -> Group:
    """Return the peak memory of a launch, up to the exec of a program that needs next to none."""
    command = [*_stand_in(folder), "-drive", f"if=none,format=raw,file={_image(folder, 'peak.img')}"]
    subprocess.run(command, check=True)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Group("peak memory of a launch", "MB", [Series("the launcher", [most])])


def _image(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    os.setxattr(path, XATTR, UNUSED)
    return path


def _link(folder: str) -> str:
    link = os.path.join(folder, os.path.basename(QEMU))
    if not os.path.lexists(link):
        os.symlink(LAUNCH, link)
    return link


def main(argv: list[str]) -> int:
    """Measure and print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3, help="rounds of each launch")
    parser.add_argument("--live", type=int, default=500, help="processes in svirt_t beside a launch")
    parser.add_argument("--pairs", type=int, default=100_000, help="pairs that are taken when others are asked for")
    parser.add_argument("--seconds", type=int, default=60, help="how long wake-ups are looked for")
    parser.add_argument("--package", help="only what needs no SELinux, with this copy of the package")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=None if chosen.package else IMAGES) as folder:
        if chosen.package:
            groups = [wall(folder, chosen.package), pairs(folder, chosen.package, chosen.pairs)]
        else:
            groups = [
                peak(folder),  # first: the most of all children so far is what it reads
                *beside(folder, chosen.seconds),
                crowd(folder, chosen.live, chosen.count),
                chains(folder, chosen.count),
                files(folder, chosen.count),
            ]
    print(json.dumps([group.to_json() for group in groups]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
