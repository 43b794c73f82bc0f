"""One family of errors: what failed, on what, and why, in one line, and how to mend it on the next."""

from __future__ import annotations

import os

from confined_qemu.model.lean import TYPE_CHECKING, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator

LAUNCHER_FAILED = 125
"""Exit status when the launcher refuses or fails, as `env(1)` and container runtimes use it."""
CANNOT_EXECUTE = 126
"""Exit status when the emulator was found and could not be executed."""
NOT_FOUND = 127
"""Exit status when the emulator was not found."""
TIMED_OUT = 124
"""Exit status of `settle` when its time runs out, as `timeout(1)` uses it."""


def printable(text: str) -> str:
    """Return `text` fit for one line of a terminal: control characters and stray bytes are escaped.

    A path may hold a newline, an escape sequence, or bytes that are not UTF-8 (surrogates here).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


HINT = "\0"
"""Stands in the text of a message before each hint. No path and no argument holds a NUL: no file's name is a hint."""


def message(text: str, hint: str | None = None) -> str:
    """Return what a person is told: a line that says what failed, and beneath it a line for each hint.

    A hint is a command or a change that mends it (`run: ...`); its line begins with two spaces. `text` holds the line
    alone, or with hints that are set off by `HINT`. All messages are joined here and nowhere else.
    """
    whole = f"{text}{HINT}{hint}" if hint else text
    return "\n  ".join(printable(line) for line in whole.split(HINT))


_UNQUOTED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./-_"
"""The characters that a shell takes for themselves."""


def shell_word(text: str) -> str:
    """Return `text` as one printable word of a shell's command line, for a command that a message names."""
    if text.isprintable():
        # as shlex.quote does it, which loads re
        return text if text and not text.strip(_UNQUOTED) else "'" + text.replace("'", "'\"'\"'") + "'"
    escapes = {"\\": "\\\\", "'": "\\'"}
    return "$'" + "".join(escapes.get(c) or (c if c.isprintable() else _octal(c)) for c in text) + "'"


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def why(error: OSError) -> str:
    """Return the operating system's words for `error`, without number or path."""
    return os.strerror(error.errno) if error.errno else printable(str(error))


class ConfinedQemuError(Exception):
    """The base of everything that this project raises for a person to read.

    `what` is a sentence without a full stop, `where` a path or `file:line:column` that starts the line,
    `hint` a command or a change that mends it.
    """

    exit_code = LAUNCHER_FAILED

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return message(f"{printable(self.where)}: {self.what}" if self.where else self.what, self.hint)

    @property
    def messages(self) -> tuple[str, ...]:
        """Each thing that is wrong, with its hints."""
        return (str(self),)


class UsageError(ConfinedQemuError):
    """The command line of confined-qemu itself is wrong."""


class ValueProblem(ConfinedQemuError):
    """A level, range, context or other value is malformed."""


class SpecError(ConfinedQemuError):
    """A VM description is wrong; `problems` holds a message for each thing found, in order of place."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.messages)

    @property
    def messages(self) -> tuple[str, ...]:
        """The problems, fit for a terminal."""
        return tuple(message(problem) for problem in self.problems)


class CommandLineError(ConfinedQemuError):
    """QEMU's command line cannot be read, or names something that may not be used."""


class HostError(ConfinedQemuError):
    """The host cannot do what is asked, or could not be asked."""


@contextmanager
def descriptor_for(what: str) -> Iterator[None]:
    """Do what makes a descriptor.

    Raises:
        HostError: there is none to be had for `what`.
    """
    try:
        yield
    except OSError as error:
        raise HostError(f"no descriptor for {what}: {why(error)}", hint="see: ulimit -n") from error


class LsmError(ConfinedQemuError):
    """An operation of SELinux failed; the sentence holds operation, object and cause."""


class LabelError(ConfinedQemuError):
    """A file could not be labelled, or is not the file that was planned for."""


class JournalError(ConfinedQemuError):
    """The record of labels cannot be written or read; nothing is labelled without it."""


class Refused(ConfinedQemuError):
    """A plan with refusals was to be run; nothing was changed. `refusals` are the plan's: messages already."""

    def __init__(self, refusals: tuple[str, ...]) -> None:
        super().__init__("\n".join(refusals))
        self.refusals = refusals

    def __str__(self) -> str:
        return "\n".join(self.refusals)

    @property
    def messages(self) -> tuple[str, ...]:
        """Each refusal."""
        return self.refusals


class EmulatorNotFound(ConfinedQemuError):
    """There is no such emulator on this host."""

    exit_code = NOT_FOUND


class EmulatorNotExecutable(ConfinedQemuError):
    """The emulator is there and could not be executed."""

    exit_code = CANNOT_EXECUTE
