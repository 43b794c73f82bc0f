"""`integration/campaign`: which campaign, how much of it, and its figures."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from integration.campaigns import crowds, links, powercuts, syscalls
from integration.campaigns.world import Loss
from integration.guestlib import faults

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def main(words: Sequence[str]) -> int:
    """Run one campaign, or all; 0 where nothing was lost."""
    chosen = _parser().parse_args(words)
    if os.geteuid() != 0:
        sys.stderr.write("integration/campaign: labels are set for real: run it as root\n")
        return 2
    try:
        for line in chosen.run(chosen):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    except Loss as loss:
        sys.stderr.write(f"LOST: {loss}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="integration/campaign", description="Tries at length what tests try once.")
    verbs = parser.add_subparsers(required=True, metavar="CAMPAIGN")
    calls = verbs.add_parser("syscalls", help="a kill, EIO and ENOSPC at each system call (strace)")
    calls.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th call")
    calls.add_argument("--of", choices=syscalls.VERBS, action="append", help="only of this verb; repeatable")
    calls.set_defaults(run=lambda chosen: syscalls.run(chosen.every, chosen.of or syscalls.VERBS))
    script = verbs.add_parser("launchscript", help="the same at each call of the launch script, in an enforcing guest")
    script.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th call")
    script.add_argument("--of", choices=faults.VERBS, action="append", help="only of this; repeatable")
    script.set_defaults(run=_launchscript)
    cuts = verbs.add_parser("powercuts", help="power cuts on file systems of loop devices")
    cuts.add_argument("--kind", choices=sorted(powercuts.KINDS), action="append", help="only this file system")
    cuts.add_argument("--count", type=int, default=68, metavar="N", help="cuts for each file system")
    cuts.add_argument("--unsynced", action="store_true", help="try a copy that does not sync, which is to be found out")
    cuts.set_defaults(run=_powercuts)
    swaps = verbs.add_parser("links", help="names swapped for links while labels are set and folders removed")
    swaps.add_argument("--count", type=int, default=10_000, metavar="N", help="swaps for each act")
    swaps.set_defaults(run=_links)
    many = verbs.add_parser("crowds", help="many at once: pairs, and what a crash left")
    many.add_argument("--pairs", type=int, default=2000, metavar="N")
    many.add_argument("--processes", type=int, default=50, metavar="N")
    many.add_argument("--crashes", type=int, default=50, metavar="N")
    many.add_argument("--launches", type=int, default=200, metavar="N", help="images that are launched on at once")
    many.set_defaults(run=_crowds)
    soak = verbs.add_parser("soak", help="one VM's labels after the other's, and what grows")
    soak.add_argument("--count", type=int, default=500, metavar="N")
    soak.set_defaults(run=_soak)
    boots = verbs.add_parser("boots", help="the real image in an enforcing guest, one boot after the other")
    boots.add_argument("--count", type=int, default=30, metavar="N")
    boots.set_defaults(run=_boots)
    return parser


def _launchscript(chosen: argparse.Namespace) -> Iterator[str]:
    yield from _in_guest(
        "integration.guestlib.faults",
        "--every",
        str(chosen.every),
        *(f"--of={verb}" for verb in chosen.of or faults.VERBS),
    )


def _boots(chosen: argparse.Namespace) -> Iterator[str]:
    yield from _in_guest("integration.suite.boots", "--count", str(chosen.count))


def _in_guest(program: str, *words: str) -> Iterator[str]:
    from integration.campaigns import inguest

    yield from inguest.run(program, *words)


def _powercuts(chosen: argparse.Namespace) -> Iterator[str]:
    for kind in chosen.kind or sorted(powercuts.KINDS):
        yield from powercuts.run(kind, chosen.count, synced=not chosen.unsynced)


def _links(chosen: argparse.Namespace) -> Iterator[str]:
    yield from links.run(chosen.count)


def _soak(chosen: argparse.Namespace) -> Iterator[str]:
    yield from crowds.soak(chosen.count)


def _crowds(chosen: argparse.Namespace) -> Iterator[str]:
    yield from crowds.draw(chosen.pairs, chosen.processes)
    yield from crowds.race(chosen.crashes, min(chosen.processes, 8))
    yield from crowds.launch(chosen.launches)
