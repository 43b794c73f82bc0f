"""`install-shim`: puts the launch script in the emulator's place, in a folder for PATH or in the system's, and back."""

from __future__ import annotations

import os
import subprocess

from confined_qemu.host import emulator
from confined_qemu.install import install as policy
from confined_qemu.model import paths
from confined_qemu.model.errors import EmulatorNotFound, HostError, message, shell_word, why
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("qemu-system-x86_64", "qemu-kvm", "kvm")
"""What clients look for. A name that this host's QEMU has not is not made: systemd-vmspawn, for one, takes `qemu-kvm`
before `qemu-system-x86_64` where both are there, and would start another QEMU than before."""
SYSTEM = "/usr/bin"
LOCAL = "/usr/local/bin"
"""Where the links of `--system` lie on a host without dpkg-divert: no package writes there, and PATH has it first."""
_DIVERT = "dpkg-divert"
_DIVERT_FOLDERS = ("/usr/bin", "/usr/sbin", "/bin")
_DEFAULT_PATH = ("systemd-path", "search-binaries-default")
"""The PATH of services and logins: the caller's own may be sudo's, which says nothing of others."""
_NEW = ".confined-qemu.new"
_LIBVIRT = ("/usr/sbin/libvirtd", "/usr/sbin/virtqemud")


@dataclass(frozen=True, slots=True)
class ShimResult:
    """What came of it: a line for each name, and what the user should know besides."""

    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()


# ---- a folder for PATH


def install(folder: str, search: str) -> ShimResult:
    """Link the emulator's names in `folder` to the launch script; `search` is PATH.

    Links, for the script's label makes the transition, and a copy named `qemu-system-*` could be labelled as QEMU.
    Nothing is made where one of the names is taken.

    Raises:
        EmulatorNotFound: this host has no QEMU.
        HostError: there is no launch script, or a name is taken.
    """
    _require_script()
    folder = os.path.abspath(folder)
    names = [name for name in NAMES if emulator.program(name, search) is not None]
    if not names:
        raise EmulatorNotFound("no emulator on PATH", where=" ".join(NAMES), hint=emulator.install())
    if not os.path.isdir(folder):
        raise HostError("no such folder", where=folder, hint=f"run: mkdir -p {shell_word(folder)}")
    lines = _link(folder, names)
    return ShimResult(lines, tuple(_unreached(names, folder, search)))


def _link(folder: str, names: list[str]) -> tuple[str, ...]:
    """Make the links that are not there yet, none where one of the names is taken; return a line for each.

    Raises:
        HostError: a name is taken, or a link cannot be made.
    """
    wanted = [os.path.join(folder, name) for name in names]
    for path in wanted:
        if os.path.lexists(path) and not _is_link_of_ours(path) and not emulator.is_ours(path):
            raise HostError("exists already and is not confined-qemu's link, so it stays", where=path, hint=_mend(path))
    lines = []
    for path in wanted:
        there = os.path.lexists(path)
        if not there:
            try:
                os.symlink(paths.LAUNCH_SCRIPT, path)
            except OSError as error:
                raise HostError(f"cannot be made: {why(error)}", where=path) from error
        lines.append(f"{path} {'is there already' if there else f'-> {paths.LAUNCH_SCRIPT}'}")
    return tuple(lines)


def remove(folder: str) -> ShimResult:
    """Remove the links that `install` made in `folder`, and nothing else.

    Raises:
        HostError: one cannot be removed.
    """
    folder = os.path.abspath(folder)
    ours = [path for path in (os.path.join(folder, name) for name in NAMES) if _is_link_of_ours(path)]
    for path in ours:
        try:
            os.unlink(path)
        except OSError as error:
            raise HostError(f"cannot be removed: {why(error)}", where=path) from error
    return ShimResult(tuple(f"{path} removed" for path in ours) or (f"{folder}: no link of confined-qemu's is there",))


def _mend(path: str) -> str:
    if os.path.dirname(path) == SYSTEM:
        return "run: confined-qemu install-shim --system"
    return f"choose another folder, or run: mv {shell_word(path)} {shell_word(path + '.orig')}"


def _unreached(names: list[str], folder: str, search: str) -> Iterator[str]:
    """Say which names a client with this PATH would still find elsewhere."""
    for name in names:
        found = (os.path.join(entry or ".", name) for entry in search.split(os.pathsep))
        first = next((path for path in found if os.path.isfile(path) and os.access(path, os.X_OK)), None)
        if first is None or not emulator.is_ours(first):
            before = f" before {os.path.dirname(os.path.abspath(first))}" if first is not None else ""
            hint = f'export PATH={shell_word(folder)}:"$PATH"'
            yield message(f"{folder} is not on PATH{before}, so {name} on PATH is not confined-qemu's", f"run: {hint}")


# ---- the system's own


def install_system() -> ShimResult:
    """Put the launch script in the place of the system's emulators: by dpkg-divert(1), else by links in `LOCAL`.

    Diverted, the real one stays in its folder, as `NAME.distrib`: there it has QEMU's label by the policy's own file
    contexts and finds its firmware, which QEMU looks for relative to its program (util/cutils.c,
    `get_relocated_path`). Upgrades of the package go to that name. Each step may be the last before a crash: the name
    always leads to an emulator, and doing it again goes on.

    Raises:
        EmulatorNotFound: the system has none.
        HostError: not root, something is in the way, `LOCAL` does not come first on PATH, or a step failed.
    """
    _require_script()
    _require_root("")
    if not _has_divert():
        return _install_local()
    lines = [line for name in NAMES for line in _divert(os.path.join(SYSTEM, name))]
    if not lines:
        raise EmulatorNotFound("no emulator of the system's", where=SYSTEM, hint=emulator.install())
    warnings = []
    if any(os.path.exists(path) for path in _LIBVIRT):
        first = os.path.join(SYSTEM, NAMES[0])
        warnings.append(
            message(
                f"libvirt's domains name {first} too, and libvirt may not start the launch script",
                f"give each of them <emulator>{first}{emulator.DIVERTED}</emulator>: virsh edit DOMAIN",
            )
        )
    return ShimResult(tuple(lines), tuple(warnings))


def remove_system() -> ShimResult:
    """Undo `install_system`: the real emulators get their names back.

    Raises:
        HostError: not root, something is in the way, or a step failed.
    """
    _require_root(" --remove")
    if not _has_divert():
        return remove(LOCAL)
    lines = [line for name in NAMES for line in _undivert(os.path.join(SYSTEM, name))]
    return ShimResult(tuple(lines) or (f"{SYSTEM}: no link or diversion of confined-qemu's is there",))


def is_system() -> bool:
    """Tell whether an emulator of the system's is ours."""
    folder = SYSTEM if _has_divert() else LOCAL
    return any(_is_link_of_ours(os.path.join(folder, name)) for name in NAMES)


def _install_local() -> ShimResult:
    """Link the names in `LOCAL`, which no package writes to: upgrades of QEMU leave the links alone.

    Each link is made in one step, so a crash leaves whole ones, and doing it again makes the rest.
    """
    search = _default_path()
    names = [name for name in NAMES if emulator.program(name, search) is not None]
    if not names:
        raise EmulatorNotFound("no emulator of the system's", where=" ".join(NAMES), hint=emulator.install())
    reason = _outrun(names, search)
    if reason is not None:
        raise HostError(
            f"this system has no dpkg-divert, and a link in {LOCAL} would not be found first: {reason}",
            hint="put a folder first on PATH instead: confined-qemu install-shim DIR",
        )
    lines = _link(LOCAL, names)
    real = emulator.program(names[0], search)
    return ShimResult(
        lines,
        (
            f"this system has no dpkg-divert, so the links lie in {LOCAL}: who names {real} itself, "
            f"or has a PATH without {LOCAL} (sudo's secure_path), gets the real one",
        ),
    )


def _outrun(names: list[str], search: str) -> str | None:
    """Return why a link in `LOCAL` would not be found first on this PATH; None if it would."""
    entries = search.split(os.pathsep)
    if LOCAL not in entries:
        return f"it is not on the default PATH, {search}"
    for entry in entries[: entries.index(LOCAL)]:
        for path in (os.path.join(entry, name) for name in names):
            if os.access(path, os.X_OK) and not emulator.is_ours(path):
                return f"{path} comes before it on the default PATH, {search}"
    return None


def _default_path() -> str:
    """Return the PATH that this system gives to whoever sets none."""
    try:
        done = subprocess.run(_DEFAULT_PATH, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError:
        return os.defpath
    return done.stdout.strip() or os.defpath


def _divert(path: str) -> Iterator[str]:
    real = path + emulator.DIVERTED
    diverted = _diversion(path)
    if diverted is None:
        if os.path.islink(path) or not os.path.isfile(path):
            return  # a link follows what it leads to, as Debian's `kvm`
        if os.path.lexists(real):
            raise HostError(
                "exists already, where the real emulator must go", where=real, hint=f"run: mv {real} {real}.orig"
            )
        policy.run([_DIVERT, "--local", "--no-rename", "--divert", real, "--add", path], "diverting")
    if not os.path.lexists(real):
        if not os.path.isfile(path) or emulator.is_ours(path):
            raise EmulatorNotFound("the real emulator is gone", where=real, hint=emulator.install())
        _do(real, lambda: os.link(path, real))
    if _is_link_of_ours(path):
        yield f"{path} is there already, the real one is {real}"
        return
    _require_same(path, real)
    new = os.path.join(SYSTEM, _NEW)
    if not _is_link_of_ours(new):  # one that a crash left is as good
        _do(new, lambda: os.symlink(paths.LAUNCH_SCRIPT, new))
    _do(path, lambda: os.rename(new, path))
    yield f"{path} -> {paths.LAUNCH_SCRIPT}, the real one is {real}"


def _undivert(path: str) -> Iterator[str]:
    real = path + emulator.DIVERTED
    if _diversion(path) is None:
        return
    if not os.path.lexists(real):
        if _is_link_of_ours(path):  # the package went away meanwhile
            _do(path, lambda: os.unlink(path))
    elif _is_link_of_ours(path) or not os.path.lexists(path):
        _do(path, lambda: os.rename(real, path))
    else:
        _require_same(path, real)
        _do(real, lambda: os.unlink(real))
    policy.run([_DIVERT, "--local", "--no-rename", "--divert", real, "--remove", path], "ending the diversion")
    yield f"{path} is the system's again"


def _diversion(path: str) -> str | None:
    """Return where `path` is diverted to, None where it is not.

    Raises:
        HostError: it is somebody else's diversion.
    """
    real = policy.run([_DIVERT, "--truename", path], "asking for diversions").strip()
    if real == path:
        return None
    owner = policy.run([_DIVERT, "--listpackage", path], "asking for diversions").strip()
    if real != path + emulator.DIVERTED or owner != "LOCAL":
        raise HostError(f"is diverted to {real} by {owner} already", where=path, hint=f"see: {_DIVERT} --list {path}")
    return real


def _require_same(path: str, real: str) -> None:
    """Refuse to replace what is not the real emulator under its other name.

    Raises:
        HostError: somebody put something else there.
    """
    if os.path.lexists(path) and not os.path.samestat(os.lstat(path), os.lstat(real)):
        raise HostError(f"is neither confined-qemu's link nor {real}", where=path, hint=f"run: mv {path} {path}.orig")


def _do(path: str, change: Callable[[], None]) -> None:
    try:
        change()
    except OSError as error:
        raise HostError(f"cannot be changed: {why(error)}", where=path) from error


# ---- what both need


def _require_script() -> None:
    if not os.access(paths.LAUNCH_SCRIPT, os.X_OK):
        raise HostError(
            "no launch script to link to", where=paths.LAUNCH_SCRIPT, hint="run: confined-qemu policy install"
        )


def _has_divert() -> bool:
    return any(os.access(os.path.join(folder, _DIVERT), os.X_OK) for folder in _DIVERT_FOLDERS)


def _require_root(more: str) -> None:
    if os.geteuid() != 0:
        raise HostError(
            "only root may change the system's emulators",
            hint=f"run it as root: sudo confined-qemu install-shim --system{more}",
        )


def _is_link_of_ours(path: str) -> bool:
    return os.path.islink(path) and os.readlink(path) == paths.LAUNCH_SCRIPT
