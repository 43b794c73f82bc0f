"""What the host said, as frozen records: the whole of what a plan may know."""

from __future__ import annotations

from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confined_qemu.model.context import Context, PolicyContexts
    from confined_qemu.model.distribution import Family
    from confined_qemu.model.hardening import HardeningFacts
    from confined_qemu.model.helper import HelperKind
    from confined_qemu.model.landlock import LandlockFacts
    from confined_qemu.model.mcs import Level, Pair


class SelinuxMode(StrEnum):
    """The kernel's SELinux; "could not read" is an error, never one of these."""

    DISABLED = "disabled"
    PERMISSIVE = "permissive"
    ENFORCING = "enforcing"


class Boolean(StrEnum):
    """A boolean of the loaded policy; "could not read" is an error, never one of these."""

    ON = "on"
    OFF = "off"
    ABSENT = "absent"
    """The policy has none of this name."""


class FileKind(StrEnum):
    """The type of a file, in the names of SELinux's object classes."""

    REGULAR = "file"
    DIRECTORY = "dir"
    BLOCK = "blk_file"
    CHARACTER = "chr_file"
    FIFO = "fifo_file"
    SOCKET = "sock_file"
    SYMLINK = "lnk_file"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which inode a path named. `generation` is the file system's (FS_IOC_GETVERSION), None where it has none."""

    device: int
    inode: int
    generation: int | None = None

    @classmethod
    def of_device(cls, kind: FileKind, number: int) -> Identity:
        """Return what a device is, whichever node names it: no file has inode 0 or less."""
        return cls(number, 0 if kind is FileKind.BLOCK else -1)

    @property
    def place(self) -> tuple[int, int]:
        """Device and inode: what identities that are the same have in common, for an index of them."""
        return self.device, self.inode

    def same(self, other: Identity) -> bool:
        """Tell whether both are one inode; a generation that only one of them could read says nothing."""
        unread = self.generation is None or other.generation is None
        return (self.device, self.inode) == (other.device, other.inode) and (
            unread or self.generation == other.generation
        )


@dataclass(frozen=True, slots=True)
class Mount:
    """The mount that a file lies on, as the kernel shows it."""

    type: str
    """The file system: `ext4`, `nfs4`, `fuse.bindfs`, …"""
    target: str
    source: str
    """The device, server or file that is mounted there; a loop device that ends with its mount shows as its file."""
    labels: bool
    """Files there take labels: the kernel's own word, `seclabel`."""
    read_only: bool = False
    """This mount, or the whole file system."""
    whole: bool = True
    """The file system from its root on, not a folder of it that is bound here."""
    context: str | None = None
    """The label that the option `context=` gives to all that is there."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file as found: `real` is its path without links; `problem` says why it could not be looked at."""

    path: str
    real: str
    kind: FileKind
    identity: Identity | None = None
    links: int = 1
    owner: int = 0
    group: int = 0
    mode: int = 0
    label: Context | None = None
    default: Context | None = None
    """The policy's label for the path; looked up only where the label found is one that a VM got."""
    folder_label: Context | None = None
    problem: str | None = None
    mount: Mount | None = None
    """The file's, or, for a missing file, its folder's; None where nobody looked or the kernel shows none."""
    devices: tuple[Identity, ...] = ()
    """A device node: the device itself, then those that share bytes with it (a disk and its partitions)."""
    used: str | None = None
    """A block device: what uses it already (a mount, swap, device-mapper), and how to end that."""
    size: int = 0
    """Bytes of a regular file."""
    in_use: bool = False
    """Some QEMU holds its image lock; looked at only where the label found is one that a VM got."""

    def open_to_group(self, group: int, *, writes: bool) -> bool:
        """Tell whether its mode lets one open it who is of this group and not its owner: for reading, or for both."""
        bits = 0o6 if writes else 0o4
        return self.mode & bits == bits or (self.group == group and self.mode >> 3 & bits == bits)


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A folder that a VM or its helper uses, and what lies in it.

    `entries` are a TPM's files, all of them; of a share one for each kind and label, in the first thousands, or, where
    the tree is to be labelled, in all of it; `counts` says how many of each there are. A file with other names (hard
    links), or in use by another VM, is one of its own kind.
    """

    folder: FileFacts
    entries: tuple[FileFacts, ...] = ()
    problem: str | None = None
    """Why it could not be looked into."""
    counts: tuple[int, ...] = ()
    more: bool = False
    """There is more in it than was looked at."""
    closed: str | None = None
    """What in it could not be looked into, or, where it is the folder's own path, nothing could; and why."""
    mount: bool = False
    """It is the root of a mount."""
    homes: tuple[str, ...] = ()
    """The homes that it is, or that lie in it."""
    above: tuple[Identity, ...] = ()
    """The folders that it lies in."""
    runs_setuid: bool = False
    """Any user of the host reaches it, and a program in it may be setuid (no `nosuid` on its mount)."""


@dataclass(frozen=True, slots=True)
class DescriptorFacts:
    """One inherited descriptor. `swapped`: SELinux put a null device in its place at exec."""

    number: int
    kind: str
    """An SELinux object class: `file`, `fifo_file`, `unix_stream_socket`, `chr_file`, …"""
    label: Context | None
    swapped: bool = False
    readable: bool = True
    writable: bool = True
    owner: int = 0
    """The user id that owns what it leads to: only the owner or root may relabel a pipe."""
    links: int = 1
    """How many names its file has; a pipe has one."""
    path: str | None = None
    """Where a regular file lies, while it lies there."""


@dataclass(frozen=True, slots=True)
class KvmFacts:
    """What `/dev/kvm` and the CPU said, each by being used. `problem` and `hint` name the first thing missing."""

    flag: str | None
    api_version: int | None
    problem: str | None = None
    hint: str | None = None

    @property
    def usable(self) -> bool:
        """Tell whether VT-x or AMD-V is there and the API answers."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """A process that holds a level, as the kernel shows it."""

    pid: int
    context: Context


@dataclass(frozen=True, slots=True)
class Holder:
    """A live VM of ours that has an image in use. `exclusive` is false for content and shareable images."""

    name: str
    pid: int
    exclusive: bool
    original: Context | None
    """The label to put back when the last one ends; another user's VM says nothing about that."""
    claimed: Context | None = None
    """Another user's VM: the label that it says it gave. Its word counts only for a file that carries this label."""


@dataclass(frozen=True, slots=True)
class Occupant:
    """Who holds categories that a static label names as its own. What cannot be seen of it is None."""

    name: str | None
    pid: int | None
    level: Level


@dataclass(frozen=True, slots=True)
class SelinuxFacts:
    """The policy's side of the host."""

    mode: SelinuxMode
    own: Context | None = None
    caller: Context | None = None
    contexts: PolicyContexts | None = None
    in_domain: bool = False
    live: tuple[LiveProcess, ...] = ()
    mls: bool = False
    """The policy has sensitivities above s0: MLS."""
    kvm_node: Context | None = None
    """The label of `/dev/kvm`, None where there is none."""
    enters_held: bool = True
    """The policy decides who enters a domain with no_new_privs (its capability nnp_nosuid_transition); else nobody."""


def believed(holders: tuple[Holder, ...], label: Context | None) -> tuple[Holder, ...]:
    """Return those who really use a file that carries this label: other users' VMs may claim any file."""
    return tuple(holder for holder in holders if holder.claimed is None or holder.claimed == label)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a plan is made from."""

    selinux: SelinuxFacts
    kvm: KvmFacts
    emulator: FileFacts
    elsewhere: bool = False
    """The VM is to start on another host: of its KVM, and of the labels of its files, nothing is known."""
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    """By the path as a resource gives it."""
    holders: Mapping[Identity, tuple[Holder, ...]] = field(default_factory=dict)
    folders: Mapping[str, FolderFacts] = field(default_factory=dict)
    """Shares and TPMs' states, by the path as it was given."""
    programs: Mapping[HelperKind, FileFacts] = field(default_factory=dict)
    """The helpers' programs; one that is not installed is missing."""
    distribution: Family | None = None
    """The host's, whose command installs what is missing; None where nothing is, or it is not known."""
    descriptors: tuple[DescriptorFacts, ...] = ()
    pair: Pair | None = None
    """A dynamic VM's."""
    occupants: tuple[Occupant, ...] = ()
    """Who stands in the way of a static VM's level."""
    instance: str = ""
    """What no other live VM has in the name of its folder, where it has no pair: the launcher's pid."""
    uid: int = 0
    folder: str = "/"
    """QEMU's working directory, where relative paths start; the watcher has another."""
    sandbox: bool = False
    """This QEMU was built with libseccomp, so that it takes `-sandbox`; looked at only where that is wanted."""
    landlock: LandlockFacts | None = None
    """The kernel's Landlock; None where nobody asked, as SELinux holds the VM or nothing is to."""
    hardening: HardeningFacts | None = None
    """What the VM's process can give up; None where nobody looked, as no VM is started."""
    group: str | None = None
    """A control group that the launcher may make within its own; None where it may not, or nobody asked."""
    runtime_folder: str = "/run/confined-qemu"
    temporary_folder: str = "/var/tmp"  # noqa: S108 - QEMU's own default for its temporary files
