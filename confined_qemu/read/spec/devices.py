"""The devices of a VM as they are wanted, disks apart: lines to the host, network cards, TPM, shared folders. Pure."""

from __future__ import annotations

from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass
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


class Sound(StrEnum):
    """libvirt's `<sound model=>`; what it plays is heard by nobody."""

    AC97 = "ac97"
    ICH6 = "ich6"
    ICH9 = "ich9"


class Input(StrEnum):
    """libvirt's `<input type= bus='usb'>`."""

    TABLET = "tablet"
    KEYBOARD = "keyboard"
    MOUSE = "mouse"


class MemoryBacking(StrEnum):
    """What the guest's memory is of, where another program or huge pages need it to be more than QEMU's own."""

    MEMFD = "memfd"
    HUGEPAGES = "hugepages"


class HostBus(StrEnum):
    """What a device of the host is plugged into."""

    USB = "usb"
    PCI = "pci"


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device of the host that the guest gets: libvirt's `<hostdev>`; `options` are QEMU's words for which one."""

    bus: HostBus
    name: str
    options: tuple[tuple[str, str], ...]

    PATTERN = (
        r"usb:[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}|usb:[0-9]{1,3}-[0-9]{1,3}(\.[0-9]{1,3})*|usb:[0-9]{1,3}/[0-9]{1,3}"
        r"|pci:([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]"
    )

    @classmethod
    def parse(cls, text: str) -> HostDevice:
        """Read `usb:VENDOR:PRODUCT`, `usb:BUS-PORT`, `usb:BUS/ADDRESS` or `pci:DOMAIN:BUS:SLOT.FUNCTION`.

        Raises:
            ValueProblem: none of these.
        """
        import re

        if re.fullmatch(cls.PATTERN, text) is None:
            raise ValueProblem(
                f"expected a device such as usb:046d:c52b, usb:1-2, usb:1/5 or pci:0000:01:00.0, got {text!r}"
            )
        bus, _, name = text.partition(":")
        if bus == HostBus.PCI:
            return cls(HostBus.PCI, name, (("host", name),))
        for mark, keys, prefix in ((":", ("vendorid", "productid"), "0x"), ("-", ("hostbus", "hostport"), "")):
            if mark in name:
                parts = (f"{prefix}{part}" for part in name.split(mark))
                return cls(HostBus.USB, name, tuple(zip(keys, parts, strict=True)))
        number, _, address = name.partition("/")
        return cls(HostBus.USB, name, (("hostbus", str(int(number))), ("hostaddr", str(int(address)))))

    def __str__(self) -> str:
        return f"{self.bus.value}:{self.name}"


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
        raise ValueProblem(f"expected stdio, null, none, file:PATH or unix:PATH, got {text!r}")

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


# ---- a TPM, and folders that are shared


class TpmVersion(StrEnum):
    """libvirt's `<backend version=>`."""

    TPM_2 = "2.0"


class TpmModel(StrEnum):
    """libvirt's `<tpm model=>`: how the guest sees it."""

    CRB = "tpm-crb"
    TIS = "tpm-tis"


@dataclass(frozen=True, slots=True)
class Tpm:
    """A TPM that swtpm emulates; `state` is the folder of what it keeps."""

    state: str
    version: TpmVersion = TpmVersion.TPM_2
    model: TpmModel = TpmModel.CRB


class ShareDriver(StrEnum):
    """libvirt's `<driver type=>` of a `<filesystem>`; `9p` is its `path`."""

    VIRTIOFS = "virtiofs"
    NINE_P = "9p"


@dataclass(frozen=True, slots=True)
class Share:
    """A folder of the host that the guest mounts by its `tag`: libvirt's `<filesystem type='mount'>`."""

    dir: str
    tag: str
    driver: ShareDriver = ShareDriver.VIRTIOFS
    readonly: bool = False
    relabel: bool = False


def share_violations(shares: tuple[Share, ...]) -> Iterator[Violation]:
    """Yield each rule that the shares of a VM break."""
    seen: dict[str, int] = {}
    for number, share in enumerate(shares):
        first = seen.setdefault(share.tag, number)
        if first != number:
            what = f"the tag {share.tag!r} is shares[{first}]'s already: the guest could not tell them apart"
            yield Violation(f"shares[{number}].tag", what, "give each its own tag", ("shares",))


def needs_shared_memory(shares: tuple[Share, ...]) -> bool:
    """Tell whether a helper must see the guest's memory (vhost-user)."""
    return any(share.driver is ShareDriver.VIRTIOFS for share in shares)
