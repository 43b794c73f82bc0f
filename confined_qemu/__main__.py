"""The `confined-qemu` command: hands launching over to the launch script, and does the rest itself."""

from __future__ import annotations

import os
import sys

from confined_qemu.cli.unconfined import LAUNCHED, keeps_context
from confined_qemu.model.paths import DENIALS_SCRIPT, LAUNCH_SCRIPT


def main() -> None:
    """Run the command line of this process; does not return."""
    launched = len(sys.argv) > 1 and sys.argv[1] in LAUNCHED and os.access(LAUNCH_SCRIPT, os.X_OK)
    # what libvirt remembers is hidden from the launcher's domain
    libvirts = sys.argv[1:2] == ["recover"] and "--libvirt" in sys.argv
    if launched and not libvirts and not keeps_context(sys.argv[1:]):
        from confined_qemu.host.inherited import initial

        os.execve(LAUNCH_SCRIPT, [LAUNCH_SCRIPT, *sys.argv[1:]], initial())
    if sys.argv[1:2] == ["denials"] and os.access(DENIALS_SCRIPT, os.X_OK):
        os.execv(DENIALS_SCRIPT, [DENIALS_SCRIPT, *sys.argv[2:]])
    from confined_qemu.cli.command import main as cli

    sys.exit(cli(sys.argv[1:]))


if __name__ == "__main__":
    main()
