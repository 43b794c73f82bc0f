"""The Python that runs what is ours: the scripts that `policy install` writes, and the programs beside a VM."""

from __future__ import annotations

import os
import sys

from confined_qemu.model.errors import HostError
from confined_qemu.model.lean import dataclass

OLDEST = (3, 11)
CANDIDATES = ("/usr/bin/python3", *(f"/usr/bin/python3.{minor}" for minor in range(14, OLDEST[1] - 1, -1)))
"""The distribution's own, never one from PATH: it runs in the launcher's domain. On EL 9 the first is 3.9."""
_ASK = (
    f"import sys; sys.version_info >= {OLDEST} or sys.exit('is Python %d.%d' % sys.version_info[:2])\n"
    "print(*sys.version_info[:2], sep='.')\n"
    # PyPI's shim, which may lie there, raises what it likes
    "try: import os, selinux; selinux.getcon_raw\n"
    "except Exception: pass\n"
    "else: print(os.path.dirname(os.path.dirname(selinux.__file__))); sys.exit()\n"
    "try: import ctypes; ctypes.CDLL('libselinux.so.1')\n"
    "except (ImportError, OSError): sys.exit('can load no libselinux')"
)
"""Also for a Python that is too old: it must be able to say so."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can run our scripts.

    `binding`: the folder of its libselinux binding; None where the distribution has none for it, and libselinux is
    called by ctypes (`host.libselinux`).
    """

    path: str
    version: str
    binding: str | None


def current() -> str:
    """Return the Python that runs this process: in the launcher's domain, the one that its script names."""
    return sys.executable or CANDIDATES[0]


def find() -> Interpreter:
    """Return the first of the distribution's Pythons that is new enough and has the libselinux binding.

    Without one: the one of this process's version, as an environment's packages are made for it, else the first that
    can load libselinux. EL 9 has the binding for its platform's Python 3.9 only.

    Raises:
        HostError: there is none; the line says what each of them lacks.
    """
    lacks, unbound = [], []
    for path in CANDIDATES:
        if not os.access(path, os.X_OK):
            continue
        found, problem = _ask(path)
        if found is None:
            lacks.append(f"{path} {problem}")
        elif found.binding is not None:
            return found
        else:
            unbound.append(found)
    if unbound:
        own = ".".join(map(str, sys.version_info[:2]))
        return next((found for found in unbound if found.version == own), unbound[0])
    from confined_qemu.host import packages
    from confined_qemu.model.distribution import Package

    absent = f"none of {CANDIDATES[0]}, {CANDIDATES[1]} to {os.path.basename(CANDIDATES[-1])} is there"
    oldest = ".".join(map(str, OLDEST))
    raise HostError(
        f"no Python {oldest} or later that can use libselinux: {', '.join(lacks) or absent}",
        hint=f"install Python {oldest} or later, and libselinux: {packages.command(Package.SELINUX)}",
    )


def _ask(path: str) -> tuple[Interpreter | None, str]:
    """Return a Python that will do, or None and what it lacks."""
    import subprocess

    command = [path, "-I", "-c", _ASK]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return None, "cannot be executed"
    if done.returncode == 0:
        version, *binding = done.stdout.split("\n")[:-1]
        return Interpreter(path, version, binding[0] if binding else None), ""
    said = done.stderr.strip().splitlines()
    return None, said[-1] if said else f"ended with {done.returncode}"
