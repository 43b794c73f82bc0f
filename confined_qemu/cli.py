"""The verbs of `confined-qemu`: the one place that prints and that turns errors into exit codes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

from confined_qemu import __version__
from confined_qemu.errors import LAUNCHER_FAILED, ConfinedQemuError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Parser(argparse.ArgumentParser):
    """argparse with our exit code and one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


def say(text: str) -> None:
    """Print one line of a command's answer."""
    sys.stdout.write(text + "\n")


def complain(error: ConfinedQemuError) -> int:
    """Print each line of `error` on standard error and return its exit code."""
    for line in str(error).split("\n"):
        sys.stderr.write(f"confined-qemu: {line}\n")
    return error.exit_code


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code."""
    try:
        chosen = _parser().parse_args(arguments)
        code: int = chosen.action(chosen)
    except ConfinedQemuError as error:
        return complain(error)
    except KeyboardInterrupt:
        return LAUNCHER_FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="confined-qemu", description="Start QEMU confined by SELinux's sVirt, without libvirtd.")
    parser.add_argument("--version", action="version", version=f"confined-qemu {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    policy = verbs.add_parser("policy", help="install, inspect or remove the SELinux policy module")
    steps = policy.add_subparsers(dest="step", required=True, metavar="STEP", parser_class=_Parser)
    install = steps.add_parser("install", help="load the module, write the launch script and the state folder")
    install.add_argument("--no-load", action="store_true", help="write only; the kernel is not touched (image builds)")
    install.set_defaults(action=_policy_install)
    steps.add_parser("status", help="is it loaded, and what to run if not").set_defaults(action=_policy_status)
    steps.add_parser("remove", help="put back all labels and remove everything").set_defaults(action=_policy_remove)
    return parser


def _policy_install(chosen: argparse.Namespace) -> int:
    from confined_qemu.policy import install

    install.install(load=not chosen.no_load)
    say("the policy module is installed" + (", and not loaded" if chosen.no_load else ""))
    return 0


def _policy_status(_: argparse.Namespace) -> int:
    from confined_qemu import paths
    from confined_qemu.policy import install, module

    found = install.status()
    say(f"selinux: {found.mode}")
    say(f"module:  {f'version {found.loaded}' if found.loaded else 'not loaded'} (this package: version {module.VERSION})")
    say(f"script:  {paths.LAUNCH_SCRIPT if found.script else 'missing'} {found.script_label or ''}".rstrip())
    if found.advice is not None:
        say(found.advice)
    return 0 if found.advice is None else 1


def _policy_remove(_: argparse.Namespace) -> int:
    from confined_qemu.policy import install

    install.remove()
    say("the policy module is removed")
    return 0
