"""The `confined-qemu` command: hands launching over to the launch script, and does the rest itself."""

from __future__ import annotations

import os
import sys

from confined_qemu.cli.unconfined import LAUNCHED, keeps_context
from confined_qemu.model.paths import DENIALS_SCRIPT, LAUNCH_SCRIPT


def main() -> None:
    """Run the command line of this process; does not return."""
    # as the first look of host.emulator, which this way does not load
    if os.path.basename(sys.argv[0]).startswith(("qemu-system-", "qemu-kvm", "kvm")):
        _refuse_name()
    launched = len(sys.argv) > 1 and sys.argv[1] in LAUNCHED and os.access(LAUNCH_SCRIPT, os.X_OK)
    # what libvirt remembers is hidden from the launcher's domain
    libvirts = sys.argv[1:2] == ["recover"] and "--libvirt" in sys.argv
    if launched and not libvirts and not keeps_context(sys.argv[1:]):
        from confined_qemu.host.inherited import initial

        os.execve(LAUNCH_SCRIPT, [LAUNCH_SCRIPT, *sys.argv[1:]], initial())
    if sys.argv[1:2] == ["denials"] and os.access(DENIALS_SCRIPT, os.X_OK):
        os.execv(DENIALS_SCRIPT, [DENIALS_SCRIPT, *sys.argv[2:]])
    sys.exit(serve(sys.argv[1:]))


def serve(arguments: list[str]) -> int:
    """Do what a command line asks for in this process, and return the exit code."""
    if arguments[:1] and arguments[0] in LAUNCHED:
        from confined_qemu.cli import launchscript

        return launchscript.serve(arguments)
    from confined_qemu.cli import command

    return command.main(arguments)


def _refuse_name() -> None:
    """End where an emulator's name leads to this command: QEMU's arguments are none of its own."""
    from confined_qemu.cli.output import guarded
    from confined_qemu.host import emulator
    from confined_qemu.model.errors import UsageError

    if emulator.is_name(os.path.basename(sys.argv[0])):

        def refuse() -> int:
            raise UsageError(
                "a link of an emulator's name must lead to the launch script, and this one leads to confined-qemu",
                where=sys.argv[0],
                hint="use: confined-qemu install-shim",
            )

        sys.exit(guarded(refuse))


if __name__ == "__main__":
    main()
