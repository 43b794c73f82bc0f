"""What both a VM spec and a raw command line come to: QEMU's arguments and the host files they name."""

from __future__ import annotations

from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass, field
from confined_qemu.model.resource import Role

if TYPE_CHECKING:
    from confined_qemu.model.context import Context
    from confined_qemu.model.helper import Helper
    from confined_qemu.model.resource import Listener, Resource, Tap


class Accel(StrEnum):
    """The accelerator that was asked for. `auto` takes KVM where VT-x or AMD-V is really there, else TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Hypervisor(StrEnum):
    """What runs the VM: QEMU in a process of this host, or Xen, whose dom0 this host is."""

    QEMU = "qemu"
    XEN = "xen"


class Confinement(StrEnum):
    """What must hold the VM. `auto` takes SELinux where it enforces, else Landlock; without either nothing starts."""

    SELINUX = "selinux"
    LANDLOCK = "landlock"
    AUTO = "auto"
    NONE = "none"


class SecondWall(StrEnum):
    """Does Landlock hold a VM as well that SELinux holds? `auto`: where nothing can have QEMU open files later."""

    AUTO = "auto"
    ALSO = "also"
    NO = "no"


class SeclabelType(StrEnum):
    """libvirt's `<seclabel type=>`: who gives the VM its label."""

    DYNAMIC = "dynamic"
    STATIC = "static"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Seclabel:
    """The VM's seclabel. `label` is a static VM's whole process context, `baselabel` gives a dynamic one its type."""

    type: SeclabelType = SeclabelType.DYNAMIC
    relabel: bool = True
    label: Context | None = None
    baselabel: Context | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    """One QEMU command line and every host file that it names.

    `arguments` do not hold the emulator itself. `accel_index` is the number of the argument whose text the plan
    replaces with the accelerator that it chose, None where the command line decides (raw mode). `query` is true
    for a command line that prints something and starts no VM (`-version`, `-device help`).
    """

    name: str
    emulator: str
    arguments: tuple[str, ...]
    resources: tuple[Resource, ...] = ()
    listeners: tuple[Listener, ...] = ()
    taps: tuple[Tap, ...] = ()
    helpers: tuple[Helper, ...] = ()
    accel: Accel = Accel.AUTO
    accel_index: int | None = None
    confinement: Confinement = Confinement.AUTO
    landlock: SecondWall = SecondWall.AUTO
    seclabel: Seclabel = field(default_factory=Seclabel)
    require_domain: bool = False
    user: str | None = None
    needs_tmpdir: bool = False
    """QEMU will make temporary files (`-snapshot`), so it gets a folder of its own."""
    daemonize: bool = False
    query: bool = False
    problems: tuple[str, ...] = ()
    """Why a layer of an image cannot be followed; the plan refuses each."""
    harden: bool = True
    """Give up capabilities that the VM does not need."""
    sandbox: bool = False
    """QEMU gets its own seccomp filter (`-sandbox`)."""
    group: bool = False
    """QEMU gets a control group of its own, where one can be had."""
    core: bool = True
    """QEMU may leave a core file, as the caller's limit allows."""
    snapshot: bool = False
    """Every disk is written to a temporary overlay only (`-snapshot`)."""
    window: str | None = None
    """By what QEMU opens a window on an X server: `gtk`, `sdl`, or `default` for whichever it has; None without."""
    x_key: str | None = None
    """The file by which that server knows its user."""
    remarks: tuple[str, ...] = ()
    """What the reader has to say about the VM, for the plan's warnings: what of a libvirt domain was lost."""

    given: tuple[str, ...] | None = None
    """The arguments as they were given, where `arguments` differ from them (a listener became a descriptor)."""

    @property
    def keeps_context(self) -> bool:
        """Tell whether QEMU keeps the caller's context, so that nothing is labelled."""
        unlabelled = self.confinement in {Confinement.NONE, Confinement.LANDLOCK}
        return unlabelled or self.seclabel.type is SeclabelType.NONE

    @property
    def shares(self) -> tuple[Resource, ...]:
        """The folders that QEMU itself shares (9p, `fat:`): those of which more than their own label counts."""
        return tuple(resource for resource in self.resources if resource.role is Role.SHARE)

    def takes_landlock(self, *, enforced: bool) -> bool:
        """Tell whether Landlock is to hold the VM: if it is asked for, and for `auto` if SELinux does not enforce.

        A question to QEMU starts no VM.
        """
        auto = self.confinement is Confinement.AUTO and not enforced
        return not self.query and (auto or self.confinement is Confinement.LANDLOCK)
