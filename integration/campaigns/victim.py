"""What is killed: labels images as a launch does, or puts them back as a watcher and `recover` do.

python3 -IB victim.py CHECKOUT VERB IMAGES COUNT, with XDG_STATE_HOME where the journals are; of `launch` COUNT is the
number of its one image. `getpgid` marks where the work begins: what the interpreter does before is not counted.
"""

import os
import sys

sys.path.append(sys.argv[1])

from confined_qemu.host import inodes, processes
from confined_qemu.labels import journal, label, restore, statefolders
from confined_qemu.launch import pairs
from confined_qemu.model.context import Context
from confined_qemu.model.lean import replace
from confined_qemu.model.mcs import MAX_CATEGORY, Window
from confined_qemu.model.record import Record
from confined_qemu.model.steps import Bind, Relabel

BEFORE = Context.parse("system_u:object_r:virt_image_t:s0")
GIVEN = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")
EVERY = Window(0, tuple(range(MAX_CATEGORY + 1)))
VM = Context.parse("system_u:system_r:svirt_t:s0:c1,c2")


def planned(path: str) -> Relabel:
    """Return the step for an image."""
    descriptor = os.open(path, os.O_PATH)
    try:
        identity, found = inodes.identity_of(descriptor), os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return Relabel(path, identity, inodes.kind_of(found.st_mode), found.st_nlink, BEFORE, GIVEN, BEFORE, exclusive=True)


def no_socket(step: Bind) -> None:
    """Bind nothing: there is no socket in the plan."""
    raise AssertionError(step)


def give(paths: list[str]) -> None:
    """Journal and label, then end without a watcher."""
    pid = os.getpid()
    ticks = processes.start_ticks(pid)
    assert ticks is not None
    steps = tuple(planned(path) for path in paths)
    folder = statefolders.user_folder(os.geteuid())
    journal.write(folder, Record("victim", processes.boot_id(), pid, ticks, "tcg", VM, steps))
    for step in steps:
        label.apply(step, no_socket)


def launch(path: str) -> None:
    """Draw a pair, journal and label as a launch does, tell the pair, and become a stand-in for QEMU."""
    folder = statefolders.user_folder(os.geteuid())
    pid = os.getpid()
    ticks = processes.start_ticks(pid)
    assert ticks is not None
    with journal.locked(folder):
        restore.holders([folder])
        ranges = [entry.record.context.range for entry in restore.own_entries([folder])]
        taken = [one.low.categories for one in ranges if one is not None]
        registry = pairs.open_registry()
        pair = pairs.reserve(registry, EVERY, taken, lambda size: int.from_bytes(os.urandom(8), "little") % size)
        step = replace(planned(path), after=GIVEN.at(pair.level()))
        record = Record("stand-in", processes.boot_id(), pid, ticks, "tcg", VM.at(pair.level()), (step,))
        journal.write(folder, record)
        label.apply(step, no_socket)
    for descriptor in registry.descriptors:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - positional by definition
    os.write(1, f"{pair}\n".encode())
    os.execv("/bin/sleep", ["sleep", "infinity"])


def recover() -> int:
    """Put back what all dead VMs left."""
    done = restore.recover([statefolders.user_folder(os.geteuid())])
    for error in (error for one in done for error in one.failed):
        sys.stderr.write(f"{error}\n")
    return 1 if any(one.failed for one in done) else 0


def main() -> int:
    """Do what was asked for."""
    verb, images, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
    os.getpgid(0)
    if verb == "recover":
        return recover()
    if verb == "launch":
        launch(os.path.join(images, f"{count}.img"))
    give([os.path.join(images, f"{number}.img") for number in range(count)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
