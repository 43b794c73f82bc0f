"""The launch script as it is installed, under strace in a guest whose kernel enforces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from integration.campaigns.world import Loss
from integration.guestlib import demo, machine, remote, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

GUEST = "campaign"


def run(every: int) -> Iterator[str]:
    """Try every `every`-th system call in a guest, which prints its figures itself; yield nothing.

    Raises:
        Loss: a label was lost, or something was left.
        GuestError: there is no guest.
    """
    demo.setup()
    guest = machine.up(GUEST, "default")
    try:
        testing.fill(guest, testing.Part(GUEST, "default"))
        remote.output(guest, remote.LINK, "policy", "install")
        words = ["env", "-C", testing.TREE, "python3", "-B", "-m", "integration.guestlib.faults"]
        if remote.run(guest, [*words, "--every", str(every)]) != 0:
            raise Loss("see above")
        yield from ()
    finally:
        machine.down(GUEST)
