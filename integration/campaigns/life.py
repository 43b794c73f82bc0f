"""What is killed in the middle of a VM's life: the launcher with its watcher, `allow`, `revoke`, `policy adopt`.

python3 -IB life.py CHECKOUT VERB FOLDER, with XDG_STATE_HOME where the journals are. What runs is a release's code but
for the policy's answers, which are a table here, as there is no policy; QEMU is cat(1), which ends with its input, and
runs in no context. `getpgid` marks where the work begins.
"""

import os
import re
import sys
from collections.abc import Iterable
from contextlib import ExitStack

sys.path.append(sys.argv[1])

from confined_qemu.host import inodes, interpreter, lsm, mounts
from confined_qemu.install import adopt
from confined_qemu.labels import restore, statefolders
from confined_qemu.launch import conflicts, grants, labelled, pairs, spawn
from confined_qemu.launch.collect import Caller
from confined_qemu.model.context import Context, PolicyContexts
from confined_qemu.model.errors import ConfinedQemuError
from confined_qemu.model.facts import FileKind, Identity, SelinuxMode
from confined_qemu.model.invocation import Invocation
from confined_qemu.model.lean import replace
from confined_qemu.model.mcs import MAX_CATEGORY, Window
from confined_qemu.model.plan import AccelChoice, Plan
from confined_qemu.model.steps import LabelTree, Relabel
from confined_qemu.plan import places

NAME = "life"
QEMU = "/bin/cat"
TREE, IMAGE, LATER, VMS = "tree", "image", "later", "vms"
"""In FOLDER: a folder that the VM shares, its disk, what it is allowed later, and what becomes a folder of images."""
WATCHER = "CAMPAIGN_WATCHER"
"""The variable that names what runs the watcher in Python's place."""
CONTEXTS = "CAMPAIGN_CONTEXTS"
"""The variable that names the file of the host's own file contexts, each line a pattern."""
ANSWERS = PolicyContexts.parse(
    "system_u:system_r:svirt_t:s0\n", "system_u:object_r:svirt_image_t:s0\nsystem_u:object_r:virt_content_t:s0\n"
)
PLAIN = Context.parse("system_u:object_r:var_t:s0")
EVERY = Window(0, tuple(range(MAX_CATEGORY + 1)))
_start_watcher = spawn.watcher


# ---- in the policy's place


def default_label(path: str, mode_bits: int) -> Context:  # noqa: ARG001 - in the place of lsm's
    """Return what the file contexts say."""
    own = (line.split()[0] for line in file_contexts())
    return ANSWERS.restored() if any(re.fullmatch(pattern, path) for pattern in own) else PLAIN


def file_contexts() -> tuple[str, ...]:
    """Return the lines that the stand-in for semanage(8) wrote."""
    with open(os.environ[CONTEXTS], encoding="utf-8") as file:
        return tuple(line for line in file.read().split("\n") if line)


def watcher(path: str, _context: str, held: Iterable[int], channels: spawn.Channels) -> spawn.Watcher:
    """Start the watcher of a VM without a context."""
    return _start_watcher(path, "", held, channels)


def answer() -> None:
    """Put the table in the policy's place."""
    table: tuple[tuple[object, str, object], ...] = (
        (lsm, "mode", lambda: SelinuxMode.ENFORCING),
        (lsm, "policy_contexts", lambda: ANSWERS),
        (lsm, "customizable_types", frozenset),
        (lsm, "default_label", default_label),
        (lsm, "local_file_contexts", file_contexts),
        (lsm, "forget_file_contexts", lambda: None),
        (lsm, "set_exec_context", lambda _: None),
        (mounts.Mounts, "of", lambda *_: None),
        (places, "problem", lambda _: None),
        (labelled, "_planned", planned),
        (spawn, "watcher", watcher),
        *([(interpreter, "current", lambda: os.environ[WATCHER])] if WATCHER in os.environ else ()),
    )
    for place, name, known in table:
        setattr(place, name, known)


# ---- the steps that a plan would have


def _looked_at(path: str) -> tuple[Identity, FileKind, int]:
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        return inodes.identity_of(descriptor), inodes.kind_of(found.st_mode), found.st_nlink
    finally:
        os.close(descriptor)


def _relabel(path: str, given: Context) -> Relabel:
    free = ANSWERS.restored()
    return Relabel(path, *_looked_at(path), free, given, free, exclusive=True)


def _tree(path: str, given: Context) -> LabelTree:
    identity, _, _ = _looked_at(path)
    return LabelTree(path, identity, ANSWERS.restored(), given, exclusive=True, number=0, count=4)


def planned(
    _invocation: object, _caller: object, folder: str, held: ExitStack, _warn: object
) -> tuple[Plan, pairs.Registry]:
    """Do what the launcher's `_planned` does, with a plan that is known."""
    invocation = Invocation(NAME, QEMU, (), ())
    conflicts.settle(invocation, (), folder, held)
    restore.holders([folder])
    registry = pairs.open_registry()
    taken = [one.low.categories for entry in restore.own_entries([folder]) if (one := entry.record.context.range)]
    pair = pairs.reserve(registry, EVERY, taken, lambda size: int.from_bytes(os.urandom(8), "little") % size)
    given = ANSWERS.image.at(pair.level())
    place = sys.argv[3]
    steps = (_tree(os.path.join(place, TREE), given), _relabel(os.path.join(place, IMAGE), given))
    accel = AccelChoice("tcg", "", tcg=True)
    return Plan(NAME, QEMU, (), accel, "selinux", ANSWERS.kvm.at(pair.level()), pair, steps=steps), registry


# ---- verbs


def launch() -> None:
    """Become the stand-in for QEMU, as the launch script does."""
    labelled.become(Invocation(NAME, QEMU, ()), Caller(os.environb, (), ""), lambda _: None, lambda *_: None)


def allow() -> None:
    """Label a file more for the VM that runs."""
    path = os.path.join(sys.argv[3], LATER)
    with grants._held(grants._find(NAME)) as vm:  # noqa: SLF001 - `allow` without its plan, which asks a policy
        step = _relabel(path, replace(ANSWERS.image, range=vm.record.context.range))
        grants._give(vm, path, (step,))  # noqa: SLF001 - the same


def main() -> int:
    """Do what was asked for."""
    answer()
    os.getpgid(0)
    vms = os.path.join(sys.argv[3], VMS)
    try:
        match sys.argv[2]:
            case "launch":
                launch()
            case "allow":
                allow()
            case "revoke":
                grants.revoke(NAME, os.path.join(sys.argv[3], LATER))
            case "adopt":
                adopt.adopt(vms)
            case "undo":
                adopt.undo(vms)
            case "recover":
                done = restore.recover([statefolders.user_folder(os.geteuid())])
                for error in (error for one in done for error in one.failed):
                    sys.stderr.write(f"{error}\n")
                return 1 if any(one.failed for one in done) else 0
    except ConfinedQemuError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
