"""A VM's TPM and the folders that it shares with the host: what a spec says of them. Pure."""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.enums import StrEnum
from confined_qemu.model.frozen import dataclass
from confined_qemu.read.spec.rules import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator


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
