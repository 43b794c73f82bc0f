"""What a plan does to the host, one frozen value for each act; each says itself in one line.

A step that changes something on disk is in the journal before it is done, and `undo` says how it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confined_qemu.context import Context
    from confined_qemu.facts import FileKind, Identity


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
    """Make a file that QEMU would make and may not; at the end unlink it (`remove`) or give it `restore`."""

    path: str
    context: Context
    restore: Context
    remove: bool
    truncate: bool = False

    def describe(self) -> str:
        """Return what is made and what follows at the end."""
        end = "removed at the end" if self.remove else f"at the end {self.restore}"
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
    QEMU's own lies at `inner`, in the VM's folder.
    """

    name: str
    path: str
    file_context: Context | None
    socket_context: Context | None
    inner: str | None = None

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
    """Bring an inherited pipe to the level that the VM may use."""

    number: int
    context: Context

    def describe(self) -> str:
        """Return which descriptor gets which label."""
        return f"pipe     descriptor {self.number}: {self.context}"


@dataclass(frozen=True, slots=True)
class Relay:
    """Put a socket of the VM's in the place of an inherited one that it may not use, and copy between the two."""

    number: int
    socket_context: Context

    def describe(self) -> str:
        """Return which descriptor is relayed."""
        return f"relay    descriptor {self.number}: as {self.socket_context}"


Step = Relabel | Create | MakeFolder | Bind | Retag | Relay
JournalStep = Relabel | Create | MakeFolder | Bind
"""The steps that leave something on disk."""
