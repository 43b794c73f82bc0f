"""argparse as this project uses it: a wrong command line is one line and exit code 125."""

from __future__ import annotations

import argparse
import functools

from confined_qemu.model.errors import UsageError
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

REMAINDER = argparse.REMAINDER
# all that we say is English: no catalog of messages is looked for at every start, and none of argparse's words is
# another language's among them
argparse._ = str  # type: ignore[attr-defined]


_WIDTH = 100
"""Columns of a help text."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def __init__(self, **settings: Any) -> None:
        # a fixed width: asking for the terminal's imports shutil and four compressors at every start
        settings.setdefault("formatter_class", functools.partial(argparse.HelpFormatter, width=_WIDTH))
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Raise in the place of argparse's two lines and exit code 2.

        Raises:
            UsageError: always.
        """
        raise UsageError(message, hint=f"see {self.prog} --help")


def parse(parser: Parser, words: Sequence[str], verbs: tuple[str, ...]) -> argparse.Namespace:
    """Parse a command line; for `verbs` what follows `--` is QEMU's: `qemu` of the result, None without it.

    Raises:
        UsageError: it is wrong.
    """
    own, qemu = list(words), None
    if own[:1] and own[0] in verbs and "--" in own:
        end = own.index("--")
        own, qemu = own[:end], own[end + 1 :]
    return parser.parse_args(own, argparse.Namespace(qemu=qemu))
