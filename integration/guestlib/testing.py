"""The command line of integration/test: the pure tests, those of this machine, and the suite in an enforcing guest."""

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from integration.guestlib import clientdisk, demo, image, layers, machine, programs, qemumachine, remote
from integration.guestlib.report import GuestError, progress

DESCRIPTION = (
    "Runs every test: tests/ (pure, with the linters), integration/buildhost (the command on this machine), and "
    "integration/suite inside an SELinux-enforcing guest. A skipped test counts as failed."
)
SUITE = "integration/suite"
XEN_SUITE = "integration/suite_xen"
CORES = 2
"""How many guests run at once: a guest has one CPU, and each takes a core."""


@dataclass(frozen=True)
class Part:
    """A part of the suite: the guest that it runs in, and its files, in a folder of the suite.

    `files` empty: all that the folder has and no other part of it names.
    """

    name: str
    policy: str
    folder: str = SUITE
    files: frozenset[str] = frozenset()
    library: bool = False
    """It needs QEMU's Python library, which is fetched then."""
    disk: bool = False
    """Its guest is lent the disk with what clients need."""
    also: frozenset[str] = frozenset()
    """Files of the suite's own folder that it runs besides."""
    other_policy: bool = False
    """Its files are in other parts, too: here they run under another policy."""

    def paths(self) -> list[str]:
        """Return the files, as the checkout has them."""
        found = os.listdir(os.path.join(programs.checkout(), self.folder))
        others = {file for part in PARTS if part.folder == self.folder and not part.other_policy for file in part.files}
        mine = self.files or {name for name in found if name.startswith("test_")} - others
        return [f"{self.folder}/{file}" for file in sorted(mine)] + [f"{SUITE}/{file}" for file in sorted(self.also)]


ANY_PART = Part("", "default", library=True)
"""What a guest is filled for by hand."""
FEDORA = frozenset(
    {"test_binding.py", "test_dynamic.py", "test_hotplug.py", "test_launch.py", "test_noise.py", "test_stdio.py"}
)
"""What each run repeats under Fedora's policy; `--policy fedora` runs the whole suite there."""
PARTS = (
    # the longest first
    Part("suite-xen", "xen", XEN_SUITE),
    Part("suite-1", "default"),
    Part("suite-2", "default", files=frozenset({"test_dropin.py", "test_stdio.py"})),
    Part(
        "suite-3",
        "default",
        files=frozenset({"test_faults.py", "test_hotplug.py", "test_listeners.py", "test_shares.py"}),
    ),
    Part("suite-4", "default", files=frozenset({"test_openings.py", "test_shim.py"})),
    Part("suite-5", "default", files=frozenset({"test_denials.py", "test_helpers.py", "test_libvirt.py"})),
    Part(
        "suite-6",
        "default",
        files=frozenset({"test_adopt.py", "test_chains.py", "test_devices.py", "test_files.py", "test_filesystems.py"}),
    ),
    Part(
        "suite-clients",
        "default",
        files=frozenset({"test_machine.py", "test_noise.py", "test_observer.py", "test_shell_script.py"}),
        library=True,
    ),
    Part(
        "suite-7",
        "default",
        files=frozenset(
            {"test_demo.py", "test_dynamic.py", "test_groups.py", "test_hardening.py", "test_isolation.py"}
        ),
    ),
    Part(
        "suite-8",
        "default",
        files=frozenset({"test_hostile.py", "test_seclabel.py", "test_shared.py", "test_static.py"}),
    ),
    Part("suite-beds", "default", files=frozenset({"test_autopkgtest.py", "test_guestfish.py"}), disk=True),
    Part("suite-mls", "mls", f"{SUITE}/mls", also=frozenset({"test_noise.py"})),
    Part("suite-fedora", "fedora", files=FEDORA, other_policy=True),
    Part(
        "suite-xen-stock",
        "xen-stock",
        XEN_SUITE,
        files=frozenset({"test_stock.py", "test_zz_xenstored.py"}),
    ),
)
"""The guests, in the order in which they start; the next one when one of them is done."""
TREE = "/root/cq"
SILENCE_LIMIT = 480.0
"""Seconds without a word of the suite after which the guest is taken for hung."""
SUITE_LIMIT = 1500.0
ATTEMPTS = 2
CONSOLE_TAIL = 30
PLUGIN = ["-p", "integration.guestlib.counting", "-p", "no:cacheprovider"]
ALL_CORES = ["-n", "logical"]
"""pytest-xdist's; the other tests of this machine use what there is one of, and run one by one."""
NOTHING_SELECTED = 5  # pytest's exit code, expected of some parts with -k
FAILED_TO_RUN = 125


class HungError(GuestError):
    """The guest went silent; another one may do better."""


@dataclass(frozen=True)
class Counts:
    """How many tests ended how; a part that could not run to its end has a failure more."""

    passed: int = 0
    skipped: int = 0
    failed: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Return both together."""
        return Counts(self.passed + other.passed, self.skipped + other.skipped, self.failed + other.failed)


def main(argv: list[str]) -> int:
    """Run the tests; 0 if all passed."""
    parser = argparse.ArgumentParser(prog="integration/test", description=DESCRIPTION)
    parser.add_argument("-k", metavar="EXPR", help="only tests that match, as pytest's -k")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--host-only", action="store_true", help="without the guest")
    which.add_argument("--guest-only", action="store_true", help="only the guest")
    which.add_argument(
        "--policy",
        choices=layers.POLICIES,
        help="only the guests: the whole suite under this policy",
    )
    options = parser.parse_args(argv)
    try:
        found = _run(options)
    except GuestError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED_TO_RUN
    except KeyboardInterrupt:
        return 130
    if found.skipped:
        print(f"{found.skipped} skipped: each counts as failed")
    failed = found.failed + found.skipped
    print(f"{found.passed} passed, {failed} failed", flush=True)
    return 1 if failed or not found.passed else 0


def _run(options: argparse.Namespace) -> Counts:
    if subprocess.run([demo.SETUP], check=False).returncode:
        raise GuestError("integration/setup.sh failed; the reason is above")
    selection = [] if options.k is None else ["-k", options.k]
    if options.host_only:
        return _host_parts(selection)
    parts = PARTS if options.policy is None else under(options.policy)
    _down()
    # Built, or resumed, while the host's tests run.
    starting = _start_guest(parts[0])
    try:
        found = Counts() if options.guest_only or options.policy else _host_parts(selection)
        if starting.wait():
            raise GuestError(f"guest {parts[0].name} did not start; the reason is above")
        return found + _guest_parts(parts, selection)
    finally:
        starting.terminate()
        starting.wait()
        _down()


def _down() -> None:
    for part in PARTS:
        machine.down(part.name)


def under(policy: str) -> tuple[Part, ...]:
    """Return the parts that make the whole suite under a policy."""
    if policy not in ("default", "fedora"):
        return tuple(part for part in PARTS if part.policy == policy)
    return tuple(replace(part, policy=policy) for part in PARTS if part.policy == "default")


def _start_guest(part: Part) -> "subprocess.Popen[bytes]":
    here = os.path.join(programs.checkout(), "integration")
    script = '"$0/linux-image" >/dev/null && exec "$0/guest" up --name "$1" --policy "$2"'
    return subprocess.Popen(["sh", "-c", script, here, part.name, part.policy], stdin=subprocess.DEVNULL)


# ---- the host's parts


def _host_parts(selection: list[str]) -> Counts:
    return _host("tests", [*ALL_CORES, *selection]) + _host("integration/buildhost", selection)


def _host(folder: str, selection: list[str]) -> Counts:
    progress(f"running {folder} on this machine")
    with tempfile.TemporaryDirectory() as scratch:
        counts = os.path.join(scratch, "counts")
        done = subprocess.run(
            [programs.tool_python(), "-B", "-m", "pytest", *PLUGIN, "-q", "--tb=short", folder, *selection],
            cwd=programs.checkout(), env={**os.environ, "CONFINED_QEMU_COUNTS": counts, "PYTHONPATH": "."}, check=False,
        )  # fmt: skip
        try:
            with open(counts, encoding="ascii") as file:
                text = file.read()
        except FileNotFoundError:
            text = ""
    return _counted(text, done.returncode)


def _counted(text: str, code: int) -> Counts:
    """Return the counts that the plugin wrote; pytest's own failure counts too."""
    found = Counts(**json.loads(text)) if text else Counts()
    if code in (0, NOTHING_SELECTED) or found.failed:
        return found
    return found + Counts(failed=1)


# ---- the guests' parts


def _guest_parts(parts: tuple[Part, ...], selection: list[str]) -> Counts:
    with ThreadPoolExecutor(CORES) as pool:
        found = list(pool.map(lambda part: _guest_part(part, selection), parts))
    return sum(found, Counts())


def _guest_part(part: Part, selection: list[str]) -> Counts:
    """Run one part of the suite in its guest, and end the guest: its core is the next one's."""
    name = part.name
    for attempt in range(ATTEMPTS):
        guest = machine.up(name, part.policy, cold=attempt > 0)
        if guest.retries:
            progress(f"guest {name} needed {guest.retries} retries to start")
        try:
            fill(guest, part)
            if part.disk:
                clientdisk.lend(guest)
            found = _suite(guest, [*selection, *part.paths()])
        except HungError as error:
            _print_console(name)
            machine.down(name)
            if attempt + 1 == ATTEMPTS:
                raise
            print(f"{error}; a new guest, retry {attempt + 1} of {ATTEMPTS - 1}", flush=True)
            continue
        machine.down(name)
        return found
    raise AssertionError


def fill(guest: machine.Running, part: Part = ANY_PART) -> None:
    """Install the checkout into the guest, and the suite beside it with what the part needs."""
    progress("installing the checkout into the guest")
    remote.install(guest)
    checkout = programs.checkout()
    suites = [os.path.join(checkout, folder) for folder in (SUITE, XEN_SUITE)]
    remote.put(guest, suites, f"{TREE}/integration")
    shared = [
        os.path.join(checkout, "integration", "guestlib", name)
        for name in ("counting.py", "faults.py", "places.py", "strikes.py")
    ]
    remote.put(guest, [*shared, *demo.SCENE], f"{TREE}/integration/guestlib")
    if part.folder == XEN_SUITE:
        return  # its domains are made in dom0
    remote.put(guest, [os.path.join(checkout, "README.md")], TREE)
    remote.put(guest, [image.image(), demo.SPEC], f"{TREE}/images")
    if part.library:
        remote.put(guest, [qemumachine.tree()], "/opt")


def _suite(guest: machine.Running, arguments: list[str]) -> Counts:
    progress(f"running its part of the suite in guest {guest.name}")
    counts = f"{TREE}/counts"
    words = ["cd", TREE, "&&", "env", "PYTHONPATH=.", "PYTHONUNBUFFERED=1", f"CONFINED_QEMU_COUNTS={counts}"]
    pytest = ["python3", "-B", "-m", "pytest", "--import-mode=importlib", *PLUGIN, "-v", "-ra", "--tb=short"]
    quoted = [f"'{word}'" for word in arguments]
    code = _streamed(guest.name, [*guest.ssh("-T"), " ".join([*words, *pytest, *quoted])])
    return _counted(remote.output(guest, "sh", "-c", f"cat {counts} 2>/dev/null || :"), code)


def _streamed(guest: str, command: list[str]) -> int:
    """Run a command, print its output line by line as it comes, with the guest's name, and return its exit code.

    Raises:
        HungError: it said nothing for SILENCE_LIMIT, or ran for SUITE_LIMIT.
    """
    end = time.monotonic() + SUITE_LIMIT
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        rest = b""
        while True:
            left = min(SILENCE_LIMIT, end - time.monotonic())
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                process.kill()
                reason = f"said nothing for {SILENCE_LIMIT:.0f} s" if left > 0 else f"took {SUITE_LIMIT:.0f} s"
                raise HungError(f"the suite in guest {guest} {reason}")
            data = os.read(process.stdout.fileno(), 65536)
            *lines, rest = (rest + data).split(b"\n") if data or not rest else (rest, b"")
            sys.stdout.buffer.write(b"".join(guest.encode() + b": " + line + b"\n" for line in lines))
            sys.stdout.flush()
            if not data:
                return process.wait()


def _print_console(guest: str) -> None:
    with open(machine.file_of(guest, "console.log"), encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()[-CONSOLE_TAIL:]
    print(f"the last lines of guest {guest}'s console:", *lines, sep="\n  ")
