"""A host file that QEMU will use: which one, what for, how, and who else may.

`plan --json` prints these values under the same names (`Sharing` as `class`).
"""

from __future__ import annotations

from confined_qemu.model.commas import escape
from confined_qemu.model.lean import TYPE_CHECKING, Enum, StrEnum, auto, dataclass

if TYPE_CHECKING:
    from confined_qemu.model.context import Context


class Access(StrEnum):
    """What QEMU does with the file."""

    READ = "ro"
    READ_WRITE = "rw"
    WRITE = "wo"
    CREATE = "create"
    """QEMU makes the file when it is missing and writes it: a log, a pidfile, a memory file."""
    DIRECTORY = "dir"
    CONNECT = "connect"
    LISTEN = "listen"


class Sharing(StrEnum):
    """How the file is labelled (`class` in the plan's JSON), after the sVirt rules."""

    PRIVATE = "private"
    """The VM's own: the image type at the VM's pair."""
    SHARED = "shared"
    """Read and written by several VMs: the image type without categories, and it stays."""
    CONTENT = "content"
    """Read only, by any number of VMs: the content type without categories."""
    UNLABELLED = "unlabelled"
    """Left as it is: a system's file, a device, an inherited descriptor."""


class Role(StrEnum):
    """What the file is to the VM."""

    DISK = "disk"
    CDROM = "cdrom"
    FLOPPY = "floppy"
    BACKING = "backing"
    DATA_FILE = "data-file"
    KERNEL = "kernel"
    INITRD = "initrd"
    DTB = "dtb"
    FIRMWARE = "firmware"
    NVRAM = "nvram"
    ACPI_TABLE = "acpi_table"
    FW_CFG = "fw_cfg"
    SMBIOS = "smbios"
    OPTION_ROM = "option_rom"
    CHARDEV = "chardev"
    SOCKET = "socket"
    PIDFILE = "pidfile"
    LOG = "log"
    MEMORY = "memory"
    STATE = "state"
    SECRET = "secret"  # noqa: S105 - the name of a role
    SERVED = "share"
    """A folder that QEMU itself serves (tftp, smb, an MTP device) or moves into (`-chroot`)."""
    SHARE = "filesystem"
    """A folder that the guest mounts (9p, virtiofs): its whole tree counts; READ where the guest may only read it."""
    TPM = "tpm"
    TPM_STATE = "tpm_state"
    USB = "usb"
    EVDEV = "evdev"
    VFIO = "vfio"
    PROGRAM = "helper"
    """What QEMU runs or loads: a script of a network, a bridge helper, a TCG plugin."""
    HOST_DEVICE = "host_device"
    CONFIG = "config"
    EXTRA = "extra"
    """What the VM is told to open while it runs, over QMP: a disk, or what a command writes (a screen, a log)."""


PROBED = "probed"
"""The format of an image for which QEMU is told none, so that it looks into the image itself."""
LAYERED = frozenset({PROBED, "qcow", "qcow2", "qed", "vmdk"})
"""Formats whose header may name other files: a backing file, a data file, extents."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One host file of a VM.

    `path` is as QEMU gets it (relative paths start at QEMU's working directory), `source` names the place
    that asked for it (`disks[0].file`, `-drive file=`), for messages. `format` is the stated image format, `PROBED`
    for an image without one, None for what is no image. `stated` holds the layers (backing, data file) that the
    command line names in the place of the header's. `named_by` is the image whose header names this file, None
    where a person did. `label` is a context of the user's own, `relabel` False keeps the label that the file
    has; None leaves both to the VM's seclabel. `optional` is what QEMU does without where it is missing or denied.
    `otherwise` are the names that QEMU tries, in order, where this one is not there (in the folders of `-L`).
    `argument` is the index of QEMU's argument that names it, None where none does as it stands.
    """

    path: str
    role: Role
    access: Access
    sharing: Sharing
    source: str
    format: str | None = None
    label: Context | None = None
    relabel: bool | None = None
    label_tree: bool = False
    """A share that is labelled for the VM with all that is in it."""
    stated: frozenset[Role] = frozenset()
    named_by: str | None = None
    optional: bool = False
    otherwise: tuple[str, ...] = ()
    argument: int | None = None

    @property
    def layered(self) -> bool:
        """Tell whether its header may name other files: a system's own images and descriptors are taken as they are."""
        return self.format in LAYERED and self.sharing is not Sharing.UNLABELLED

    @property
    def made_if_missing(self) -> bool:
        """Tell whether a missing file is made: QEMU would make it, or (EXTRA) a command over QMP will want it made."""
        return self.access is Access.CREATE or (self.role is Role.EXTRA and self.access is Access.READ_WRITE)


class Takes(Enum):
    """What stands in an argument for a socket."""

    DESCRIPTOR = auto()
    """The number of a descriptor: the launcher makes the socket."""
    PATH = auto()
    """A path: QEMU can be handed no descriptor here, and makes the socket itself in the VM's own folder."""
    LISTED_PATH = auto()
    """The same in a comma list."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A unix socket that the launcher makes for QEMU and hands over as a descriptor.

    It listens at `path`, or (`access` CONNECT) is connected to what listens there.
    The argument number `index` of the emulator's arguments is `before`, the descriptor's number, `after`.
    `name` stands for the number in a printed plan (`fd={name}`). `given` is the whole argument as it was, None where
    `path=` in the place of `fd=` makes it.
    """

    name: str
    path: str
    source: str
    index: int
    before: str
    after: str
    access: Access = Access.LISTEN
    takes: Takes = Takes.DESCRIPTOR
    given: str | None = None

    def by_path(self) -> str:
        """Return the argument where the launcher makes no descriptor: it names the path, as it did."""
        if self.given is not None:
            return self.given
        return f"{self.before.removesuffix('fd=')}path={escape(self.path)}{self.after}"

    def made_by_qemu(self, path: str) -> str:
        """Return the argument of a socket that QEMU makes itself, at `path`."""
        path = escape(path) if self.takes is Takes.LISTED_PATH else path
        return f"{self.before}{path}{self.after}"


TUN = "/dev/net/tun"
"""The node of all tap devices (the kernel's tuntap.rst)."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap device that is there, to which the launcher attaches and which it hands over as a descriptor.

    `headers`: with QEMU's virtio headers (`vnet_hdr`, IFF_VNET_HDR). The rest is as a Listener's.
    """

    name: str
    interface: str
    headers: bool
    before: str
    after: str
    given: str
    index: int = -1

    @property
    def path(self) -> str:
        """Return the folder in sysfs that shows whether it is there; QEMU opens nothing of it."""
        return f"/sys/class/net/{self.interface}"
