"""The Python that runs what is ours: the scripts that `policy install` writes, and the programs beside a VM."""

from __future__ import annotations

import os
import sys

from confined_qemu.model.errors import HostError
from confined_qemu.model.frozen import dataclass

OLDEST = (3, 11)
CANDIDATES = ("/usr/bin/python3", *(f"/usr/bin/python3.{minor}" for minor in range(14, OLDEST[1] - 1, -1)))
"""The distribution's own, never one from PATH: it runs in the launcher's domain. On EL 9 the first is 3.9."""
_FIND_BINDING = (
    f"import sys; sys.version_info >= {OLDEST} or sys.exit('is Python %d.%d' % sys.version_info[:2])\n"
    "try: import os, selinux; selinux.getcon_raw\n"
    "except (ImportError, AttributeError): sys.exit('has no libselinux binding')\n"
    "print(os.path.dirname(os.path.dirname(selinux.__file__)))"
)
"""Also for a Python that is too old: it must be able to say so."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can run our scripts, and the folder of the libselinux binding that belongs to it."""

    path: str
    binding: str


def current() -> str:
    """Return the Python that runs this process: in the launcher's domain, the one that its script names."""
    return sys.executable or CANDIDATES[0]


def find() -> Interpreter:
    """Return the first of the distribution's Pythons that is new enough and has the libselinux binding.

    Raises:
        HostError: there is none; the line says what each of them lacks.
    """
    lacks = []
    for path in CANDIDATES:
        if not os.access(path, os.X_OK):
            continue
        answer, problem = _ask(path)
        if problem is None:
            return Interpreter(path, answer)
        lacks.append(f"{path} {problem}")
    from confined_qemu.host import packages
    from confined_qemu.model.distribution import Package

    absent = f"none of {CANDIDATES[0]}, {CANDIDATES[1]} to {os.path.basename(CANDIDATES[-1])} is there"
    oldest = ".".join(map(str, OLDEST))
    raise HostError(
        f"no Python {oldest} or later with the libselinux binding: {', '.join(lacks) or absent}",
        hint=f"install Python {oldest} or later and its binding, for /usr/bin/python3: "
        f"{packages.command(Package.SELINUX)}",
    )


def _ask(path: str) -> tuple[str, str | None]:
    """Return the binding's folder, or what a Python lacks."""
    import subprocess

    command = [path, "-I", "-c", _FIND_BINDING]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return "", "cannot be executed"
    if done.returncode == 0:
        return done.stdout.strip(), None
    said = done.stderr.strip().splitlines()
    return "", said[-1] if said else f"ended with {done.returncode}"
