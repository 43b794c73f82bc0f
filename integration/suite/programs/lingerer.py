#!/usr/bin/python3 -IS
"""In QEMU's place: ends at once, and leaves a process behind. What kind, the name of the VM says (`-name`).

`chain`: one that forks and ends without a pause. `loner`: one that has let go of every file.
"""

import os
import select
import sys


def chain() -> None:
    """Be gone before anybody looks, and be there again."""
    while True:
        if os.fork() != 0:
            os._exit(0)


def loner() -> None:
    """Have nothing open by which it could be found."""
    os.closerange(0, 1 << 16)
    select.poll().poll()


os.setsid()
if os.fork() == 0:
    {"chain": chain, "loner": loner}[sys.argv[sys.argv.index("-name") + 1].partition(",")[0].removeprefix("guest=")]()
