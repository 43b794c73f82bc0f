"""Runs other programs: quietly when they succeed, with their last words when they fail."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from integration.guestlib import cache
from integration.guestlib.report import GuestError, progress

LAST_LINES = 15
CHROOT_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}


def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, show: str | None = None, text: str | None = None
) -> str:
    """Run a program to its end and return what it printed, both streams together.

    Args:
        argv: the program and its arguments.
        env: its whole environment; ours where None.
        show: lines that start with this are printed as progress as they come.
        text: given to its standard input, which is empty where None.

    Raises:
        GuestError: it could not start or failed; the message ends with its last lines.
    """
    lines: list[str] = []
    try:
        with subprocess.Popen(
            argv, env=env, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        ) as process:  # fmt: skip
            if text is not None and process.stdin:
                process.stdin.write(text)
                process.stdin.close()
            for line in process.stdout or ():
                lines.append(line)
                if show is not None and line.startswith(show):
                    progress("  " + line.rstrip())
    except FileNotFoundError as error:
        raise GuestError(f"{argv[0]}: not found; run integration/setup.sh, which installs it") from error
    if process.returncode != 0:
        last = "".join(lines[-LAST_LINES:]).rstrip()
        raise GuestError(f"failed with {process.returncode}: {shlex.join(argv)}\n{last}")
    return "".join(lines)


def chroot(root: str, *argv: str) -> str:
    """Run a program inside a root folder, with its own process ids and /proc and nothing left mounted."""
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc"]
    return run([*isolated, "chroot", root, *argv], env=CHROOT_ENVIRONMENT)


def checkout() -> str:
    """Return the folder of the checkout that this file belongs to."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def tool_python() -> str:
    """Return the Python that has the development tools (integration/setup.sh makes it)."""
    path = os.path.join(cache.folder(), "venv", "bin", "python")
    if not os.path.exists(path):
        raise GuestError(f"{path}: missing; run integration/setup.sh")
    return path
