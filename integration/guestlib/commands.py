"""The command line of integration/guest."""

import argparse
import signal
import sys
from collections.abc import Callable

from integration.guestlib import layers, machine, remote
from integration.guestlib.report import GuestError

DESCRIPTION = "An SELinux-enforcing Debian guest: boot it, run commands in it, end it."


def main(argv: list[str]) -> int:
    """Run one command; the result is its exit code."""
    # A killed build cleans up like a failed one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _parser().parse_args(argv)
    action: Callable[[argparse.Namespace], int] = options.action
    try:
        return action(options)
    except GuestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="integration/guest", description=DESCRIPTION)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, action: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=words, description=words)
        made.set_defaults(action=action)
        made.add_argument("--name", default="default", help="which guest, where several run (default: %(default)s)")
        return made

    def boots(made: argparse.ArgumentParser) -> None:
        which = made.add_mutually_exclusive_group()
        which.add_argument("--policy", default="default", choices=layers.POLICIES, help="the policy it enforces")
        which.add_argument(
            "--xen", dest="policy", action="store_const", const="xen", help="Xen with XSM/Flask: the guest is its dom0"
        )
        made.add_argument("--cold", action="store_true", help="boot, even where the state of a boot is saved")

    def runs(made: argparse.ArgumentParser) -> None:
        made.add_argument("-t", dest="terminal", action="store_true", help="give the command a terminal")
        made.add_argument("--timeout", type=float, metavar="S", help="cut it off after S seconds, exit code 124")
        made.add_argument("command", nargs="+", metavar="CMD", help="after --: the command and its arguments")

    boots(verb("build", _build, "build the guest's disk if it is not in the cache, and print its folder"))
    boots(verb("up", _up, "boot the guest in the background unless it runs"))
    runs(verb("exec", _exec, "run a command in the running guest; the exit code is the command's"))
    made = verb("run", _run, "up, exec and down in one (a guest that ran before stays)")
    boots(made)
    made.add_argument("--files", action="append", default=[], metavar="SRC", help="put into /root first; repeatable")
    made.add_argument("--install", action="store_true", help="install the checkout as it is now first")
    runs(made)
    for name, action, words in (("put", _put, "copy into a folder of the guest"), ("get", _get, "copy out of it")):
        made = verb(name, action, words)
        made.add_argument("sources", nargs="+", metavar="SRC")
        made.add_argument("folder", metavar="DST")
    boots(verb("install", _install, "install the checkout as it is now into the guest"))
    verb("down", _down, "end the guest and forget what it wrote")
    verb("console", _console, "print what the guest's serial console said")
    return parser


def _build(options: argparse.Namespace) -> int:
    print(layers.guest(layers.policy_named(options.policy)).folder)
    return 0


def _up(options: argparse.Namespace) -> int:
    machine.up(options.name, options.policy, cold=options.cold)
    return 0


def _exec(options: argparse.Namespace) -> int:
    guest = machine.running(options.name)
    return remote.run(guest, options.command, terminal=options.terminal, timeout=options.timeout)


def _run(options: argparse.Namespace) -> int:
    found = machine.find(options.name)
    ours = found is None or not found.alive()
    guest = machine.up(options.name, options.policy, cold=options.cold)
    try:
        if options.install:
            remote.install(guest)
        if options.files:
            remote.put(guest, options.files, "/root")
        return remote.run(guest, options.command, terminal=options.terminal, timeout=options.timeout)
    finally:
        if ours:
            machine.down(options.name)


def _put(options: argparse.Namespace) -> int:
    remote.put(machine.running(options.name), options.sources, options.folder)
    return 0


def _get(options: argparse.Namespace) -> int:
    remote.get(machine.running(options.name), options.sources, options.folder)
    return 0


def _install(options: argparse.Namespace) -> int:
    remote.install(machine.running(options.name))
    return 0


def _down(options: argparse.Namespace) -> int:
    if not machine.down(options.name):
        print(f"no guest {options.name} was running", file=sys.stderr)
    return 0


def _console(options: argparse.Namespace) -> int:
    path = machine.file_of(options.name, "console.log")
    try:
        with open(path, "rb") as file:
            sys.stdout.buffer.write(file.read())
    except FileNotFoundError as error:
        raise GuestError(f"guest {options.name} has not booted yet") from error
    return 0
