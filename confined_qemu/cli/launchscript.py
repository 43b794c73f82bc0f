"""What the launch script serves: the emulator's names, and the verbs that label and launch.

A question to QEMU is passed on at once. A client may ask `-version` before each of a thousand VMs, so this way imports
next to nothing. It is short, too: where something stands in it (a socket, a sensitivity, a file that cannot be read),
the launcher goes the long one, which ends the same or says why not. No settings are read for a question, so no bad file
of them can spoil one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed has not what `signal` is made of; that loads enum and re
import os
import stat
import sys

from confined_qemu.host import emulator, selinuxfs
from confined_qemu.host.inherited import inherited, initial
from confined_qemu.model import policynames
from confined_qemu.read.qemu.queries import is_query

TYPE_CHECKING = False  # as typing's own
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_KINDS = {stat.S_IFREG: "file", stat.S_IFIFO: "fifo_file", stat.S_IFCHR: "chr_file"}
"""What a question's standard input and output usually are, by SELinux's classes."""


def main() -> NoReturn:
    """Serve this process's command line; does not return."""
    if emulator.is_name(os.path.basename(sys.argv[0])) and is_query(sys.argv[1:]):
        pass_on(sys.argv[0], sys.argv[1:])
    import gc

    gc.disable()  # a launch makes hardly a cycle, and looking for them took a tenth of its time
    sys.exit(_guarded(sys.argv[0], sys.argv[1:]))


def serve(arguments: Sequence[str]) -> int:
    """Serve a verb without the launch script (not installed): with the caller's own rights."""
    return _guarded("confined-qemu", arguments)


def _guarded(argv0: str, arguments: Sequence[str]) -> int:
    from confined_qemu.cli.output import guarded

    return guarded(lambda: _serve(argv0, arguments))


def _serve(argv0: str, arguments: Sequence[str]) -> int:
    descriptors = inherited()
    if emulator.is_name(os.path.basename(argv0)):
        return _drop_in(argv0, arguments, descriptors)
    from confined_qemu.cli import launchverbs

    chosen = launchverbs.parsed(arguments)
    code: int = chosen.action(chosen, descriptors)
    return code


def _drop_in(argv0: str, arguments: Sequence[str], descriptors: tuple[int, ...]) -> int:
    from confined_qemu.cli.output import progress, warn
    from confined_qemu.host import settingsfiles
    from confined_qemu.launch import collect, inputs, session

    settings, _ = settingsfiles.load(os.environ)
    invocation = inputs.from_arguments(os.path.basename(argv0), arguments, settings=settings)
    session.launch(invocation, collect.Caller(initial(), descriptors, argv0), warn, progress)


# ---- a question to QEMU


def pass_on(argv0: str, arguments: list[str]) -> None:
    """Become QEMU, which prints and ends. Returns where the short way does not lead there.

    In the launcher's domain QEMU gets a VM's context without a pair (there is no other way out of it), elsewhere it
    keeps the caller's: nothing of a guest runs in it.
    """
    descriptors = inherited()
    environment = initial()
    program = emulator.look(os.path.basename(argv0), os.fsdecode(environment.get(b"PATH", b"")))
    if program is None or not (selinuxfs.is_disabled() or _leave(descriptors)):
        return
    # Python ignores these two; QEMU must find them as the caller had them
    signals = [(number, _signal.signal(number, _signal.SIG_DFL)) for number in (_signal.SIGPIPE, _signal.SIGXFSZ)]
    try:
        os.execve(program, [argv0, *arguments], environment)
    except OSError:
        for number, before in signals:
            _signal.signal(number, before)
        if not selinuxfs.is_disabled():
            selinuxfs.execute_as(None)


def _leave(descriptors: tuple[int, ...]) -> bool:
    """Choose the context of QEMU, and tell whether all that the caller handed over works there."""
    own = selinuxfs.own_context()
    if own is None:
        return False
    if own[0] != policynames.LAUNCHER:
        return True
    # above the lowest level (MLS) it takes more to know what may be written to where
    domain = selinuxfs.domain_at_lowest() if own[1] == "s0" else None
    if domain is None or not all(_works(number, domain) for number in descriptors):
        return False
    return selinuxfs.execute_as(domain)


def _works(number: int, domain: str) -> bool:
    """Tell whether a descriptor will work in QEMU; a pipe of the caller's is brought to its level.

    As `plan.descriptors` decides, for the usual kinds: at exec the kernel takes away what the domain may not use.
    """
    found = os.fstat(number)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    label = selinuxfs.label_of(number)
    if kind is None or label is None or found.st_dev == selinuxfs.device():
        return False
    access = _access(number)
    if selinuxfs.allows(domain, label, kind, access):
        return True
    lowest = selinuxfs.at_lowest(label)
    return (
        kind == "fifo_file"
        and os.geteuid() in (0, found.st_uid)
        and lowest is not None
        and selinuxfs.allows(domain, lowest, kind, access)
        and selinuxfs.set_and_read_back(number, lowest)
    )


def _access(number: int) -> tuple[str, ...]:
    import fcntl

    mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    return {os.O_RDONLY: ("read",), os.O_WRONLY: ("write",)}.get(mode, ("read", "write"))
