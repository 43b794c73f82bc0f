"""Files whose label cannot be changed where they lie: may the VM use them as they are, and what would let it? Pure.

NFS, CIFS, FUSE, vfat, mounts with `context=` and read-only ones. libvirt goes on without a look and leaves the
denial to QEMU (security_selinux.c, virSecuritySELinuxSetFileconImpl); here the policy is asked before the start.
"""

from __future__ import annotations

from confined_qemu.model import policynames
from confined_qemu.model.errors import HINT, shell_word
from confined_qemu.model.facts import Boolean, FileKind
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.mcs import Level
from confined_qemu.model.plan import Outcome
from confined_qemu.model.resource import Sharing
from confined_qemu.plan import openings

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import FileFacts, Mount
    from confined_qemu.model.policy import Policy
    from confined_qemu.model.resource import Resource

_NEVER_AGAIN = frozenset(
    {"proc", "sysfs", "securityfs", "debugfs", "tracefs", "cgroup2", "bpf", "selinuxfs", "tmpfs", "ramfs", "hugetlbfs"}
)
"""What is not mounted anew: it is the kernel's, or all that is in it would be lost."""
_NEVER_WRITTEN = frozenset({"squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs"})
_WRITES = "write"
_TO_MAKE = (
    (FileKind.DIRECTORY, ("search", "write", "add_name")),
    (FileKind.REGULAR, ("create", "open", "write")),
)
"""What QEMU does to make a file; where no label is set, the file has its folder's."""


def fixed(found: FileFacts) -> bool:
    """Tell whether no label can be set on the file, or on what is made in its folder."""
    return found.mount is not None and (found.mount.read_only or not found.mount.labels)


def judge(resource: Resource, found: FileFacts, wanted: Context, process: Context, policy: Policy) -> Outcome:
    """Judge a file, or one that is to be made, that would get the label `wanted` if it could be labelled.

    A warning says that it may be used, and by every other VM too.
    """
    mount, needs = found.mount, openings.needs(resource)
    place = f"{found.path} ({resource.source})"
    label = found.folder_label if found.kind is FileKind.MISSING else found.label
    if mount is None or label is None:
        return Outcome()
    if mount.read_only and _WRITES in needs:
        return Outcome(refusals=(f"{place}: {_unwritable(mount)}",))
    asked = _TO_MAKE if found.kind is FileKind.MISSING else ((found.kind, needs),)
    missing = [word for kind, permissions in asked for word in policy.denied(process, label, kind, permissions)]
    if missing:
        at = f"lies on {_place(mount)}, so it stays labelled {label}"
        may_not = f"which {process.type} may not {' and '.join(dict.fromkeys(missing))}"
        return Outcome(denials=(f"{place}: it {at}, {may_not}{HINT}{mend(mount, label, wanted, policy)}",))
    separated = label.range is not None and label.range.low.categories
    if separated or resource.sharing is not Sharing.PRIVATE:
        return Outcome()
    return Outcome(warnings=(f"{place}: {_opened_to_all(mount, label, policy)}",))


def mend(mount: Mount, label: Context, wanted: Context, policy: Policy) -> str:
    """Return the one boolean that opens files of this label to VMs, else the mount that labels them `wanted`."""
    boolean = policynames.OPENING.get(label.type)
    if boolean is not None and policy.boolean(boolean) is Boolean.OFF:
        more = policynames.OPENS_MORE.get(boolean)
        return f"run: {policynames.turned_on(boolean)}" + (f" ({more})" if more else "")
    again = remount(mount, wanted)
    return f"run: {again}, or copy it to a file system with labels" if again else "copy it to a file system with labels"


def remount(mount: Mount, wanted: Context) -> str | None:
    """Return the commands that mount a file system anew, so that all on it is labelled `wanted` without categories.

    None where there is nothing to mount anew, or only a folder of it is seen here.
    """
    if mount.type in _NEVER_AGAIN or not mount.whole:
        return None
    low = wanted.range.low if wanted.range is not None else Level(0)
    label = wanted.at(replace(low, categories=frozenset()))
    options = f"ro,context={label}" if mount.read_only else f"context={label}"
    target = shell_word(mount.target)
    again = f"mount -t {shell_word(mount.type)} -o {options} {shell_word(mount.source)} {target}"
    return f"umount {target} && {again}"


def _place(mount: Mount) -> str:
    """Return where a file lies and why it keeps its label, as a part of a sentence."""
    if mount.context is not None:
        reason = f"mounted with context={mount.context}"
    elif mount.labels:
        reason = "mounted read-only"
    else:
        reason = "which takes no labels"
    return f"{mount.type} at {mount.target} ({reason})"


def _unwritable(mount: Mount) -> str:
    at = f"{mount.type} at {mount.target} is mounted read-only, and the VM writes to this file"
    if mount.type in _NEVER_WRITTEN:
        return f"{at}{HINT}copy it to a file system that can be written"
    option = "remount,rw" if mount.whole else "remount,bind,rw"
    return f"{at}{HINT}attach it read-only, or run: mount -o {option} {shell_word(mount.target)}"


def _opened_to_all(mount: Mount, label: Context, policy: Policy) -> str:
    boolean = policynames.OPENING.get(label.type)
    is_on = boolean is not None and policy.boolean(boolean) is Boolean.ON
    why = f", as {boolean} is on" if is_on else ""
    return f"it lies on {_place(mount)}: SELinux does not separate it from other VMs{why}"
