"""The verbs of `confined-qemu` that ask and administer; what it prints and its exit codes are decided here."""

from __future__ import annotations

import os
import sys

from confined_qemu import __version__
from confined_qemu.cli import launchverbs, output
from confined_qemu.cli.arguments import Parser, parse
from confined_qemu.cli.launchverbs import DEFAULT_EMULATOR
from confined_qemu.model.errors import LAUNCHER_FAILED, ConfinedQemuError, UsageError, printable
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.plan import Plan
    from confined_qemu.model.xen import XenDomain, XenPlan


def say(text: str) -> None:
    """Print one line of a command's answer."""
    if sys.stdout is not None:  # the caller closed it
        sys.stdout.write(text + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run one command line that starts nothing and return the exit code."""
    return output.guarded(lambda: _ask(arguments))


def _ask(arguments: Sequence[str]) -> int:
    chosen = parse(_parser(), arguments, ("plan",))
    code: int = chosen.action(chosen)
    return code


def _parser() -> Parser:
    parser = Parser(prog="confined-qemu", description="Start QEMU confined by SELinux's sVirt, without libvirtd.")
    parser.add_argument("--version", action="version", version=f"confined-qemu {__version__}")
    words = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser, prog=parser.prog)
    launchverbs.add_verbs(words)
    plan = words.add_parser("plan", help="print what would be done; nothing is changed")
    plan.add_argument("--json", action="store_true")
    plan.add_argument(
        "--policy-root", metavar="DIR", help="read the policy's contexts from DIR, for a host without SELinux"
    )
    plan.add_argument("--mcs", metavar="cA,cB", help="the category pair, for this plan only")
    plan.add_argument("--emulator", default=DEFAULT_EMULATOR, help="a name on PATH, or a path (with -- QEMU ARGS)")
    launchverbs.add_unknown_options(plan)
    plan.add_argument("spec", nargs="?", metavar="SPEC.yaml")
    plan.epilog = "What follows -- is QEMU's: after a spec more of it, without one the whole VM."
    plan.set_defaults(action=_plan)
    check = words.add_parser("check", help="can this host run it, confined? each line: ok, warn or fail, and the fix")
    check.add_argument("spec", nargs="?", metavar="SPEC.yaml")
    check.add_argument("--json", action="store_true")
    check.set_defaults(action=_check)
    ps = words.add_parser("ps", help="live VMs: name, pid, context, images, accelerator")
    ps.add_argument("--json", action="store_true")
    ps.set_defaults(action=_ps)
    denials = words.add_parser("denials", help="what SELinux denied the VMs, and what mends it or why it must stay so")
    denials.add_argument("name", nargs="?", metavar="NAME", help="of one VM, running or ended")
    denials.add_argument("--json", action="store_true")
    denials.set_defaults(action=_denials)
    shown = words.add_parser("help", help="explain a topic; without one: list the topics")
    shown.add_argument("topic", nargs="?", metavar="TOPIC")
    shown.set_defaults(action=_help)
    words.add_parser("schema", help="the JSON Schema of a spec").set_defaults(action=_schema)
    imported = words.add_parser("import", help="turn a libvirt domain's XML into a spec, and list what is lost")
    imported.add_argument("domain", metavar="DOMAIN.xml", help="the file, - for standard input")
    imported.add_argument("-o", "--output", metavar="FILE", help="write the spec there")
    imported.set_defaults(action=_import)
    shim = words.add_parser("install-shim", help="put the launch script in the emulator's place, and back")
    shim.add_argument("folder", nargs="?", metavar="DIR", help="a folder for PATH: the emulator's names become links")
    shim.add_argument(
        "--system",
        action="store_true",
        help="the system's own, by dpkg-divert or links in /usr/local/bin; root's",
    )
    shim.add_argument("--remove", action="store_true", help="undo it")
    shim.set_defaults(action=_install_shim)
    policy = words.add_parser("policy", help="install, inspect or remove the SELinux policy module")
    steps = policy.add_subparsers(dest="step", required=True, metavar="STEP", parser_class=Parser, prog=policy.prog)
    install = steps.add_parser("install", help="load the module, write the launch script and the state folder")
    install.add_argument("--no-load", action="store_true", help="write only; the kernel is not touched (image builds)")
    install.set_defaults(action=_policy_install)
    steps.add_parser("status", help="is it loaded, and what to run if not").set_defaults(action=_policy_status)
    adopt = steps.add_parser("adopt", help="make a folder that the policy means for nothing a place for images")
    adopt.add_argument("folder", metavar="DIR")
    adopt.add_argument("--undo", action="store_true", help="give it back its former meaning")
    adopt.set_defaults(action=_policy_adopt)
    steps.add_parser("remove", help="put back all labels and remove everything").set_defaults(action=_policy_remove)
    return parser


# ---- denials


def denials_script() -> int:
    """Serve the labelled script that reads the audit log: the verb `denials`, and `run` whose QEMU failed.

    For `run` (`--run PID`) lines go to standard error, and it says nothing where there is nothing to say.
    """
    if sys.argv[1:2] == ["--run"]:
        return output.guarded(lambda: launchverbs.say_denials(int(sys.argv[2])))
    return output.guarded(lambda: _ask(["denials", *sys.argv[1:]]))


def _denials(chosen: argparse.Namespace) -> int:
    from confined_qemu.cli import denials

    found = denials.find(chosen.name)
    if chosen.json:
        import json

        rows = [group.to_json() for group in found.groups]
        say(json.dumps({"schema": 1, "vms": rows, "gap": found.gap}, indent=2))
        return 0
    for group in found.groups:
        for line in group.describe():
            say(line)
    if not found.groups:
        say("no denials" if chosen.name is None else f"{printable(chosen.name)}: no denials")
    if found.gap is not None:
        output.warn(found.gap)
    return 0


# ---- plan, check, ps, schema


def _plan(chosen: argparse.Namespace) -> int:
    from confined_qemu.host.inherited import inherited
    from confined_qemu.launch import dryrun
    from confined_qemu.model.mcs import Pair

    descriptors = inherited()
    invocation = _invocation(chosen)
    pair = Pair.parse(chosen.mcs) if chosen.mcs is not None else None
    plan: Plan | XenPlan = dryrun.of(invocation, descriptors, pair=pair, policy_root=chosen.policy_root)
    _print_plan(plan, as_json=chosen.json)
    return LAUNCHER_FAILED if plan.refusals else 0


def _invocation(chosen: argparse.Namespace) -> Invocation | XenDomain:
    from confined_qemu.launch import inputs

    if chosen.spec is not None:
        return inputs.wanted(chosen.spec, chosen.qemu or (), unknown=chosen.unknown_options)
    if chosen.qemu is None:
        raise UsageError("plan needs a spec, or -- and QEMU's arguments", hint="see confined-qemu plan --help")
    return inputs.from_arguments(chosen.emulator, chosen.qemu, settings=launchverbs.settings_of(chosen))


def _import(chosen: argparse.Namespace) -> int:
    from confined_qemu.launch import inputs

    text, lost = inputs.spec_of(chosen.domain)
    if chosen.output is not None:
        with open(chosen.output, "w", encoding="utf-8") as file:
            file.write(text)
    elif sys.stdout is not None:
        sys.stdout.write(text)
    for line in lost:
        output.warn(line)
    return 0


def _print_plan(plan: Plan | XenPlan, *, as_json: bool) -> None:
    if as_json:
        import json

        say(json.dumps(plan.to_json(), indent=2))
    else:
        say(plan.describe())


def _check(chosen: argparse.Namespace) -> int:
    from confined_qemu.cli import check

    findings = check.findings(chosen.spec)
    if chosen.json:
        import json

        say(json.dumps({"schema": 1, "findings": [finding.to_json() for finding in findings]}, indent=2))
    else:
        for finding in findings:
            say(finding.describe())
    return 1 if any(finding.failed for finding in findings) else 0


def _ps(chosen: argparse.Namespace) -> int:
    from confined_qemu.cli import ps

    rows = ps.live()
    if chosen.json:
        import json

        say(json.dumps({"schema": 1, "vms": [row.to_json() for row in rows]}, indent=2))
    else:
        for line in ps.table(rows):
            say(line)
    return 0


def _schema(_: argparse.Namespace) -> int:
    from confined_qemu.read.spec import schema

    say(schema.text().rstrip("\n"))
    return 0


def _help(chosen: argparse.Namespace) -> int:
    from confined_qemu.cli import help as topics

    text = topics.listing() if chosen.topic is None else topics.text(chosen.topic)
    if chosen.topic is None or not topics.paged(text):
        say(text)
    return 0


# ---- install-shim


def _install_shim(chosen: argparse.Namespace) -> int:
    from confined_qemu.install import shim

    if chosen.system == (chosen.folder is not None):
        raise UsageError("install-shim takes a folder or --system", hint="see confined-qemu install-shim --help")
    if chosen.system:
        done = shim.remove_system() if chosen.remove else shim.install_system()
    elif chosen.remove:
        done = shim.remove(chosen.folder)
    else:
        done = shim.install(chosen.folder, os.environ.get("PATH", os.defpath))
    for line in done.lines:
        say(printable(line))
    for line in done.warnings:
        output.warn(line)
    return 0


# ---- policy


def _policy_install(chosen: argparse.Namespace) -> int:
    from confined_qemu.install import install

    install.install(load=not chosen.no_load)
    say("the policy module is installed" + (", and not loaded" if chosen.no_load else ""))
    return 0


def _policy_status(_: argparse.Namespace) -> int:
    from confined_qemu.install import install, module
    from confined_qemu.model import paths

    found = install.status()
    say(f"selinux: {found.mode}")
    loaded = f"version {found.loaded}" if found.loaded else "not loaded"
    say(f"module:  {loaded} (this package: version {module.VERSION})")
    say(f"script:  {paths.LAUNCH_SCRIPT if found.script else 'missing'} {found.script_label or ''}".rstrip())
    if found.advice is not None:
        say(found.advice)
    return 0 if found.advice is None else 1


def _policy_adopt(chosen: argparse.Namespace) -> int:
    from confined_qemu.install import adopt
    from confined_qemu.model.errors import printable

    changed = adopt.undo(chosen.folder) if chosen.undo else adopt.adopt(chosen.folder)
    before = "is gone already" if chosen.undo else "is there already"
    state = ("removed" if chosen.undo else "added") if changed.context_changed else before
    say(f"file context {changed.pattern} {state}")
    for line in changed.relabelled:
        say(printable(line))
    say(f"{len(changed.relabelled)} labels changed in {printable(changed.folder)}")
    return 0


def _policy_remove(_: argparse.Namespace) -> int:
    from confined_qemu.install import install, shim
    from confined_qemu.labels import restore, statefolders

    install.require_root("remove")
    if shim.is_system():
        raise ConfinedQemuError(
            "the system's emulator is a link to the launch script, which would be removed",
            hint="run first: confined-qemu install-shim --system --remove",
        )
    folders = statefolders.all_folders()
    for vm in restore.running(folders):
        raise ConfinedQemuError(f"the VM {vm.entry.record.name} (pid {vm.pid}) is running", hint="stop it first")
    left = [result for result in restore.recover(folders) if result.failed or result.pending]
    for result in left:
        for error in (*result.failed, *result.pending):
            output.say("", str(error))
    whose = {statefolders.folder_of(result.path) for result in left}
    if any(statefolders.is_own(folder) for folder in whose):
        raise ConfinedQemuError("these labels are to be put back first", hint="mend or remove what is named above")
    # whatever another user's folder says, it stops nobody: it stays, with what is to be put back
    install.remove(keep=whose)
    for folder in sorted(whose):
        say(f"{folder} is kept; after the next policy install its user can run: confined-qemu recover")
    say("the policy module is removed")
    return 0
