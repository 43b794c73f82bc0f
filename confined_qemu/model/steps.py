"""What a plan does to the host, one frozen value for each step; each describes itself in one line.

A step that changes something on disk is in the journal before it is done, and `undo` says how it ends.
"""

from __future__ import annotations

from confined_qemu.model.lean import TYPE_CHECKING, dataclass, replace

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import FileKind, Identity
    from confined_qemu.model.helper import HelperKind
    from confined_qemu.model.ruleset import Ruleset


@dataclass(frozen=True, slots=True)
class Relabel:
    """Give an existing file the label `after`; at the end `restore`, or nothing where it is None (shared images).

    `exclusive`: no other VM may use the file meanwhile.
    """

    path: str
    identity: Identity
    kind: FileKind
    links: int
    before: Context
    after: Context
    restore: Context | None
    exclusive: bool

    def describe(self) -> str:
        """Return what is done and what follows at the end."""
        if self.before == self.after:
            return f"keep     {self.path}: {self.after}" + self._end()
        return f"relabel  {self.path}: {self.before} -> {self.after}" + self._end()

    def _end(self) -> str:
        return f", at the end {self.restore}" if self.restore is not None else ", and it stays"


@dataclass(frozen=True, slots=True)
class Create:
    """Make a file that QEMU would make and may not; at the end unlink it (`remove`) or give it `restore`.

    `remove_empty`: unlink it where nobody has written to it. `mode` is QEMU's own, before the caller's umask.
    """

    path: str
    context: Context
    restore: Context
    remove: bool
    remove_empty: bool = False
    mode: int = 0o666

    def describe(self) -> str:
        """Return what is made and what follows at the end."""
        end = "removed at the end" if self.remove else f"at the end {self.restore}"
        end += ", or removed if it is still empty" if self.remove_empty else ""
        return f"create   {self.path}: {self.context}, {end}"


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """Make a folder of the VM's own, removed with all that is in it at the end."""

    path: str
    context: Context

    def describe(self) -> str:
        """Return what is made."""
        return f"folder   {self.path}: {self.context}, removed at the end"


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind a unix socket at `path` and hand it to QEMU as a descriptor; unlinked at the end.

    `relayed`: the caller's range is wider than the VM may use, so the launcher's relay owns the listener and
    QEMU's own lies at `inner`, in the VM's folder, at the VM's level.
    """

    name: str
    path: str
    file_context: Context | None
    socket_context: Context | None
    inner: str | None = None
    by_qemu: bool = False
    """QEMU makes the socket at `inner` itself."""

    @property
    def inner_context(self) -> Context | None:
        """The label of the socket that QEMU itself listens on: the file's, at the level of the VM."""
        if self.file_context is None or self.socket_context is None:
            return self.file_context
        return replace(self.file_context, range=self.socket_context.range)

    @property
    def relayed(self) -> bool:
        """Tell whether clients reach QEMU through the relay."""
        return self.inner is not None

    def describe(self) -> str:
        """Return what is bound and for whom."""
        how = "through a relay" if self.relayed else f"as {self.socket_context}"
        return f"listen   {self.path}: {self.file_context}, {how}, removed at the end"


@dataclass(frozen=True, slots=True)
class Retag:
    """Give an inherited pipe, or a file that has no name any more, a label that the VM may use."""

    number: int
    context: Context

    def describe(self) -> str:
        """Return which descriptor gets which label."""
        return f"label    descriptor {self.number}: {self.context}"


@dataclass(frozen=True, slots=True)
class Relay:
    """Put a socket of the VM's in the place of an inherited one that it may not use, and copy between the two."""

    number: int
    socket_context: Context

    def describe(self) -> str:
        """Return which descriptor is relayed."""
        return f"relay    descriptor {self.number}: as {self.socket_context}"


@dataclass(frozen=True, slots=True)
class KeepFolder:
    """Make a folder that stays, a new TPM's state; at the end it gets `restore`."""

    path: str
    context: Context
    restore: Context

    def describe(self) -> str:
        """Return what is made and what follows at the end."""
        return f"folder   {self.path}: {self.context}, at the end {self.restore}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """Do nothing at the start; at the end give `restore` to all in a folder that carries the VM's own label `given`.

    That is what the VM or its helper made there. `deep`: also in the folders below, on the same file system. `identity`
    is None for a folder that this plan makes.
    """

    path: str
    identity: Identity | None
    given: Context
    restore: Context
    deep: bool

    def describe(self) -> str:
        """Return what will happen at the end."""
        where = "below" if self.deep else "in"
        return f"sweep    {self.path}: at the end {self.restore} for what is made {where} it as {self.given}"


@dataclass(frozen=True, slots=True)
class LabelTree:
    """Give a shared folder and all that is in it the label `given`; at the end each gets back its own.

    `before` is the folder's own label, `number` tells the trees of a VM apart, `count` is how many entries there are.
    `exclusive`: no other VM may share it meanwhile.
    """

    path: str
    identity: Identity
    before: Context
    given: Context
    exclusive: bool
    number: int
    count: int

    def describe(self) -> str:
        """Return what is labelled and what follows at the end."""
        much = f"{self.count:,} entr{'y' if self.count == 1 else 'ies'}"
        return f"tree     {self.path}: {much}: {self.given}, at the end each its own label again"


@dataclass(frozen=True, slots=True)
class StartHelper:
    """Start a program that serves a folder to the VM; it ends with the VM.

    QEMU's end of its socket is a descriptor (`fd={name}`). `context` and `socket_context` are None where nothing
    confines the VM. `identity` is None for a folder that this plan makes. What it says goes to a
    file in `own_folder`, the VM's.
    """

    kind: HelperKind
    name: str
    program: str
    arguments: tuple[str, ...]
    folder: str
    identity: Identity | None
    context: Context | None
    socket_context: Context | None
    own_folder: str | None
    ruleset: Ruleset | None = None
    """What Landlock leaves it, where Landlock holds the VM."""

    def describe(self) -> str:
        """Return what is started, where and as what."""
        command = " ".join((self.program, *self.arguments))
        who = f"as {self.context}" if self.context is not None else "not confined"
        if self.ruleset is not None:
            held = "held by Landlock with rules of its own"
            who = f"{who}, {held}" if self.context is not None else held
        return f"start    {command}: in {self.folder}, {who}, ends with the VM"


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the file `source` to `path`, in a folder of the VM's own; it has `size` bytes."""

    path: str
    source: str
    identity: Identity
    size: int
    context: Context

    def describe(self) -> str:
        """Return what is copied and what follows at the end."""
        return f"copy     {self.source}: {self.size:,} bytes to {self.path}: {self.context}, removed at the end"


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect to the unix socket at `path` and hand the connection to QEMU as a descriptor."""

    name: str
    path: str

    def describe(self) -> str:
        """Return what is connected to."""
        return f"connect  {self.path}: by the launcher"


@dataclass(frozen=True, slots=True)
class AttachTap:
    """Attach to the tap device `interface` and hand it to QEMU as a descriptor; `headers`: as QEMU asks (IFF_VNET_HDR).

    What is attached to belongs to its maker's domain, and no policy lets a VM take it from there.
    """

    name: str
    interface: str
    headers: bool

    def describe(self) -> str:
        """Return what is attached to."""
        return f"attach   {self.interface}: by the launcher"


@dataclass(frozen=True, slots=True)
class MakeFile:
    """Make a file that QEMU would make and, held by Landlock, may not: `mode` is QEMU's own, before the umask.

    At the end it is unlinked (`remove`), or only where nobody has written to it (`remove_empty`).
    """

    path: str
    mode: int
    remove: bool
    remove_empty: bool = False

    def describe(self) -> str:
        """Return what is made and what follows at the end."""
        end = ", removed at the end" if self.remove else ""
        return f"create   {self.path}{', removed at the end if it is still empty' if self.remove_empty else end}"


@dataclass(frozen=True, slots=True)
class OwnFolder:
    """Make a folder of the VM's own for a VM without labels, removed with all that is in it at the end."""

    path: str

    def describe(self) -> str:
        """Return what is made."""
        return f"folder   {self.path}: removed at the end"


@dataclass(frozen=True, slots=True)
class Listen:
    """Bind a unix socket without a label and hand it to QEMU as a descriptor; unlinked at the end.

    `by_qemu`: QEMU binds it itself, as it can be handed no descriptor.
    """

    name: str
    path: str
    by_qemu: bool = False

    def describe(self) -> str:
        """Return what is bound."""
        who = "by QEMU" if self.by_qemu else "by the launcher"
        return f"listen   {self.path}: {who}, removed at the end"


@dataclass(frozen=True, slots=True)
class OwnGroup:
    """Make a control group within the caller's and enter it, where the kernel lets the launcher; QEMU runs in it.

    At the end what is left in it is killed (`kills`), and it is removed.
    """

    path: str
    kills: bool

    def describe(self) -> str:
        """Return what is made and what follows at the end."""
        return f"group    {self.path}: {'killed and ' if self.kills else ''}removed at the end"


RemovedStep = MakeFile | OwnFolder | Listen
"""The steps without labels that leave something to be removed."""
JournalStep = Relabel | Create | MakeFolder | Bind | KeepFolder | Sweep | LabelTree | OwnGroup
"""The steps that leave something on the host, but for what lies in a folder of the VM's own."""
Step = JournalStep | RemovedStep | Retag | Relay | StartHelper | Connect | AttachTap | Copy
