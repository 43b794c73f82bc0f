"""The verbs that the launch script serves: what each does with its words, and how they are read."""

from __future__ import annotations

import os
import sys

from confined_qemu.cli.output import answer, guarded, progress, say, warn
from confined_qemu.host import signals as signal
from confined_qemu.host.inherited import initial
from confined_qemu.model.errors import (
    LAUNCHER_FAILED,
    TIMED_OUT,
    ConfinedQemuError,
    UsageError,
    message,
    printable,
    why,
)
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import NoReturn

    from confined_qemu.cli.arguments import Parser
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.xen import XenDomain
    from confined_qemu.read.settings import Settings

DEFAULT_EMULATOR = "qemu-system-x86_64"
CONFINEMENTS = ("auto", "selinux", "landlock", "none")
IMAGE_FORMATS = ("raw", "qcow2", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc", "parallels", "luks")
_AT_ONCE, _LONGEST = 0.001, 1e9
"""Seconds: a timer of zero would never ring, and one of centuries cannot be set."""


class Plain:
    """`run SPEC`, and `run SPEC -- QEMU ARGS`, as argparse would have read them: to load it takes as long as a spec."""

    def __init__(self, spec: str, qemu: Sequence[str] | None) -> None:
        self.verb, self.spec, self.qemu, self.action = "run", spec, qemu, _run
        self.name = self.confinement = self.unknown_options = None


def parsed(arguments: Sequence[str]) -> argparse.Namespace | Plain:
    """Return the words of a verb as they were meant.

    Raises:
        UsageError: they are wrong.
    """
    words = arguments[:3]
    if words[:1] == ["run"] and words[2:] in ([], ["--"]) and words[1:] and not words[1].startswith("-") and words[1]:
        return Plain(arguments[1], arguments[3:] if arguments[2:] else None)
    from confined_qemu.cli.arguments import parse

    return parse(_parser(arguments), arguments, ("run",))


# ---- `exec`


def _exec(chosen: argparse.Namespace, descriptors: tuple[int, ...]) -> int:
    from confined_qemu.launch import collect, inputs, session

    invocation = inputs.from_arguments(
        chosen.emulator,
        _without_dashes(chosen.arguments),
        name=chosen.name,
        confinement=chosen.confinement,
        settings=settings_of(chosen),
    )
    session.launch(invocation, collect.Caller(initial(), descriptors, chosen.emulator), warn, progress)


def settings_of(chosen: argparse.Namespace) -> Settings:
    """Return the settings of a verb that takes a raw command line: what was typed is stronger."""
    from confined_qemu.host import settingsfiles
    from confined_qemu.model.lean import replace
    from confined_qemu.read.settings import UnknownOptions

    found, _ = settingsfiles.load(os.environ)
    if chosen.unknown_options is None:
        return found
    return replace(found, unknown_options=UnknownOptions(chosen.unknown_options))


def _without_dashes(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[1:] if arguments[:1] == ["--"] else arguments


# ---- `run`


def _run(chosen: argparse.Namespace | Plain, descriptors: tuple[int, ...]) -> int:
    from confined_qemu.launch import inputs, run
    from confined_qemu.model.invocation import Invocation

    invocation = inputs.wanted(
        chosen.spec,
        chosen.qemu or (),
        name=chosen.name,
        confinement=chosen.confinement,
        unknown=chosen.unknown_options,
    )
    if isinstance(invocation, Invocation):

        def explain(pid: int) -> None:
            _explain(pid)
            _explain_held(invocation, descriptors)

        run.supervise(lambda report: _become(invocation, descriptors, report), _clean_up, explain)
    return _run_domain(invocation)


def _run_domain(domain: XenDomain) -> int:
    """Run a domain of Xen's; the exit code is its own reason, or a signal's that ended it."""
    from confined_qemu.launch import xen
    from confined_qemu.model.xen import EXIT, Shutdown

    try:
        ended = xen.run(domain, warn, lambda line: say("", line))
    except xen.Ended as signalled:
        signal.signal(signalled.number, signal.SIG_DFL)
        os.kill(os.getpid(), signalled.number)
        return LAUNCHER_FAILED
    if ended is not Shutdown.POWEROFF:
        say("", f"{domain.name}: the domain ended: {ended}")
    return EXIT[ended]


def _become(invocation: Invocation, descriptors: tuple[int, ...], report: int) -> NoReturn:
    from confined_qemu.launch import collect, session

    caller = collect.Caller(initial(), descriptors, "", report)
    os._exit(guarded(lambda: session.launch(invocation, caller, warn, progress)))


def _clean_up(pid: int) -> bool:
    """Do the work of a watcher that was killed or failed: the journal whose launcher was `pid`.

    Says what cannot be put back, or has to wait for another VM; the first makes it False.
    """
    from confined_qemu.host import lsm
    from confined_qemu.model.facts import SelinuxMode

    left: list[ConfinedQemuError] = []
    try:
        if lsm.mode() is SelinuxMode.DISABLED:
            return True
        from confined_qemu.labels import journal, restore, statefolders

        for entry in journal.entries(statefolders.user_folder(os.geteuid())):
            if entry.record.pid == pid and restore.state_of(entry) is not restore.State.LIVE:
                result = restore.finish(entry)
                left += result.failed if result is not None else ()
                for waiting in result.pending if result is not None else ():
                    warn(str(waiting))
    except ConfinedQemuError as error:
        left.append(error)
    for problem in left:
        say("", str(problem))
    if left:
        say("", message("labels are not put back", "run: confined-qemu recover"))
    return not left


def _explain(pid: int) -> None:
    """Say what SELinux denied the QEMU that failed, in the domain that may read the audit log where there is one."""
    from confined_qemu.model import paths

    if not os.access(paths.DENIALS_SCRIPT, os.X_OK):
        guarded(lambda: say_denials(pid))
        return
    command = [paths.DENIALS_SCRIPT, "--run", str(pid)]
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
    try:
        os.waitpid(os.posix_spawn(command[0], command, os.environ, file_actions=quiet, setsigmask=[]), 0)
    except OSError as error:
        say("", f"what SELinux denied cannot be looked up: {command[0]}: {why(error)}")


def _explain_held(invocation: Invocation, descriptors: tuple[int, ...]) -> None:
    """Say what Landlock may have denied the QEMU that failed, by the plan: it keeps no record."""
    from confined_qemu.cli import heldhelp
    from confined_qemu.host import lsm
    from confined_qemu.launch import collect, dryrun
    from confined_qemu.plan import hardening

    def said() -> int:
        if collect.held_by_landlock(invocation, lsm.mode()) or hardening.second_wall_considered(invocation):
            try:
                plan = dryrun.here(invocation, collect.Caller(initial(), descriptors, ""))
            except ConfinedQemuError:
                return 0  # there was no start, and why not has been said
            for line in heldhelp.lines(plan):
                say("", message(line))
        return 0

    guarded(said)


def say_denials(pid: int) -> int:
    """Say what SELinux denied the VM whose launcher was `pid`, a line for each; who may not know it gets a hint."""
    from confined_qemu.cli import denials
    from confined_qemu.denials.verdict import quoted

    name = denials.name_of(pid)
    if name is None:
        return 0  # not confined, or nothing was started
    try:
        found = denials.of_run(pid)
    except ConfinedQemuError:
        hint = f"run as root: confined-qemu denials {quoted(name)}"
        say("", message("whether SELinux denied the VM something is in the audit log, which you may not read", hint))
        return 0
    for group in found.groups:
        for line in group.lines.values():
            if line.matters:
                say("", f"SELinux {line.describe()}")
    if found.gap is not None:
        warn(found.gap)
    return 0


# ---- `recover` and `settle`


def _recover(chosen: argparse.Namespace, _: tuple[int, ...]) -> int:
    from confined_qemu.labels import journal, restore, statefolders

    journal.tell_waits(warn)
    if chosen.libvirt:
        return _recover_libvirt(chosen.paths, as_json=chosen.json)
    if chosen.paths:
        raise UsageError("only recover --libvirt takes paths", hint="without it, what the journals name is recovered")
    folders = statefolders.readable_folders()
    gone = frozenset(os.path.join(os.getcwd(), path) for path in chosen.forget)
    return _report(restore.recover(folders, gone), as_json=chosen.json)


def _recover_libvirt(paths: Sequence[str], *, as_json: bool) -> int:
    from confined_qemu.labels import libvirt

    results = libvirt.recover(paths)
    if as_json:
        import json

        rows = [libvirt.to_json(result) for result in results]
        sys.stdout.write(json.dumps({"schema": 1, "libvirt": rows}) + "\n")
    for result in results:
        if result.error is not None:
            say("", str(result.error))
        elif not as_json:
            sys.stdout.write(libvirt.line_of(result) + "\n")
    return LAUNCHER_FAILED if any(result.error is not None for result in results) else 0


def _settle(chosen: argparse.Namespace, _: tuple[int, ...]) -> int:
    from confined_qemu.labels import journal, restore, statefolders

    journal.tell_waits(warn)

    class _TimeIsUp(Exception):
        pass

    def alarm(*_: object) -> None:
        raise _TimeIsUp

    signal.signal(signal.SIGALRM, alarm)
    if chosen.timeout is not None:
        signal.setitimer(signal.ITIMER_REAL, max(chosen.timeout, _AT_ONCE))
    try:
        done = restore.recover([statefolders.user_folder(os.geteuid())])
    except _TimeIsUp:
        say("", message(f"labels are still being put back after {chosen.timeout:g} s", "see: confined-qemu ps"))
        return TIMED_OUT
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    code = _report(done, as_json=False, quiet=True)
    return LAUNCHER_FAILED if any(result.pending for result in done) else code


def _report(done: Sequence[object], *, as_json: bool, quiet: bool = False) -> int:
    from confined_qemu.labels.restore import Restored

    results = [result for result in done if isinstance(result, Restored)]
    if as_json:
        import json

        rows = [{"name": r.name, "failed": _lines(r.failed), "pending": _lines(r.pending)} for r in results]
        sys.stdout.write(json.dumps({"schema": 1, "recovered": rows}) + "\n")
    elif not quiet:
        for result in results:
            if not result.failed and not result.pending:
                sys.stdout.write(f"{printable(result.name)}: labels put back\n")
    for result in results:
        for error in (*result.failed, *result.pending):
            say("", str(error))
    return LAUNCHER_FAILED if any(result.failed for result in results) else 0


def _lines(errors: Sequence[ConfinedQemuError]) -> list[str]:
    return [str(error) for error in errors]


# ---- `allow` and `revoke`


def _allow(chosen: argparse.Namespace, _: tuple[int, ...]) -> int:
    from confined_qemu.labels import journal
    from confined_qemu.launch import grants, handover

    journal.tell_waits(warn)
    held = handover.find(chosen.name)
    if held is not None:
        return answer(handover.allow(held, os.path.abspath(chosen.path), readonly=chosen.readonly))
    line = grants.allow(chosen.name, chosen.path, readonly=chosen.readonly, form=chosen.format, warn=warn)
    return answer(line)


def _revoke(chosen: argparse.Namespace, _: tuple[int, ...]) -> int:
    from confined_qemu.labels import journal
    from confined_qemu.launch import grants, handover

    journal.tell_waits(warn)
    held = handover.find(chosen.name)
    if held is not None:
        return answer(handover.revoke(held))
    return answer(grants.revoke(chosen.name, chosen.path))


# ---- the command line of the verbs


def seconds(text: str) -> float:
    """Read a number of seconds. The function's name is in argparse's message for any other text (`nan`, `inf`, `-1`).

    Raises:
        ValueError: no number, a negative one, or more than a timer takes.
    """
    number = float(text)
    if not 0 <= number <= _LONGEST:
        raise ValueError(text)
    return number


def _parser(asked: Sequence[str]) -> Parser:
    from confined_qemu.cli.arguments import Parser

    parser = Parser(prog="confined-qemu")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser, prog=parser.prog)
    add_verbs(verbs, asked[:1])
    return parser


def add_unknown_options(verb: Parser) -> None:
    """Add the option that says what becomes of options of QEMU that are not known."""
    verb.add_argument(
        "--unknown-options", choices=("refuse", "warn"), help="what happens to an option of QEMU that is not known"
    )


def add_verbs(verbs: argparse._SubParsersAction[Parser], asked: Sequence[str] = ()) -> None:
    """Add the launch script's verbs to a parser; only those in `asked` if all are known: each takes time to make."""
    for name in asked if asked and set(asked) <= set(_VERBS) else _VERBS:
        text, add = _VERBS[name]
        add(verbs.add_parser(name, help=text))


def _add_run(run: Parser) -> None:
    run.add_argument("spec", metavar="SPEC.yaml")
    run.set_defaults(action=_run)
    _add_start(run)


def _add_exec(execute: Parser) -> None:
    from confined_qemu.cli.arguments import REMAINDER

    execute.add_argument("--emulator", default=DEFAULT_EMULATOR, help="a name on PATH, or a path")
    execute.set_defaults(action=_exec)
    _add_start(execute)
    execute.add_argument("arguments", nargs=REMAINDER, metavar="-- QEMU ARGS")


def _add_start(verb: Parser) -> None:
    """Add what every verb takes that starts a VM."""
    verb.epilog = "What follows -- is QEMU's."
    verb.add_argument("--name", help="the VM's name")
    verb.add_argument("--confinement", choices=CONFINEMENTS)
    add_unknown_options(verb)


def _add_recover(recover: Parser) -> None:
    recover.add_argument("--json", action="store_true")
    recover.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="PATH",
        help="a file that is not found again is gone for good; a folder was put right by hand",
    )
    recover.add_argument("--libvirt", action="store_true", help="what a crashed libvirt left, by its own notes; root's")
    recover.add_argument("paths", nargs="*", metavar="PATH", help="with --libvirt: more files, or folders of them")
    recover.set_defaults(action=_recover)


def _add_allow(allow: Parser) -> None:
    allow.add_argument("--readonly", action="store_true", help="the VM only reads it, and VMs may share it")
    allow.add_argument("--format", choices=IMAGE_FORMATS, help="an image's; without it QEMU's guess counts")
    allow.set_defaults(action=_allow)
    _add_running(allow)


def _add_revoke(revoke: Parser) -> None:
    revoke.set_defaults(action=_revoke)
    _add_running(revoke)


def _add_running(verb: Parser) -> None:
    """Add what every verb takes that is about a file of a VM that runs."""
    verb.add_argument("name", metavar="NAME", help="as `ps` names the VM, or its pid")
    verb.add_argument("path", metavar="PATH")


def _add_settle(settle: Parser) -> None:
    settle.add_argument("--timeout", type=seconds, metavar="S", help="seconds to wait at most")
    settle.set_defaults(action=_settle)


_VERBS = {
    "run": ("boot the VM of a spec or a libvirt domain, confined, and wait until its labels are back", _add_run),
    "exec": ("become QEMU with a raw command line, confined", _add_exec),
    "recover": ("put back what a crash left", _add_recover),
    "allow": ("label a file for a VM that runs, which will be told to open it (QMP)", _add_allow),
    "revoke": ("put back the label of a file that was allowed, once it is unplugged", _add_revoke),
    "settle": ("wait until nothing is left to put back", _add_settle),
}
"""By the verb: its line in the list of verbs, and what adds its words to its parser."""
