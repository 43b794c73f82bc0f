"""The command line of integration/demo: finds a kernel that enforces, prepares it, and plays the scene there."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from integration.guestlib import cache, image, layers, machine, programs, remote, scene, wheel
from integration.guestlib.report import GuestError, progress, silence

DESCRIPTION = (
    "Boots linux-0.2.img confined: on this host where SELinux enforces here, else in an enforcing guest; with --here, "
    "held by Landlock. What it shows is checked; the exit code is 0 only if all of it is as it should be."
)
SETUP = os.path.join(programs.checkout(), "integration", "setup.sh")
SPEC = os.path.join(programs.checkout(), "configs", scene.SPEC)
SCENE = [os.path.join(os.path.dirname(os.path.abspath(__file__)), name) for name in ("scene.py", "screen.py")]
# Every policy labels what lies here virt_image_t.
FOLDER = "/var/lib/libvirt/images/confined-qemu-demo"
ENFORCE = "/sys/fs/selinux/enforce"
GUEST = "demo"
TREE = "/root/demo"
REFUSED = 125
TRANSCRIPT_HELP = (
    "write the transcript there instead of showing it; in a file that has a block <!-- transcript --> … <!-- end -->, "
    "only that block is replaced"
)
HERE_HELP = "on this host as it is, where SELinux does not enforce: no guest, nothing installed, Landlock holds the VM"
COMMAND = """#!/bin/sh
PYTHONPATH={checkout} exec {python} -B -m confined_qemu "$@"
"""
HOST_STEPS = f"install the checkout into {wheel.VENV}, link it at {remote.LINK}, and load its SELinux policy module"


def main(argv: list[str]) -> int:
    """Play the demo."""
    parser = argparse.ArgumentParser(prog="integration/demo", description=DESCRIPTION)
    parser.add_argument("--yes", action="store_true", help=f"on a host that enforces: {HOST_STEPS}; do not ask")
    parser.add_argument("--transcript", metavar="FILE", help=TRANSCRIPT_HELP)
    parser.add_argument("--policy", choices=layers.POLICIES, help="in the guest that enforces this one")
    parser.add_argument("--here", action="store_true", help=HERE_HELP)
    parser.add_argument("--tcg", action="store_true", help="without KVM, in the domain that Fedora has for such VMs")
    parser.add_argument("--screen", action="store_true", help="use the VM's screen, as with the original image")
    options = parser.parse_args(argv)
    if not sys.stderr.isatty():
        silence()
    try:
        if options.transcript is None:
            return _demo(options, None)
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            code = _demo(options, file.fileno())
            file.seek(0)
            _write_transcript(options.transcript, re.sub(r"\n{3,}", "\n\n", file.read()))
            return code
    except (GuestError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return 130


def _demo(options: argparse.Namespace, output: int | None) -> int:
    setup()
    if options.here and (enforces() or options.policy or options.tcg):
        raise GuestError("--here is for a host that does not enforce, and takes no --policy and no --tcg")
    on_host = options.policy is None and enforces()
    if on_host:
        refusal = _refusal(agreed=options.yes)
        if refusal is not None:
            raise GuestError(refusal)
    made = image.image()
    arguments = []
    if options.screen or image.is_original(made):
        arguments.append("--screen")
    if options.tcg:
        arguments.append("--tcg")
    if sys.stderr.isatty():
        arguments.append("--progress")
    if options.here:
        return _here(made, [*arguments, "--landlock"], output)
    if on_host:
        return _on_host(made, arguments, output)
    return _in_guest(options.policy or "default", made, arguments, output)


def _write_transcript(path: str, text: str) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            before, mark, rest = file.read().partition(scene.BEGIN)
    except FileNotFoundError:
        before, mark, rest = "", "", ""
    if mark:
        text = before + mark + text + scene.END + rest.partition(scene.END)[2]
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def setup() -> None:
    """Install what is needed; quiet where nobody looks, unless it fails."""
    if sys.stderr.isatty():
        done = subprocess.run([SETUP], check=False)
        if done.returncode:
            raise GuestError("integration/setup.sh failed; the reason is above")
    else:
        programs.run([SETUP])


def enforces() -> bool:
    """Tell whether SELinux enforces on this host."""
    try:
        with open(ENFORCE, encoding="ascii") as file:
            return file.read().strip() == "1"
    except FileNotFoundError:
        return False


def _refusal(*, agreed: bool) -> str | None:
    """Return why nothing may be installed on this host, None where the user agrees."""
    if agreed:
        return None
    if not sys.stdin.isatty():
        return f"SELinux enforces here, so the demo would {HOST_STEPS}; to agree: integration/demo --yes"
    print(f"SELinux enforces on this host. The demo would {HOST_STEPS}.", file=sys.stderr)
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return None if sys.stdin.readline().strip().lower() in ("y", "yes") else "nothing was installed"


def _on_host(made: str, arguments: list[str], output: int | None) -> int:
    progress(f"installing into {wheel.VENV}")
    if not os.path.isdir(wheel.VENV):
        programs.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", wheel.VENV])
    programs.run(["cp", "-a", f"{wheel.tree()}/.", wheel.VENV])
    programs.run(["chown", "-R", "root:root", wheel.VENV])
    programs.run(["restorecon", "-RF", wheel.VENV])
    programs.run(["ln", "-sfn", wheel.COMMAND, remote.LINK])
    progress("loading the policy module (up to a minute)")
    programs.run([wheel.COMMAND, "policy", "install"])
    os.makedirs(FOLDER, exist_ok=True)
    for source in (made, SPEC):
        shutil.copy(source, FOLDER)
    programs.run(["restorecon", "-RF", FOLDER])
    try:
        return subprocess.run([*play(programs.checkout()), FOLDER, *arguments], stdout=output, check=False).returncode
    finally:
        cache.remove(FOLDER)
        progress(f"installed and still there: {remote.LINK}; to undo: confined-qemu policy remove")


def _here(made: str, arguments: list[str], output: int | None) -> int:
    """Play the scene on this host, with the checkout's command first on PATH."""
    with tempfile.TemporaryDirectory(prefix="confined-qemu-demo.") as folder:
        for source in (made, SPEC):
            shutil.copy(source, folder)
        command = os.path.join(folder, "bin", "confined-qemu")
        os.mkdir(os.path.dirname(command))
        with open(command, "w", encoding="utf-8") as file:
            words = {"checkout": programs.checkout(), "python": programs.tool_python()}
            file.write(COMMAND.format(**{name: shlex.quote(text) for name, text in words.items()}))
        os.chmod(command, 0o755)
        environment = {**os.environ, "PATH": f"{os.path.dirname(command)}:{os.environ['PATH']}"}
        line = [*play(programs.checkout()), folder, *arguments]
        return subprocess.run(line, stdout=output, env=environment, check=False).returncode


def _in_guest(policy: str, made: str, arguments: list[str], output: int | None) -> int:
    name = GUEST if policy == "default" else f"{GUEST}-{policy}"
    found = machine.find(name)
    ours = found is None or not found.alive()
    guest = machine.up(name, policy)
    try:
        progress("installing the checkout into the guest")
        remote.install(guest)
        remote.put(guest, [made, SPEC], FOLDER)
        put_scene(guest, TREE)
        remote.output(guest, "restorecon", "-RF", os.path.dirname(FOLDER))
        return remote.run(guest, [*play(TREE), FOLDER, *arguments], output=output)
    finally:
        if ours:
            machine.down(name)


def put_scene(guest: machine.Running, tree: str) -> None:
    """Copy the scene's modules into a guest, so that they can be imported from the folder `tree`."""
    remote.put(guest, SCENE, os.path.join(tree, "integration", "guestlib"))


def play(tree: str) -> list[str]:
    """Return the command that plays the scene, up to its arguments; `tree` holds its modules."""
    return ["env", "-C", tree, "/usr/bin/python3", "-B", "-m", "integration.guestlib.scene"]
