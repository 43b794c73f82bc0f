"""The command line of integration/hostile."""

import argparse
import json
import sys

from integration.guestlib import demo, machine, readme, remote, strikes, testing
from integration.guestlib.report import GuestError, progress, silence
from integration.guestlib.strikes import Answers, Side

DESCRIPTION = (
    "Has a hostile program in QEMU's place try all that the table of integration/guestlib/strikes.py names, in an "
    "enforcing guest: as bare QEMU, by libvirt and by confined-qemu. Prints what came of it. The exit "
    "code is 0 only if all is as that table says."
)
GUEST = "hostile"
DEBIAN, FEDORA = "default", "fedora"
TOPIC = f"{readme.HELP}/security.md"
FAILED_TO_RUN = 125


def main(argv: list[str]) -> int:
    """Make the attempts and show what came of them."""
    parser = argparse.ArgumentParser(prog="integration/hostile", description=DESCRIPTION)
    parser.add_argument("--name", default=GUEST, help="which guest; one that runs stays (default: %(default)s)")
    parser.add_argument("--policy", choices=(DEBIAN, FEDORA), help="of a guest that is started (default: default)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--markdown", action="store_true", help="print the table as the help topic has it")
    shown.add_argument("--json", action="store_true", help="print the answers as JSON")
    parser.add_argument("--write", action="store_true", help="write the table into the help topic `security`, too")
    options = parser.parse_args(argv)
    if options.write and options.policy == FEDORA:
        parser.error("the help topic has the table of Debian's policy")
    if not sys.stderr.isatty():
        silence()
    try:
        policy, found = _tried(options)
    except (GuestError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED_TO_RUN
    except KeyboardInterrupt:
        return 130
    print(json.dumps(found, indent=1) if options.json else _table(found, markdown=options.markdown))
    if options.write and policy == DEBIAN:
        readme.renew(TOPIC, "strikes", strikes.table(found))
    different = strikes.different(found, {} if policy == DEBIAN else strikes.FEDORA)
    print(*different, sep="\n", end="\n" * bool(different), file=sys.stderr)
    return 1 if different else 0


def _table(found: Answers, *, markdown: bool) -> str:
    return strikes.table(found) if markdown else strikes.columns(found)


def _tried(options: argparse.Namespace) -> tuple[str, Answers]:
    """Return the policy of the guest, and by the side what came of each attempt there."""
    demo.setup()
    there = machine.find(options.name)
    ours = there is None or not there.alive()
    policy = options.policy or (DEBIAN if there is None or ours else there.policy)
    guest = machine.up(options.name, policy)
    try:
        testing.fill(guest, testing.Part(options.name, policy))
        progress(f"making {len(strikes.STRIKES)} attempts from {len(Side)} sides")
        words = ["env", "-C", testing.TREE, "python3", "-B", "-m", "integration.suite.attacks"]
        return policy, {Side(side): said for side, said in json.loads(remote.output(guest, *words)).items()}
    finally:
        if ours:
            machine.down(options.name)
