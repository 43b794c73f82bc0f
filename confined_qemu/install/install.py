"""`policy install`, `status` and `remove`: the module, the launch script, and the state folder."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from contextlib import suppress

from confined_qemu.host import lsm, packages, selinuxfs
from confined_qemu.install import module, script
from confined_qemu.model import paths, policynames
from confined_qemu.model.context import Context
from confined_qemu.model.distribution import Package
from confined_qemu.model.errors import HostError, shell_word, why
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.helper import PROGRAMS
from confined_qemu.model.lean import TYPE_CHECKING, dataclass
from confined_qemu.model.mcs import Level, Range

if TYPE_CHECKING:
    from collections.abc import Collection

INSTALL = "confined-qemu policy install"
_PRIORITY = "400"
_ROOTS_OWN = "0"
"""Root's folder in the state folder, by root's number."""
_UNIT = f"""[Unit]
Description=Put back the labels of virtual machines that a crash or a power loss left
After=local-fs.target remote-fs.target
ConditionPathExists={script.package_folder()}/confined_qemu

[Service]
Type=oneshot
ExecStart={paths.LAUNCH_SCRIPT} recover
# a user's folder has its own, shorter limits
TimeoutStartSec=15min
# made here, at the lowest level: on MLS a launcher that works above it cannot write to /run
RuntimeDirectory={os.path.basename(paths.RUNTIME)}
RuntimeDirectoryPreserve=yes

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Status:
    """What is installed. `loaded`: the module's version in the kernel; `advice`: what to run, None when all is well."""

    mode: SelinuxMode
    loaded: int | None
    script: bool
    script_label: Context | None
    advice: str | None


def _scripts() -> dict[str, str]:
    """Return our scripts, and the types that their labels have."""
    return {paths.DENIALS_SCRIPT: policynames.DENIALS_SCRIPT, paths.LAUNCH_SCRIPT: policynames.SCRIPT}


def loaded_version() -> int | None:
    """Return the version of the module that the kernel has loaded, None without it.

    Raises:
        LsmError: the kernel cannot be asked.
    """
    for version in range(module.VERSION + 1, 0, -1):
        if lsm.is_valid(_object(module.version_type(version))):
            return version
    return None


def status() -> Status:
    """Look at the kernel and the launch script.

    Raises:
        LsmError: SELinux's state cannot be read.
    """
    mode = lsm.mode()
    there = os.path.exists(paths.LAUNCH_SCRIPT)
    if mode is SelinuxMode.DISABLED:
        return Status(mode, None, there, None, "SELinux is disabled in this kernel: nothing to install")
    loaded = loaded_version()
    label = lsm.context_of(paths.LAUNCH_SCRIPT) if there else None
    advice = None
    if loaded != module.VERSION or not all(os.path.exists(path) for path in _scripts()):
        advice = f"run: {INSTALL}"
    else:
        for path, wanted in _scripts().items():
            found = lsm.context_of(path)
            if found is None or found.type != wanted:
                advice = f"run: restorecon -F {path}"
    return Status(mode, loaded, there, label, advice)


def install(*, load: bool) -> None:
    """Install or renew the module, the launch script, the state folder and the boot unit.

    With `load` false the kernel is not touched, for building images: labels are then setfiles' business.

    Raises:
        HostError: not root, no semodule, or a step failed.
        LsmError: SELinux's state cannot be read.
    """
    require_root("install")
    scripts = {paths.LAUNCH_SCRIPT: script.text(script.Script.LAUNCH),
               paths.DENIALS_SCRIPT: script.text(script.Script.DENIALS)}  # fmt: skip
    _write(paths.MODULE, module.text(_levels(load=load)), 0o644)
    _semodule(load, "-X", _PRIORITY, "-i", paths.MODULE)
    for path, text in scripts.items():
        _write(path, text, 0o755)
    _write(paths.RECOVER_UNIT, _UNIT, 0o644)
    if not os.path.lexists(paths.RECOVER_WANTED):
        os.makedirs(os.path.dirname(paths.RECOVER_WANTED), exist_ok=True)
        os.symlink(paths.RECOVER_UNIT, paths.RECOVER_WANTED)
    make_state()
    if load:
        os.makedirs(paths.RUNTIME, exist_ok=True)
        run(["restorecon", "-RF", os.path.dirname(paths.LAUNCH_SCRIPT)], "labelling")
        # others write below these, and what a running VM has there keeps its label: nothing is gone through
        state = (paths.STATE, os.path.join(paths.STATE, _ROOTS_OWN), *_registry())
        run(["restorecon", "-F", *state, paths.RUNTIME, paths.RECOVER_UNIT, *_helpers()], "labelling")


def make_state() -> None:
    """Make the state folder: root's own in it and the pair registry first, and then it is opened to all.

    What lies there already is used only where it is root's and what it should be.

    Raises:
        HostError: it cannot be made, or somebody else's lies in its place.
    """
    path = paths.STATE
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
        state = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _require_roots(path, os.fstat(state))
            _make_roots_own(state)
            for name in _registry():
                _make_registry_file(state, name)
            # sticky and writable for all, as /var/tmp is: each user's folder is the user's own
            os.fchmod(state, 0o1777)
        finally:
            os.close(state)
    except OSError as error:
        raise HostError(f"the state folder cannot be made: {why(error)}", where=path) from error


def _make_roots_own(state: int) -> None:
    path = f"/proc/self/fd/{state}/{_ROOTS_OWN}"
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    own = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _require_roots(os.path.join(paths.STATE, _ROOTS_OWN), os.fstat(own))
        os.fchmod(own, 0o700)
    finally:
        os.close(own)


def _registry() -> list[str]:
    first = os.path.join(paths.STATE, paths.PAIRS)
    return [paths.pair_file(first, number) for number in range(paths.PAIR_FILES)]


def _make_registry_file(state: int, name: str) -> None:
    path = f"/proc/self/fd/{state}/{os.path.basename(name)}"
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        pairs = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pairs = os.open(path, flags)
    try:
        found = os.fstat(pairs)
        _require_roots(name, found)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise HostError("the pair registry is not a regular file with one name", where=name)
        os.fchmod(pairs, 0o666)  # every user's launcher locks bytes in it; it holds no data
    finally:
        os.close(pairs)


def _require_roots(path: str, found: os.stat_result) -> None:
    if found.st_uid != 0:
        raise HostError(
            f"it belongs to uid {found.st_uid}, and must be root's",
            where=path,
            hint=f"look at it, and remove it: rm -r {shell_word(path)}",
        )


def remove(keep: Collection[str] = ()) -> None:
    """Remove all that `install` made, and all state but the folders `keep`; the caller has put back every label before.

    Raises:
        HostError: not root, or a step failed.
    """
    require_root("remove")
    for path in (paths.RECOVER_WANTED, paths.RECOVER_UNIT, *_scripts(), paths.MODULE):
        if os.path.lexists(path):
            os.unlink(path)
    for folder in (
        paths.STATE,
        paths.RUNTIME,
        os.path.dirname(paths.LAUNCH_SCRIPT),
        os.path.dirname(paths.MODULE),
    ):
        if os.path.isdir(folder):
            _remove_all(folder, keep)
    # last: a file that still carried one of the module's types would be left unlabelled
    _semodule(True, "-X", _PRIORITY, "-r", module.NAME)  # noqa: FBT003 - the one flag of a private helper
    if _helpers():
        # these are the system's own, and get its labels back
        run(["restorecon", "-F", *_helpers()], "labelling")


def _remove_all(folder: str, keep: Collection[str]) -> None:
    if not any(os.path.dirname(kept) == folder for kept in keep):
        shutil.rmtree(folder)
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and entry.path not in keep:
                shutil.rmtree(entry.path)
            elif not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)


def _helpers() -> list[str]:
    """Return the installed programs to which the module gives a label."""
    return [path for program in PROGRAMS.values() for path in program.paths if os.path.exists(path)]


def _levels(*, load: bool) -> module.PolicyLevels:
    if load:
        s1 = Level(1)
        known = lsm.is_valid(Context("system_u", "object_r", "usr_t", Range.single(s1)))
        return module.PolicyLevels.MLS if known else module.PolicyLevels.MCS
    with open(selinuxfs.CONFIG, encoding="utf-8", errors="replace") as file:
        chosen = [line.partition("=")[2].strip() for line in file if line.startswith("SELINUXTYPE=")]
    return module.PolicyLevels.MLS if "mls" in chosen else module.PolicyLevels.MCS


def _object(type_name: str) -> Context:
    return Context("system_u", "object_r", type_name, Range.single(Level(0)))


def require_root(verb: str) -> None:
    """Refuse anybody but root; `verb` is what follows `confined-qemu policy`.

    Raises:
        HostError: the caller is not root.
    """
    if os.geteuid() != 0:
        raise HostError(
            f"policy {verb} changes the host's policy",
            hint=f"run it as root: sudo confined-qemu policy {verb}",
        )


def _semodule(load: bool, *arguments: str) -> None:
    run(["semodule", *([] if load else ["-n"]), *arguments], "changing the policy")


def run(command: list[str], doing: str) -> str:
    """Run one of SELinux's own programs and return what it printed.

    Raises:
        HostError: it is missing, or failed; the line holds what it said.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise HostError(
            f"{doing} failed: {command[0]}: {why(error)}", hint=f"run: {packages.command(Package.SEMODULE)}"
        ) from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise HostError(f"{doing} failed: {' '.join(command)}: exit {done.returncode}: {said or 'it said nothing'}")
    return done.stdout


def _write(path: str, text: str, mode: int) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.new"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise HostError(f"cannot be written: {why(error)}", where=path) from error
