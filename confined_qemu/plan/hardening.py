"""Which capabilities QEMU needs for what its command line asks for; all others are given up. Pure."""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.facts import FileKind
from confined_qemu.model.hardening import Hardening
from confined_qemu.model.resource import Role
from confined_qemu.read.qemu.words import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.landlock import LandlockFacts, Ports

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


def sandbox(invocation: Invocation, facts: Facts) -> tuple[str, ...]:
    """Return QEMU's option for a seccomp filter of its own; none where it has one, or was built without.

    `spawn` stays out where QEMU runs a program, and both `spawn` and `elevateprivileges` with `-daemonize`: QEMU 7.2
    forks and calls setsid(2) under its own filter then, and is killed for it.
    """
    written = words(invocation.arguments)
    if not (invocation.sandbox and facts.sandbox) or "-sandbox" in written:
        return ()
    parts = dict(_PARTS)
    programs = (resource.path for resource in invocation.resources if resource.role is Role.PROGRAM)
    if invocation.daemonize or any(facts.files[path].kind is not FileKind.MISSING for path in programs):
        del parts["spawn"]
    if invocation.daemonize or written & {"-runas", "-run-with"}:
        del parts["elevateprivileges"]
    if "thread-context" in written:
        del parts["resourcecontrol"]
    return "-sandbox", ",".join(("on", *(f"{part}={word}" for part, word in parts.items())))


def plan(invocation: Invocation, found: LandlockFacts, ports: Ports, programs: Iterable[str]) -> Hardening:
    """Return what the process of a VM gives up; `programs` is what QEMU runs."""
    needed: dict[str, str] = {}
    for names, why in _needs(invocation, found, ports, programs):
        if names is None:
            return Hardening(None, core=invocation.core, why=(why,))
        needed.update((name, why) for name in names if name in found.capabilities)
    reasons = tuple(dict.fromkeys(needed.values()))
    return Hardening(frozenset(needed), invocation.core, reasons)


def _needs(
    invocation: Invocation, found: LandlockFacts, ports: Ports, programs: Iterable[str]
) -> Iterator[tuple[Iterable[str] | None, str]]:
    """Yield capabilities and what needs them; None for a program that may need any."""
    if not invocation.harden:
        yield None, "harden: no"
    for program in programs:
        yield None, f"QEMU runs {program}"
    for resource in invocation.resources:
        if resource.path == "/dev/net/tun":
            yield ("net_admin",), "a tap by its name"
        if resource.role in _BY_ROLE:
            yield _BY_ROLE[resource.role]
    for path in found.overridden:
        yield ("dac_override",), f"owner or mode of {path}"
    if any(port < _LOWEST_FREE for port in ports.bind or ()):
        yield ("net_bind_service",), "a port below 1024"
    written = words(invocation.arguments)
    yield from (needed for word, needed in _BY_WORD.items() if word in written)
