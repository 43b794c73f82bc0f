"""`policy adopt DIR`: makes a folder that the policy does not mean for anything a place for images, and back.

It runs with root's rights outside of the launcher's domain, as `semanage` by hand would.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat

from confined_qemu.host import lsm, mounts, packages
from confined_qemu.install import install, policylabels
from confined_qemu.labels import others, restore, statefolders
from confined_qemu.model.context import RESTORED_TYPE
from confined_qemu.model.distribution import Package
from confined_qemu.model.errors import HostError, LsmError
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.lean import TYPE_CHECKING, dataclass
from confined_qemu.model.steps import Relabel
from confined_qemu.plan import fixedlabels, places

if TYPE_CHECKING:
    from confined_qemu.model.steps import JournalStep

_TYPE = RESTORED_TYPE
_USERS = frozenset({"user_home_t", "user_tmp_t", "tmp_t", "admin_home_t", "virt_home_t", "svirt_home_t", _TYPE})
"""What a user's file may be called that was moved into the folder."""
_USERS_DATA = frozenset({"data_home_t", "cache_home_t"})
"""The same for ~/.local/share and ~/.cache on Fedora, /root's too: most programs keep their downloads there."""
_SYSTEMS_HOMES = frozenset({"/", "/nonexistent"})


@dataclass(frozen=True, slots=True)
class Changed:
    """What came of it: the file context, whether it was added or removed, and how many labels changed."""

    folder: str
    pattern: str
    context_changed: bool
    relabelled: tuple[str, ...]
    """A line for each file or folder whose label changed."""


def adopt(folder: str) -> Changed:
    """Label `folder` and all in it as images, now and at every relabelling of the host.

    Raises:
        HostError: not root, not such a folder, or a step failed; what was done already stays and is done once only.
        LsmError: SELinux cannot be asked.
    """
    path = _folder(folder, "adopt")
    if not os.path.isdir(path):
        raise HostError("no such folder", where=path)
    found = lsm.default_label(path, stat.S_IFDIR)
    known = found is not None and found.type == _TYPE
    if found is not None and not known and found.type in _USERS:
        raise HostError(f"needs no adoption: images in a home ({found.type}) are used as they are", where=path)
    if found is not None and not known and found.type not in places.GENERIC:
        raise HostError(f"the policy means it for something else: {found}", where=path, hint=_elsewhere())
    _require_labels(path)
    _look_through(path)
    pattern = places.pattern(path)
    if not known:
        _semanage("-a", "-t", _TYPE, pattern)
    changed = policylabels.restore(path, _require_image)
    label = lsm.context_of(path)
    if label is None or label.type != _TYPE:
        raise HostError(
            f"is labelled {label} after restorecon, not {_TYPE}", where=path, hint="see: semanage fcontext -l -C"
        )
    return Changed(path, pattern, not known, changed)


def undo(folder: str) -> Changed:
    """Take back what `adopt` did: the file context goes, and the labels become the policy's own.

    What an undo that was cut off between the two has left goes back by the next one.

    Raises:
        HostError: not root, the folder was not adopted, a VM runs on it, or a step failed.
        LsmError: SELinux cannot be asked.
    """
    path = _folder(folder, "adopt --undo")
    _require_idle(path)
    pattern = places.pattern(path)
    known = pattern in {words[0] for line in lsm.local_file_contexts() if (words := line.split())}
    # the folder may be gone, and what it was called may mean another thing tomorrow
    there = os.path.isdir(path)
    if known:
        _semanage("-d", pattern)
    goes_back = there and (known or any(_is_left(entry) for entry in policylabels.entries(path)))
    relabelled = policylabels.restore(path, _require_image) if goes_back else ()
    if not known and not relabelled:
        raise HostError(
            "was not adopted: it has no file context of its own", where=path, hint="see: semanage fcontext -l -C"
        )
    return Changed(path, pattern, context_changed=known, relabelled=relabelled)


def _is_left(entry: policylabels.Labelled) -> bool:
    """Tell whether an entry is labelled as an image, and no file context says so any more."""
    wanted = lsm.default_label(entry.path, entry.mode)
    return entry.label is not None and entry.label.type == _TYPE and wanted is not None and wanted.type != _TYPE


# ---- what may be adopted


def _folder(folder: str, verb: str) -> str:
    """Return the folder's path after every check that needs no look into it."""
    install.require_root(verb)
    if lsm.mode() is SelinuxMode.DISABLED:
        raise HostError("SELinux is disabled in this kernel: there are no labels", hint="boot with SELinux")
    path = os.path.abspath(folder)
    real = os.path.realpath(path)
    if real != path:
        raise HostError(
            "is a symbolic link, or lies behind one", where=path, hint=f"name the folder itself: {shlex.quote(real)}"
        )
    problem = places.problem(path)
    homes = {os.path.normpath(entry.pw_dir) for entry in pwd.getpwall()} - _SYSTEMS_HOMES
    if problem is None and path in homes:
        problem = "it is a user's home"
    if problem is None:
        inside = sorted(home for home in homes if home.startswith(f"{path}/"))
        problem = f"a user's home lies in it, {inside[0]}" if inside else None
    if problem is not None:
        raise HostError(f"cannot be made a folder for images: {problem}", where=path, hint=_elsewhere())
    if shutil.which("semanage") is None:
        raise HostError("semanage is missing", hint=f"run: {packages.command(Package.SEMANAGE)}")
    return path


def _elsewhere() -> str:
    return f"use a folder of its own, for example {places.EXAMPLE}"


def _require_labels(path: str) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mount = mounts.Mounts().of(descriptor)
    finally:
        os.close(descriptor)
    if mount is None or (mount.labels and not mount.read_only):
        return
    again = fixedlabels.remount(mount, lsm.policy_contexts().image)
    raise HostError(
        f"{mount.type} at {mount.target} takes no labels",
        where=path,
        hint=f"to give all on it one label for VMs, run: {again}" if again else _elsewhere(),
    )


def _require_idle(path: str) -> None:
    """Refuse while a VM of ours, of any user, has a file in the folder."""
    folders = statefolders.all_folders()
    known = [(entry, restore.pid_of(entry), True) for entry in restore.own_entries(folders)]
    known += [(claim.entry, claim.pid, False) for claim in others.claims(folders)]
    for entry, pid, own in known:
        steps = (step for step in entry.record.all_steps if step.path.startswith(f"{path}/"))
        used = [step.path for step in steps if own or _carries(step)]
        if not used:
            continue
        if pid is not None:
            raise HostError(f"in use by the VM {entry.record.name} (pid {pid})", where=used[0], hint="stop it first")
        raise HostError("a VM left its label on it after a crash", where=used[0], hint="run: confined-qemu recover")


def _carries(step: JournalStep) -> bool:
    """Tell whether a file is what another user's journal says of it: the inode, with the label that it was given."""
    if not isinstance(step, Relabel):
        return False
    try:
        found = os.lstat(step.path)
        label = lsm.context_of(step.path, follow=False)
    except (OSError, LsmError):
        return False
    return (found.st_dev, found.st_ino) == (step.identity.device, step.identity.inode) and label == step.after


def _look_through(path: str) -> None:
    """Refuse a folder that holds what is no image: a system's files, and files of a VM that runs or crashed."""
    _require_idle(path)
    for entry in policylabels.entries(path):
        _require_image(entry)


def _require_image(entry: policylabels.Labelled) -> None:
    """Refuse what users do not bring to a folder of images, and what is a VM's."""
    contexts = lsm.policy_contexts()
    usual = places.GENERIC | _USERS | _USERS_DATA | {contexts.image.type, contexts.content.type}
    label, name = entry.label, entry.path
    if label is None or label.type not in usual:
        raise HostError(f"not an image: labelled {label}", where=name, hint=_elsewhere())
    if contexts.is_given(label) and label.range is not None and label.range.low.categories:
        raise HostError(
            f"is labelled for a VM, {label}", where=name, hint=f"stop it, or run: restorecon -F {shlex.quote(name)}"
        )


def _semanage(*arguments: str) -> None:
    install.run(["semanage", "fcontext", *arguments], "changing the file contexts")
    lsm.forget_file_contexts()
