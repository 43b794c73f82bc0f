"""What a person sees: one error class, and progress lines on standard error."""

import sys
import time

_START = time.monotonic()
_SILENT: list[bool] = []


class GuestError(Exception):
    """Something failed; the text is one line: what, where, how to mend."""


def progress(text: str) -> None:
    """Print one progress line with the seconds since the command started."""
    if not _SILENT:
        print(f"[{time.monotonic() - _START:6.1f} s] {text}", file=sys.stderr, flush=True)


def silence() -> None:
    """Print no progress from now on."""
    _SILENT.append(True)
