"""Runs xl, always with a limit of time: without xenstored each of its commands waits for ever."""

from __future__ import annotations

import os
import re

from confined_qemu.model.errors import HostError, printable, why
from confined_qemu.model.lean import TYPE_CHECKING, dataclass
from confined_qemu.model.xen import FlaskMode, LiveDomain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where xl is looked for, and its hotplug scripts look for their programs: the watcher has no environment."""
ENVIRONMENT: Final[Mapping[str, str]] = {"PATH": PATH, "LC_ALL": "C"}
LIMIT: Final = 60.0
"""Seconds for a command that asks, unpauses or destroys; it takes one, on an emulated machine three."""
_CAPABILITIES: Final = "/proc/xen/capabilities"
_XENSTORED: Final = "/run/xenstored/socket"
_ROW: Final = re.compile(
    r"(?P<name>.*?) +(?P<number>\d+) +(?P<memory>\d+) +\d+ +(?P<state>\S{6}) +[\d.]+ "
    r"(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) +\S+ +(?P<label>\S+)"
)
"""A line of `xl list -v`; a name of another's domain may hold anything, so the rest tells where it ends."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command of xl's said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The line that says why it failed: its last one."""
        lines = (self.err or self.out).strip().splitlines()
        return printable(lines[-1]) if lines else f"exit code {self.code}"


def find() -> str:
    """Return the path of xl.

    Raises:
        HostError: it is not installed.
    """
    import shutil

    found = shutil.which("xl", path=PATH)
    if found is None:
        raise HostError("xl is not installed", hint="install Xen's tools, on Debian: apt install xen-utils")
    return found


def run(*words: str, limit: float = LIMIT) -> Said:
    """Run one command of xl's to its end.

    Raises:
        HostError: it cannot be executed, or did not end in time.
    """
    import subprocess

    try:
        done = subprocess.run(
            [find(), *words], env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, check=False,
            timeout=limit, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise HostError(
            f"xl {words[0]} did not answer in {limit:.0f} s",
            hint="is xenstored running? see: systemctl status xen",
        ) from error
    except OSError as error:
        raise HostError(f"xl cannot be executed: {why(error)}") from error
    return Said(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def is_control() -> bool:
    """Tell whether this is the control domain, dom0."""
    try:
        with open(_CAPABILITIES, encoding="ascii", errors="replace") as file:
            return "control_d" in file.read()
    except OSError:
        return False


def xenstored() -> str | None:
    """Return why xenstored cannot be asked; None where it takes a connection, or may run in a domain of its own."""
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(_XENSTORED)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{_XENSTORED}: {why(error)}"
    return None


def flask_mode() -> FlaskMode:
    """Return what Flask does, as xl prints it: its exit code is 1 for Enforcing.

    Raises:
        HostError: it could not be read.
    """
    said = run("getenforce")
    modes = {
        "Enforcing": FlaskMode.ENFORCING,
        "Permissive": FlaskMode.PERMISSIVE,
        "Flask XSM Disabled": FlaskMode.DISABLED,
    }
    found = modes.get(said.out.strip())
    if found is None:
        raise HostError(f"whether Flask enforces cannot be read: {said.reason}", hint="see: xl getenforce; xl dmesg")
    return found


def domains() -> tuple[LiveDomain, ...]:
    """Return the domains that there are, dom0 and dying ones too.

    Raises:
        HostError: xl does not say.
    """
    said = run("list", "-v")
    if said.code:
        raise HostError(f"xl list failed: {said.reason}", hint="see: systemctl status xen")
    return parsed(said.out)


def parsed(text: str) -> tuple[LiveDomain, ...]:
    """Return the domains of `xl list -v`.

    Raises:
        HostError: a line is none that xl writes.
    """
    found = []
    for line in text.splitlines()[1:]:
        row = _ROW.fullmatch(line.rstrip())
        if row is None:
            raise HostError(f"a line of xl list is not understood: {printable(line)}")
        label = row["label"] if row["label"] != "-" else None
        number, memory = int(row["number"]), int(row["memory"])
        found.append(LiveDomain(row["name"], number, row["uuid"], memory, row["state"], label))
    return tuple(found)


def with_uuid(uuid: str) -> LiveDomain | None:
    """Return the domain that has this uuid, dying or not; None where none has.

    Raises:
        HostError: xl does not say.
    """
    return next((domain for domain in domains() if domain.uuid == uuid), None)


def denials() -> list[str]:
    """Return what Flask denied, as Xen's own log has it, the newest last; nothing where it cannot be read."""
    try:
        text = run("dmesg").out
    except HostError:
        return []
    return [printable(line.removeprefix("(XEN) ")) for line in text.splitlines() if "avc:" in line and "denied" in line]


def is_here() -> bool:
    """Tell whether this host runs under Xen, as its dom0 or as a guest."""
    return os.path.exists(_CAPABILITIES) or os.path.exists("/sys/hypervisor/version")
