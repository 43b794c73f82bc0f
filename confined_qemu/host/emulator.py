"""Finds QEMU's own program behind an emulator's name, and never ourselves. Light: a question to QEMU loads it."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as typing's own, which would load `re` and half a dozen more
if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/libexec")
"""Where a real emulator lies that PATH does not name: a client's PATH may hold our folder alone."""
DIVERTED = ".distrib"
"""What dpkg-divert(1) appends to the name of a file that made room for another; the real one lies beside ours then."""
_OTHER_NAMES = {
    "qemu-kvm": ("qemu-kvm", "kvm", "qemu-system-x86_64"),
    "kvm": ("kvm", "qemu-kvm", "qemu-system-x86_64"),
    "qemu-system-x86_64": ("qemu-system-x86_64", "qemu-kvm"),
}
"""A name under which a distribution may have QEMU otherwise: RHEL has /usr/libexec/qemu-kvm alone. One that ends with
kvm prefers KVM, whatever program it is (QEMU, softmmu/vl.c, `configure_accelerators`): it goes by the argv[0] that it
is given."""
_SCRIPT = b"#!"
_MARK = b"`confined-qemu policy install`"
"""What the launch script's second line says: a copy of it is found out as well."""
_SECCOMP = b"libseccomp.so"
_STRINGS = 4 << 20
"""Bytes of a program in which its dynamic strings are looked for."""
_HEAD = 256
"""Bytes of a program that are looked at."""


def is_name(name: str) -> bool:
    """Tell whether a program of this name is to be QEMU, so that a link of this name to ours is the drop-in."""
    return name.startswith("qemu-system-") or name in _OTHER_NAMES


def look(name: str, search: str) -> str | None:
    """Return the absolute path of QEMU's program for a name, or for another that stands for it; None without one."""
    found = (program(known, search) for known in _OTHER_NAMES.get(name, (name,)))
    return next((path for path in found if path is not None), None)


def argv0(asked: str, found: str) -> str:
    """Return what QEMU is to be started as: its own path, or the name asked for if that prefers another accelerator.

    `asked` is what the command line was read for, `found` the program that stands for it.
    """
    name = os.path.basename(asked)
    return found if name.endswith("kvm") is os.path.basename(found).endswith("kvm") else name


def program(name: str, search: str) -> str | None:
    """Return the absolute path of a program of this name, by `search` (PATH) and then where it usually lies.

    Scripts are passed over: ours behind any link, hard link or copy is one, and so is a wrapper that would lead back
    to us. None where there is none.
    """
    for folder in _folders(search):
        path = os.path.join(folder, name)
        head = _head(path)
        if head is not None and not head.startswith(_SCRIPT):
            return path
        if head is not None and _MARK in head and _head(path + DIVERTED) is not None:
            return path + DIVERTED
    return None


def find(name: str, search: str) -> str:
    """Return the absolute path of an emulator: a path as it is, a name as `look` finds it; a path of ours is a name.

    Raises:
        EmulatorNotFound: there is none.
        EmulatorNotExecutable: it may not be executed.
    """
    from confined_qemu.model.errors import EmulatorNotExecutable, EmulatorNotFound, shell_word

    path = os.path.abspath(name) if "/" in name else None
    if path is not None and not is_ours(path):
        if not os.path.exists(path):
            raise EmulatorNotFound("no such emulator", where=path, hint=install())
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            raise EmulatorNotExecutable(
                "the emulator cannot be executed", where=path, hint=f"see: ls -lZ {shell_word(path)}"
            )
        return path
    if path is not None:
        search = os.pathsep.join((os.path.dirname(path), search)) if search else os.path.dirname(path)
    found = look(os.path.basename(name), search)
    if found is None:
        raise EmulatorNotFound("no such emulator on PATH", where=os.path.basename(name), hint=install())
    return found


def install() -> str:
    """Return the hint of an error for which QEMU is missing."""
    from confined_qemu.host import packages
    from confined_qemu.model.distribution import Package

    return f"install QEMU, for example: {packages.command(Package.QEMU)}"


def is_ours(path: str) -> bool:
    """Tell whether this is the launch script, behind whatever link."""
    head = _head(path)
    return head is not None and head.startswith(_SCRIPT) and _MARK in head


def takes_sandbox(path: str) -> bool:
    """Tell whether an emulator was built with libseccomp: without, it refuses `-sandbox`.

    The names of the libraries that a program needs stand among the first of its strings.
    """
    try:
        with open(path, "rb") as file:
            return _SECCOMP in file.read(_STRINGS)
    except OSError:
        return False


def _folders(search: str) -> Iterator[str]:
    seen = set()
    for folder in (*(search or os.defpath).split(os.pathsep), *FOLDERS):
        path = os.path.abspath(folder or ".")
        if path not in seen:
            seen.add(path)
            yield path


def _head(path: str) -> bytes | None:
    """Return how an executable file begins, empty for one that may be executed and not read; None for any other."""
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _HEAD)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
