"""The command line of integration/bench."""

import argparse
import os
import sys

from integration.guestlib import demo, machine, programs, readme, remote
from integration.guestlib.report import GuestError, progress

DESCRIPTION = (
    "Times QEMU's start, from the command to its first QMP greeting: bare, by hand, and by confined-qemu, in turns, in "
    "the enforcing guest and on this machine. Prints tables; asserts nothing."
)
GUEST = "bench"
TREE = "/root/bench"
MODULE = "integration.guestlib.timing"


def main(argv: list[str]) -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="integration/bench", description=DESCRIPTION)
    parser.add_argument("-n", "--count", type=int, default=5, help="rounds (default: %(default)s, after a first one)")
    parser.add_argument("--readme", action="store_true", help="write the tables into the help topic `performance`, too")
    options = parser.parse_args(argv)
    try:
        demo.setup()
        tables = f"{_guest(options.count)}\n\n{_here(options.count)}"
        print(tables)
        if options.readme:
            readme.renew(f"{readme.HELP}/performance.md", "bench", tables)
    except GuestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments(count: int, where: str) -> list[str]:
    return ["-B", "-m", MODULE, "--count", str(count), "--where", where]


def _guest(count: int) -> str:
    guest = machine.up(GUEST, "default")
    try:
        remote.install(guest)
        path = os.path.join(programs.checkout(), *MODULE.split(".")) + ".py"
        remote.put(guest, [path], os.path.join(TREE, *MODULE.split(".")[:-1]))
        progress(f"measuring in the guest, {count} rounds")
        where = "in the guest: enforcing, nested KVM"
        return remote.output(guest, "env", "-C", TREE, "python3", *_arguments(count, where)).strip()
    finally:
        machine.down(GUEST)


def _here(count: int) -> str:
    progress(f"measuring here, {count} rounds")
    checkout = programs.checkout()
    command = ["env", "-C", checkout, "/usr/bin/python3", *_arguments(count, "on this machine: no SELinux, TCG")]
    return programs.run([*command, "--checkout", checkout], env=os.environ).strip()
