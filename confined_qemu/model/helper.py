"""A VM's helpers: programs that serve a folder of the host to it through a socket, and what is known of each. Pure."""

from __future__ import annotations

from confined_qemu.model import policynames
from confined_qemu.model.distribution import Package
from confined_qemu.model.lean import StrEnum, dataclass

DESCRIPTOR = "{fd}"
"""In a helper's arguments: the number of its socket."""
FOLDER = "{folder}"
"""In a helper's arguments: the number of its folder, open."""


class HelperKind(StrEnum):
    """What a helper does for the VM."""

    SWTPM = "swtpm"
    """It is the VM's TPM, whose state lies in the folder."""
    VIRTIOFSD = "virtiofsd"
    """It shares the folder with the guest."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A helper as it is wanted. `name` stands for QEMU's end of the socket in its arguments (`fd={name}`)."""

    kind: HelperKind
    name: str
    folder: str
    source: str
    readonly: bool = False
    """The guest may only read the folder."""
    version: str = ""
    """The TPM's: `2.0`."""
    label_tree: bool = False
    """The folder and all that is in it may be labelled for the VM."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is known of a helper's program.

    `question` is sent through its socket before QEMU gets it: the answer, of so many bytes, is the sign that it serves.
    `listens`: its socket is one that it accepts a connection on, else the connection itself.
    """

    paths: tuple[str, ...]
    package: Package
    type: str
    readonly_type: str
    question: bytes
    answer: int
    listens: bool


_GET_CAPABILITY = bytes((0, 0, 0, 1))
"""swtpm's control channel (swtpm_ioctls(3)): which commands are there?"""
_GET_FEATURES = bytes((1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0))
"""vhost-user's VHOST_USER_GET_FEATURES, protocol version 1, without a payload: it may be asked at any time."""

PROGRAMS = {
    HelperKind.SWTPM: Program(
        ("/usr/bin/swtpm",),
        Package.SWTPM,
        policynames.SWTPM,
        policynames.SWTPM,
        _GET_CAPABILITY,
        answer=8,
        listens=False,
    ),
    HelperKind.VIRTIOFSD: Program(
        ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"),
        Package.VIRTIOFSD,
        policynames.VIRTIOFSD,
        policynames.VIRTIOFSD_READONLY,
        _GET_FEATURES,
        answer=20,
        listens=True,
    ),
}
STATE_FILES = frozenset(
    f"{prefix}.{name}" for prefix in ("tpm2-00", "TMP2-00", "tpm-00", "TMP-00")
    for name in ("permall", "volatilestate", "savestate")
) | {".lock"}  # fmt: skip
"""What swtpm makes in the folder of its state."""


def arguments(helper: Helper) -> tuple[str, ...]:
    """Return the program's arguments, without a name in them that could be misread: swtpm runs in its folder."""
    if helper.kind is HelperKind.SWTPM:
        control = f"type=unixio,clientfd={DESCRIPTOR}"
        return ("socket", "--tpm2", "--tpmstate", "dir=.", "--ctrl", control, "--terminate")
    # QEMU's virtiofsd and its successor in Rust both read these. A root of its own takes sys_chroot, the default
    # (namespaces) sys_admin: SELinux confines it either way. 0: its limit of open files is the launcher's
    # and, before that, it goes to the root folder: so its source is no relative path but the open folder itself, as the
    # plan found it; the dot at the end because it refuses a link
    source = ("-o", f"source=/proc/self/fd/{FOLDER}/.", "-o", "sandbox=chroot")
    return ("-f", f"--fd={DESCRIPTOR}", *source, "--rlimit-nofile=0")
