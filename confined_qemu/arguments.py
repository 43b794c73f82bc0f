"""argparse as this project uses it: a wrong command line is one line and exit code 125."""

from __future__ import annotations

import argparse
from typing import NoReturn

from confined_qemu.errors import UsageError

REMAINDER = argparse.REMAINDER


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise in the place of argparse's two lines and exit code 2.

        Raises:
            UsageError: always.
        """
        raise UsageError(message, hint=f"see {self.prog} --help")
