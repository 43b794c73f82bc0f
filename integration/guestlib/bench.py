"""The command line of integration/bench."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

from integration.guestlib import demo, machine, places, programs, readme, remote
from integration.guestlib.report import GuestError, progress
from integration.guestlib.series import Group, from_json

DESCRIPTION = (
    "Measures, in turns and side by side, in the enforcing guest and on this machine: the time from a command to the "
    "QMP greeting of QEMU (bare, by hand, by confined-qemu, by libvirt), what a launch costs among many VMs, layers, "
    "files, and what stays beside a VM. Prints tables; asserts nothing."
)
GUEST = "bench"
TREE = "/root/bench"
FOLDER = os.path.join("integration", "guestlib")
PARTS = ("series.py", "timing.py", "loads.py")
TIMING, LOADS = "integration.guestlib.timing", "integration.guestlib.loads"
PLOT = os.path.join(readme.HELP, "performance.png")


def main(argv: list[str]) -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="integration/bench", description=DESCRIPTION)
    parser.add_argument("-n", "--count", type=int, default=5, help="rounds (default: %(default)s, after a first one)")
    parser.add_argument("--live", type=int, default=500, help="VMs beside a launch (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=100_000, help="category pairs taken (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="how long wake-ups are counted (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help="only what this machine shows without a guest")
    parser.add_argument("--json", metavar="FILE", help="write what was measured there, too")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the starts, too")
    parser.add_argument("--readme", action="store_true", help="write tables and plot into the help topic `performance`")
    options = parser.parse_args(argv)
    try:
        demo.setup()
        groups = [] if options.here else _guest(options)
        groups += _here(options)
        _show(groups, options)
    except GuestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130
    return 0


def _show(groups: list[Group], options: argparse.Namespace) -> None:
    tables = "\n\n".join(group.table() for group in groups)
    print(tables)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"schema": 1, "groups": [group.to_json() for group in groups]}, file, indent=1)
    if options.plot:
        _draw(groups, options.plot)
    if options.readme:
        topic = f"{readme.HELP}/performance.md"
        readme.renew(topic, "bench", tables)
        _draw(groups, os.path.join(programs.checkout(), PLOT))


def _draw(groups: list[Group], path: str) -> None:
    """Draw in the environment that has the plotting library; this process may be the distribution's Python."""
    text = json.dumps([group.to_json() for group in groups])
    command = [programs.tool_python(), "-B", "-m", "integration.guestlib.plot", os.path.abspath(path)]
    programs.run(["env", "-C", programs.checkout(), *command], env=os.environ, text=text)


def _guest(options: argparse.Namespace) -> list[Group]:
    guest = machine.up(GUEST, "default")
    try:
        remote.install(guest)
        remote.output(guest, remote.LINK, "policy", "install")
        # as hosts have it: without dontaudit rules each look at a process is logged, and most of a launch is the log's
        remote.output(guest, "sh", "-c", f"cp {places.AUDITED} /etc/selinux/default/policy/policy.*; load_policy")
        sources = [os.path.join(programs.checkout(), FOLDER, name) for name in PARTS]
        remote.put(guest, sources, os.path.join(TREE, FOLDER))
        python = ["env", "-C", TREE, "python3", "-B", "-m"]
        count = ["--count", str(options.count)]
        progress(f"measuring starts in the guest, {options.count} rounds")
        text = [remote.output(guest, *python, TIMING, *count)]
        progress("measuring loads in the guest")
        more = ["--live", str(options.live), "--seconds", str(options.seconds)]
        text.append(remote.output(guest, *python, LOADS, *count, *more))
        return _groups(text)
    finally:
        machine.down(GUEST)


def _here(options: argparse.Namespace) -> list[Group]:
    progress(f"measuring here, {options.count} rounds")
    with tempfile.TemporaryDirectory() as folder:
        # as an installed package lies there: outside the checkout, and compiled
        shutil.copytree(os.path.join(programs.checkout(), "confined_qemu"), os.path.join(folder, "confined_qemu"))
        python = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", folder]
        subprocess.run(python, check=True)
        measure = ["env", "-C", programs.checkout(), "/usr/bin/python3", "-B", "-m"]
        starts = [*measure, TIMING, "--count", str(options.count), "--package", folder]
        loads = [*measure, LOADS, "--pairs", str(options.pairs), "--package", folder]
        return _groups([programs.run(command, env=os.environ) for command in (starts, loads)])


def _groups(texts: list[str]) -> list[Group]:
    return [from_json(found) for text in texts for found in json.loads(text)]
