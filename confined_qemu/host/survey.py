"""Collects the facts: looks at SELinux, KVM, files, descriptors and live VMs, and changes nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from confined_qemu.host import inodes, kvm, lsm
from confined_qemu.model import hostpaths, paths, policynames
from confined_qemu.model.errors import HINT, HostError, LsmError, descriptor_for, why
from confined_qemu.model.facts import DescriptorFacts, FileFacts, FileKind, Identity, SelinuxFacts, SelinuxMode
from confined_qemu.model.invocation import Confinement
from confined_qemu.model.lean import TYPE_CHECKING, replace
from confined_qemu.model.resource import Access

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from confined_qemu.host.mounts import Mounts
    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts, KvmFacts
    from confined_qemu.model.hardening import HardeningFacts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.landlock import LandlockFacts


def selinux(*, scan: bool = True) -> SelinuxFacts:
    """Return what the kernel and the policy say; `scan` looks for every process that holds categories.

    Raises:
        LsmError: SELinux is on and something of it cannot be read.
    """
    mode = lsm.mode()
    if mode is SelinuxMode.DISABLED:
        return SelinuxFacts(mode)
    own = lsm.own_context()
    in_domain = own.type == policynames.LAUNCHER
    caller = lsm.previous_context() if in_domain else own
    contexts = lsm.policy_contexts()
    from confined_qemu.model.mcs import Level

    mls = lsm.is_valid(contexts.content.at(Level(1)))
    node = lsm.context_of(kvm.NODE) if os.path.exists(kvm.NODE) else None
    found = SelinuxFacts(mode, own, caller, contexts, in_domain, (), mls, node, lsm.enters_held())
    return scanned(found) if scan else found


def scanned(found: SelinuxFacts) -> SelinuxFacts:
    """Return the facts with every process that holds categories now."""
    if found.mode is SelinuxMode.DISABLED:
        return found
    from confined_qemu.host import processes

    live = processes.holding_categories()
    if found.mls and found.contexts is not None:
        # there categories classify, and daemons, kernel threads and logins have them too: only VMs hold a pair
        live = tuple(process for process in live if process.context.type in found.contexts.domains)
    return replace(found, live=live)


def as_launched(found: SelinuxFacts) -> SelinuxFacts:
    """Return the facts as the launch script would find them if it were started now, for a plan that is only shown.

    Raises:
        LsmError: the kernel cannot be asked.
    """
    if found.own is None or found.in_domain or not os.path.exists(paths.LAUNCH_SCRIPT):
        return found
    script = lsm.context_of(paths.LAUNCH_SCRIPT)
    if script is None:
        return found
    launcher = lsm.created(found.own, script, "process")
    return replace(found, own=launcher, in_domain=launcher.type == policynames.LAUNCHER)


def accelerator() -> KvmFacts:
    """Return whether VT-x or AMD-V can be used, by using it."""
    return kvm.host()


def files(names: Iterable[str], selinux_facts: SelinuxFacts) -> dict[str, FileFacts]:
    """Look at each path once; a path that cannot be looked at says why in `problem`."""
    table = None
    if selinux_facts.mode is not SelinuxMode.DISABLED:
        from confined_qemu.host.mounts import Mounts

        table = Mounts()
    return {name: file(name, selinux_facts, table) for name in dict.fromkeys(names)}


def file(name: str, selinux_facts: SelinuxFacts, table: Mounts | None = None) -> FileFacts:
    """Return what the host says of one file. Links are followed by hand-over to the kernel, then left behind."""
    path = os.path.join(os.getcwd(), name)
    problem = "a path cannot hold a NUL byte" if "\0" in name else None
    if problem is None and hostpaths.stands_for_a_node(path):
        from confined_qemu.host import devices

        path, problem = devices.node(path)
    if problem is not None:
        return FileFacts(path, path, FileKind.MISSING, problem=problem)
    real = os.path.realpath(path)
    labelled = selinux_facts.mode is not SelinuxMode.DISABLED
    try:
        descriptor = os.open(real, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT and os.path.isdir(os.path.dirname(real)):
            return _missing(path, real, table) if labelled else FileFacts(path, real, FileKind.MISSING)
        return FileFacts(path, real, FileKind.MISSING, problem=_problem(error))
    try:
        found = _opened(path, real, descriptor, selinux_facts)
        if found.label is None or table is None:
            return found
        return replace(found, mount=table.of(descriptor))
    except (HostError, LsmError, OSError) as error:
        # SELinux lets the launcher look at images, not at every pipe
        problem = _problem(error) if isinstance(error, OSError) else error.what
        return FileFacts(path, real, FileKind.MISSING, problem=problem)
    finally:
        os.close(descriptor)


def _missing(path: str, real: str, table: Mounts | None) -> FileFacts:
    """Return what decides about a file that is to be made: its folder's label and mount."""
    try:
        folder = os.open(os.path.dirname(real), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return FileFacts(path, real, FileKind.MISSING, problem=_problem(error))
    try:
        context = lsm.context_of(f"/proc/self/fd/{folder}")
        mount = table.of(folder) if table is not None else None
    except (HostError, LsmError) as error:
        return FileFacts(path, real, FileKind.MISSING, problem=error.what)
    finally:
        os.close(folder)
    return FileFacts(path, real, FileKind.MISSING, folder_label=context, mount=mount)


def entry(path: str, selinux_facts: SelinuxFacts) -> FileFacts:
    """Return what the host says of an entry of a folder; a link is looked at, not followed."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return FileFacts(path, path, FileKind.MISSING, problem=_problem(error))
    try:
        return _opened(path, path, descriptor, selinux_facts)
    except LsmError as error:
        return FileFacts(path, path, FileKind.MISSING, problem=error.what)
    finally:
        os.close(descriptor)


def _opened(path: str, real: str, descriptor: int, selinux_facts: SelinuxFacts) -> FileFacts:
    found = os.fstat(descriptor)
    given: Context | None = None
    default: Context | None = None
    in_use = False
    itself, used = _device(found)
    if selinux_facts.mode is not SelinuxMode.DISABLED:
        given = lsm.context_of(f"/proc/self/fd/{descriptor}")
        contexts = selinux_facts.contexts
        if given is not None and contexts is not None and contexts.is_given(given):
            default = lsm.default_label(real, found.st_mode)
            in_use = stat.S_ISREG(found.st_mode) and inodes.in_use(descriptor)
    return FileFacts(
        path,
        real,
        inodes.kind_of(found.st_mode),
        inodes.identity_of(descriptor),
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        stat.S_IMODE(found.st_mode),
        given,
        default,
        devices=itself,
        used=used,
        size=found.st_size,
        in_use=in_use,
    )


def _device(found: os.stat_result) -> tuple[tuple[Identity, ...], str | None]:
    """Return the devices that a node stands for, and what of the host uses it already."""
    if not (stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode)):
        return (), None
    from confined_qemu.host import devices

    if stat.S_ISBLK(found.st_mode):
        numbers = devices.overlapping(found.st_rdev)
        return tuple(Identity.of_device(FileKind.BLOCK, one) for one in numbers), devices.used(found.st_rdev)
    itself = devices.identity(found.st_mode, found.st_rdev)
    return (itself,) if itself is not None else (), None


def _problem(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "its symbolic links form a loop"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "no such file or folder"
    return f"cannot be looked at: {why(error)}"


def descriptors(numbers: Iterable[int], selinux_facts: SelinuxFacts) -> tuple[DescriptorFacts, ...]:
    """Return what each inherited descriptor is, and whether SELinux already took it away."""
    if selinux_facts.mode is SelinuxMode.DISABLED:
        return ()
    taken = lsm.device()
    return tuple(_descriptor(number, taken) for number in numbers)


def _descriptor(number: int, taken: int) -> DescriptorFacts:
    found = os.fstat(number)
    access = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    swapped = found.st_dev == taken and stat.S_ISCHR(found.st_mode)
    kind = _socket_class(number) if stat.S_ISSOCK(found.st_mode) else inodes.kind_of(found.st_mode)
    context = None if kind is FileKind.MISSING else lsm.context_of(number)
    return DescriptorFacts(
        number, str(kind), context, swapped, access != os.O_WRONLY, access != os.O_RDONLY, found.st_uid,
        found.st_nlink, _path(number, found),
    )  # fmt: skip


def _path(number: int, found: os.stat_result) -> str | None:
    """Return the path that leads to the regular file behind a descriptor, None where none does any more."""
    if not stat.S_ISREG(found.st_mode) or not found.st_nlink:
        return None
    path = os.readlink(f"/proc/self/fd/{number}")
    try:
        return path if os.path.samestat(os.lstat(path), found) else None
    except OSError:
        return None


def handed_files(numbers: Iterable[int]) -> tuple[str, ...]:
    """Return the paths of the regular files among inherited descriptors."""
    return tuple(path for number in numbers if (path := _path(number, os.fstat(number))) is not None)


def _socket_class(number: int) -> str:
    """Return SELinux's class of a socket (security/selinux/hooks.c, `socket_type_to_security_class`)."""
    import socket

    with descriptor_for(f"a look at descriptor {number}"):
        copy = socket.socket(fileno=os.dup(number))
    with copy:
        stream = copy.type == socket.SOCK_STREAM
        if copy.family == socket.AF_UNIX:
            return "unix_stream_socket" if stream or copy.type == socket.SOCK_SEQPACKET else "unix_dgram_socket"
        if copy.family in (socket.AF_INET, socket.AF_INET6):
            return "tcp_socket" if stream else "udp_socket"
    return "socket"


def environment_text(environment: Mapping[bytes, bytes], name: str) -> str:
    """Return a variable of the caller's environment as text, empty where it is not set."""
    return os.fsdecode(environment.get(os.fsencode(name), b""))


# ---- what a VM's process can give up

_READS = frozenset({Access.READ, Access.DIRECTORY})
_WRITES_ONLY = frozenset({Access.WRITE, Access.CONNECT})


def hardening(invocation: Invocation, found_files: Mapping[str, FileFacts]) -> HardeningFacts | None:
    """Return what this process has to give up for a VM whose files were looked at; None where it gives up nothing."""
    if invocation.query or invocation.confinement is Confinement.NONE:
        return None
    from confined_qemu.host import capabilities
    from confined_qemu.model.hardening import HardeningFacts

    held = capabilities.held()
    if "dac_override" not in held or invocation.user is not None:
        return HardeningFacts(held)
    overridden = (
        found_files[resource.path].path
        for resource in invocation.resources
        if _takes_override(found_files[resource.path], resource.access)
    )
    return HardeningFacts(held, tuple(dict.fromkeys(overridden)))


def _takes_override(found: FileFacts, access: Access) -> bool:
    """Tell whether owner and mode of a file, or of a folder that leads to it, keep its user out who is no root."""
    folders, folder = [], os.path.dirname(found.real)
    while folder not in {"/", ""}:
        folders.append(folder)
        folder = os.path.dirname(folder)
    for path in folders:
        try:
            status = os.stat(path)
        except OSError:
            return False
        if not _may(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), 0o1):
            return True
    if found.kind is FileKind.MISSING:
        return False
    bits = (0o4 if access not in _WRITES_ONLY else 0) | (0o2 if access not in _READS else 0)
    return not _may(found.owner, found.group, found.mode, bits)


def _may(owner: int, group: int, mode: int, bits: int) -> bool:
    """Tell whether the mode gives this process all of `bits`, without any capability."""
    if owner == os.geteuid():
        return mode >> 6 & bits == bits
    if group == os.getegid() or group in os.getgroups():
        return mode >> 3 & bits == bits
    return mode & bits == bits


# ---- Landlock, and what a VM's rules are made of


def landlock_of_kernel() -> LandlockFacts:
    """Return the kernel's ABI alone; one that cannot be asked is a `problem`."""
    from confined_qemu.host import landlock
    from confined_qemu.model.landlock import LandlockFacts

    try:
        return LandlockFacts(landlock.abi())
    except HostError as error:
        return LandlockFacts(0, problem=f"{error.what}{HINT}{error.hint}" if error.hint else error.what)


def landlock_for(kernel: LandlockFacts, found: Facts, environment: Mapping[bytes, bytes]) -> LandlockFacts:
    """Return what the rules of this VM are made of on this host; a kernel without Landlock has none."""
    if not kernel.abi:
        return kernel
    from confined_qemu.host import installation
    from confined_qemu.model.landlock import LandlockFacts

    return LandlockFacts(kernel.abi, installation.found(found.emulator.real, environment))
