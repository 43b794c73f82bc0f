"""Campaigns that need a kernel that enforces: they run in a guest, and print their figures there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.campaigns.world import Loss
from integration.guestlib import demo, machine, remote, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

GUEST = "campaign"


def run(program: str, *words: str) -> Iterator[str]:
    """Run a program of the suite's tree in a guest; it prints its figures itself, so nothing is yielded.

    Raises:
        Loss: a label was lost, or something was left.
        GuestError: there is no guest.
    """
    demo.setup()
    guest = machine.up(GUEST, "default")
    try:
        testing.fill(guest, testing.Part(GUEST, "default"))
        remote.output(guest, remote.LINK, "policy", "install")
        if remote.run(guest, ["env", "-C", testing.TREE, "python3", "-B", "-m", program, *words]) != 0:
            raise Loss("see above")
        yield from ()
    finally:
        machine.down(GUEST)
