"""The devices of a VM as they are wanted, disks apart: lines to the host, network cards. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.frozen import dataclass
from confined_qemu.read.spec.rules import Violation, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator


class CharKind(StrEnum):
    """Where a serial line or a monitor ends on the host."""

    NONE = "none"
    """There is no such device."""
    NULL = "null"
    """The device is there, and what it says is dropped."""
    STDIO = "stdio"
    MUX = "mon:stdio"
    """Standard input and output shared with QEMU's monitor, as `-serial mon:stdio`."""
    FILE = "file"
    UNIX = "unix"


class NetworkType(StrEnum):
    """What a VM's network card is plugged into."""

    NONE = "none"
    USER = "user"
    TAP = "tap"


class NicModel(StrEnum):
    """The network card that the guest sees."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"


@dataclass(frozen=True, slots=True)
class Char:
    """The host's end of a character device; `path` is there for `file` and `unix`, and only there."""

    kind: CharKind
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Char:
        """Read `stdio`, `mon:stdio`, `null`, `none`, `file:PATH` or `unix:PATH`.

        Raises:
            ValueProblem: none of these.
        """
        kind, colon, path = text.partition(":")
        if colon and path and kind in {CharKind.FILE, CharKind.UNIX}:
            return cls(CharKind(kind), path)
        if text in {CharKind.NONE, CharKind.NULL, CharKind.STDIO, CharKind.MUX}:
            return cls(CharKind(text))
        raise ValueProblem(f"{text!r} is none of stdio, null, none, file:PATH and unix:PATH")

    def __str__(self) -> str:
        return self.kind.value if self.path is None else f"{self.kind.value}:{self.path}"

    @property
    def on_stdio(self) -> bool:
        """Tell whether it takes QEMU's standard input and output."""
        return self.kind in {CharKind.STDIO, CharKind.MUX}


@dataclass(frozen=True, slots=True)
class Network:
    """The VM's network card: what it is plugged into, and how the guest sees it.

    `fd` is the number of an inherited descriptor of a tap device; `hostfwd` holds QEMU's texts, such as
    `tcp:127.0.0.1:2222-:22`.
    """

    type: NetworkType = NetworkType.NONE
    model: NicModel = NicModel.VIRTIO
    mac: str | None = None
    ifname: str | None = None
    fd: int | None = None
    hostfwd: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse(self._violations())

    def _violations(self) -> Iterator[Violation]:
        tap = self.type is NetworkType.TAP
        for key in ("ifname", "fd"):
            if getattr(self, key) is not None and not tap:
                yield Violation(key, f"only a tap network has {key}", "use type: tap", ("type",))
        if self.hostfwd and self.type is not NetworkType.USER:
            yield Violation("hostfwd", "only a user network forwards ports", "use type: user", ("type",))
        if self.mac is not None and self.type is NetworkType.NONE:
            yield Violation("mac", "there is no network card", "use type: user or tap", ("type",))
        if tap and (self.ifname is None) == (self.fd is None):
            yield Violation(
                "type",
                "a tap network needs one of ifname and fd",
                "name the interface (ifname: tap0) or the descriptor (fd: 5)",
                ("ifname", "fd"),
            )
