"""What a VM gives up beside being labelled: capabilities, system calls, and by Landlock, files. Pure."""

from __future__ import annotations

from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import FileKind
from confined_qemu.model.hardening import Hardening, HardeningFacts
from confined_qemu.model.invocation import SecondWall
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.resource import TUN, Role
from confined_qemu.read.qemu.reach import opens_later

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts, SelinuxFacts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.policy import Policy
    from confined_qemu.read.qemu.reach import Reach

_LOWEST_FREE = 1024
"""Below, a port is bound only with CAP_NET_BIND_SERVICE (ip(7); `ip_unprivileged_port_start` may lower it)."""
_PASSTHROUGH = frozenset({"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "setuid", "setgid", "mknod"})
_SCSI = (frozenset({"sys_rawio"}), "SCSI commands to a device")
_BY_WORD: dict[str, tuple[frozenset[str], str]] = {
    "-runas": (frozenset({"setuid", "setgid"}), "-runas"),
    "-chroot": (frozenset({"sys_chroot"}), "-chroot"),
    "-run-with": (frozenset({"setuid", "setgid", "sys_chroot"}), "-run-with"),
    "mem-lock=on": (frozenset({"ipc_lock"}), "mem-lock=on"),
    "security_model=passthrough": (_PASSTHROUGH, "9p, security_model=passthrough"),
    "security_model=none": (_PASSTHROUGH, "9p, security_model=none"),
    "security_model=mapped": (frozenset({"dac_override", "fowner"}), "9p, security_model=mapped"),
    "security_model=mapped-xattr": (frozenset({"dac_override", "fowner"}), "9p, security_model=mapped"),
    "security_model=mapped-file": (frozenset({"dac_override", "fowner"}), "9p, security_model=mapped"),
    "scsi-block": _SCSI,
    "scsi-generic": _SCSI,
    "thread-context": (frozenset({"sys_nice"}), "thread-context"),
}
"""Words of a command line, the capabilities that what they ask for takes, and how a plan says so."""
_BY_ROLE = {
    Role.VFIO: (frozenset({"ipc_lock"}), "VFIO pins the guest's memory"),
}


_PARTS = {"obsolete": "deny", "elevateprivileges": "deny", "spawn": "deny", "resourcecontrol": "deny"}
"""libvirt's default (qemu_command.c, `qemuBuildSandboxCommandLine`)."""


def sandbox(invocation: Invocation, facts: Facts, reach: Reach) -> tuple[str, ...]:
    """Return QEMU's option for a seccomp filter of its own; none where it has one, or was built without.

    `spawn` stays out where QEMU runs a program, and both `spawn` and `elevateprivileges` with `-daemonize`: QEMU 7.2
    forks and calls setsid(2) under its own filter then, and is killed for it.
    """
    written = reach.words
    if not (invocation.sandbox and facts.sandbox) or "-sandbox" in written:
        return ()
    parts = dict(_PARTS)
    if invocation.daemonize or programs(invocation, facts):
        del parts["spawn"]
    if invocation.daemonize or written & {"-runas", "-run-with"}:
        del parts["elevateprivileges"]
    if "thread-context" in written:
        del parts["resourcecontrol"]
    return "-sandbox", ",".join(("on", *(f"{part}={word}" for part, word in parts.items())))


def programs(invocation: Invocation, facts: Facts) -> tuple[str, ...]:
    """Return what QEMU runs, or loads, that is there: scripts, a bridge helper, a plugin."""
    found = (facts.files[resource.path] for resource in invocation.resources if resource.role is Role.PROGRAM)
    return tuple(dict.fromkeys(program.real for program in found if program.kind is not FileKind.MISSING))


def plan(invocation: Invocation, facts: Facts, reach: Reach, privileges: str | None) -> Hardening:
    """Return what the process of a VM gives up; `privileges` is why it is not started with no_new_privs."""
    found = facts.hardening or HardeningFacts()
    needed: dict[str, str] = {}
    for names, why in _needs(invocation, found, reach, programs(invocation, facts)):
        if names is None:
            return Hardening(None, invocation.core, (why,), privileges)
        needed.update((name, why) for name in names if name in found.capabilities)
    reasons = tuple(dict.fromkeys(needed.values()))
    return Hardening(frozenset(needed), invocation.core, reasons, privileges)


def privileges(invocation: Invocation, facts: Facts, process: Context, policy: Policy) -> str | None:
    """Say why a VM that SELinux holds is started without no_new_privs; None where it gets that.

    A transition under no_new_privs takes a permission of its own (security/selinux/hooks.c, `check_nnp_nosuid`), and a
    program of QEMU's may be setuid, as qemu-bridge-helper is.
    """
    if not invocation.harden:
        return "harden: no"
    if run := programs(invocation, facts):
        return f"QEMU runs {run[0]}"
    return _no_way_in(facts.selinux, process, policy)


def _no_way_in(selinux: SelinuxFacts, process: Context, policy: Policy) -> str | None:
    own = selinux.own
    if own is None or own.type == process.type:
        return None
    if not selinux.enters_held or policy.denied(own, process, "process2", ("nnp_transition",)):
        return f"{own.type} may not enter {process.type} with no_new_privs"
    return None


def _needs(
    invocation: Invocation, found: HardeningFacts, reach: Reach, run: Iterable[str]
) -> Iterator[tuple[Iterable[str] | None, str]]:
    """Yield capabilities and what needs them; None for a program that may need any."""
    if not invocation.harden:
        yield None, "harden: no"
    for program in run:
        yield None, f"QEMU runs {program}"
    for resource in invocation.resources:
        if resource.path == TUN:
            yield ("net_admin",), "a tap by its name"
        if resource.role in _BY_ROLE:
            yield _BY_ROLE[resource.role]
    for path in found.overridden:
        yield ("dac_override",), f"owner or mode of {path}"
    if any(port < _LOWEST_FREE for port in reach.ports.bind or ()):
        yield ("net_bind_service",), "a port below 1024"
    yield from (needed for word, needed in _BY_WORD.items() if word in reach.words)


# ---- Landlock as a second wall of a VM that SELinux holds

_LEAST_ABI = 2
"""The ABI from which it is a second wall unasked: under ABI 1 no file can be moved to another folder."""


def second_wall_considered(invocation: Invocation) -> bool:
    """Tell whether to ask the kernel for Landlock: it is wanted by name, or QEMU will open nothing later."""
    if invocation.query or invocation.landlock is SecondWall.NO:
        return False
    return invocation.landlock is SecondWall.ALSO or not opens_later(invocation.arguments)


def second_wall_refused(invocation: Invocation, facts: Facts, hardening: Hardening) -> str | None:
    """Say why Landlock cannot hold the VM as well although that was asked for; None where it can, or nobody asked."""
    if invocation.landlock is not SecondWall.ALSO:
        return None
    found, without = facts.landlock, f"{HINT}or leave out landlock: also"
    if found is not None and found.problem is not None:
        return f"landlock: also: {found.problem}{without}"
    if found is None or found.abi == 0:
        return f"landlock: also: this kernel has no Landlock{HINT}boot one that has it (lsm=landlock,…){without}"
    if hardening.privileges is not None:
        return f"landlock: also needs no_new_privs, which this VM cannot have: {hardening.privileges}{without}"
    return None


def second_wall_wanted(invocation: Invocation, facts: Facts, hardening: Hardening) -> bool:
    """Tell whether Landlock holds the VM as well."""
    found = facts.landlock
    if found is None or found.abi == 0 or hardening.privileges is not None or not second_wall_considered(invocation):
        return False
    return invocation.landlock is SecondWall.ALSO or found.abi >= _LEAST_ABI
