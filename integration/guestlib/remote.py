"""Runs commands in a running guest and carries files in and out, all over ssh."""

import os
import shlex
import subprocess
import sys

from integration.guestlib import machine, wheel
from integration.guestlib.machine import Running
from integration.guestlib.report import GuestError

TIMED_OUT = 124  # as timeout(1)
SSH_FAILED = 255
LINK = "/usr/local/bin/confined-qemu"


def run(
    guest: Running,
    command: list[str],
    *,
    terminal: bool = False,
    timeout: float | None = None,
    output: int | None = None,
) -> int:
    """Run a command with our own standard streams and return its exit code (128 + n where signal n ended it).

    Args:
        guest: where.
        command: program and arguments; none for a login shell.
        terminal: give it a terminal of its own in the guest; plain pipes where False.
        timeout: seconds; when they are over the connection is cut and the result is 124.
        output: the descriptor that its standard output goes to; our own where None.
    """
    # "exit $?" keeps the shell: ssh could not tell a signal from a failure of its own.
    line = [shlex.join(command) + "; exit $?"] if command else []
    process = subprocess.Popen([*guest.ssh("-tt" if terminal else "-T"), *line], stdout=output)
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        print(f"timed out after {timeout:g} s: {shlex.join(command)}", file=sys.stderr)
        code = TIMED_OUT
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code == SSH_FAILED and not guest.alive():
        machine.running(guest.name)
    return code


def output(guest: Running, *command: str) -> str:
    """Return what a command prints; it must succeed."""
    argv = [*guest.ssh("-T"), shlex.join(command)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestError(f"in guest {guest.name}: {shlex.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def put(guest: Running, sources: list[str], folder: str) -> None:
    """Copy files and folders into a folder of the guest, made if missing; modes and links stay."""
    for source in sources:
        if not os.path.lexists(source):
            raise GuestError(f"{source}: no such file")
    pack = ["tar", "-c", *_members(sources)]
    unpack = f"mkdir -p {shlex.quote(folder)} && tar -C {shlex.quote(folder)} --no-same-owner -xpf -"
    _pipe(pack, [*guest.ssh("-T"), unpack], f"put into guest {guest.name}:{folder}")


def get(guest: Running, sources: list[str], folder: str) -> None:
    """Copy files and folders of the guest into a folder here, made if missing."""
    os.makedirs(folder, exist_ok=True)
    pack = shlex.join(["tar", "-c", *_members(sources)])
    _pipe([*guest.ssh("-T"), pack], ["tar", "-C", folder, "--no-same-owner", "-xpf", "-"], f"get from {guest.name}")


def install(guest: Running) -> None:
    """Put the checkout as it is now into the guest's virtual environment, under the name confined-qemu."""
    tree = wheel.tree()
    output(guest, "sh", "-c", f"rm -rf {' '.join(wheel.installed())}; ln -sfn {wheel.COMMAND} {LINK}")
    put(guest, [os.path.join(tree, name) for name in os.listdir(tree)], wheel.VENV)


def _members(sources: list[str]) -> list[str]:
    """Return tar's arguments that take each path by its last name."""
    arguments: list[str] = []
    for source in sources:
        path = source.rstrip("/") or "/"
        arguments += ["-C", os.path.abspath(os.path.dirname(path) or "."), os.path.basename(path)]
    return arguments


def _pipe(first: list[str], second: list[str], what: str) -> None:
    with (
        subprocess.Popen(first, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as writer,
        subprocess.Popen(second, stdin=writer.stdout) as reader,
    ):
        if writer.stdout:
            writer.stdout.close()
    if writer.returncode or reader.returncode:
        raise GuestError(f"{what} failed; the reason is above")
