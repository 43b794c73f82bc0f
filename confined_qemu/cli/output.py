"""What a person or a program is told: answers, warnings, errors as lines and exit codes, and progress."""

from __future__ import annotations

import os
import sys

from confined_qemu.host import signals as signal
from confined_qemu.model.errors import LAUNCHER_FAILED, ConfinedQemuError, message, printable, why
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGES = {"psutil": "PSUTIL", "yaml": "YAML"}
"""What is imported only where it is needed, so that its absence shows late: the `Package` of each."""
_MANY = 1000
"""Entries of a tree that take long enough to be told about."""


def guarded(work: Callable[[], int]) -> int:
    """Run `work`; errors become lines and an exit code here and nowhere else."""
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()
    except ConfinedQemuError as error:
        say("", str(error))
        return error.exit_code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return LAUNCHER_FAILED
    except OSError as error:
        # a folder that went away, a full disk, a reader that left (`| head`)
        say("", printable(f"{os.fsdecode(error.filename)}: {why(error)}" if error.filename else why(error)))
        _forget_answer()
        return LAUNCHER_FAILED
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(error.name or "")
        if package is None:
            raise
        say("", message(f"Python's module {error.name} is not installed", _install(error.name or "", package)))
        return LAUNCHER_FAILED
    except (MemoryError, RecursionError):
        say("", "not enough memory, or data nested too deeply")
        return LAUNCHER_FAILED
    return code


def _install(module: str, package: str) -> str:
    """Return how a module is installed: the distribution's packages are for its own Python alone (EL 9's is 3.9)."""
    from confined_qemu.host import interpreter, packages
    from confined_qemu.model.distribution import Package

    if os.path.realpath(interpreter.current()) == os.path.realpath(interpreter.CANDIDATES[0]):
        return f"run: {packages.command(Package[package])}"
    return f"install it into confined-qemu's environment: pip install {module.replace('yaml', 'pyyaml')}"


def _forget_answer() -> None:
    """Drop what could not be written, or Python would try again at its end, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, sys.stdout.fileno(), inheritable=False)
        os.close(null)


def say(kind: str, text: str) -> None:
    """Print lines on standard error: `kind` is empty for what is refused, else what they are (`warning: `)."""
    if sys.stderr is None:  # the caller closed it
        return
    for line in text.split("\n"):
        sys.stderr.write(f"confined-qemu: {kind}{line}\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """Print one warning."""
    say("warning: ", text)


def answer(line: str) -> int:
    """Print the line that is a verb's answer, and return the exit code of success."""
    if sys.stdout is not None:
        sys.stdout.write(printable(line) + "\n")
    return 0


def progress(folder: str, done: int, count: int) -> None:
    """Show a person at a terminal how far the labelling of a tree is; nobody else."""
    if count < _MANY or sys.stderr is None or not sys.stderr.isatty():
        return
    line = f"labelling {printable(folder)}: {done:,} of {count:,}" if done < count else ""
    sys.stderr.write(f"\r\033[K{line}")
    sys.stderr.flush()
