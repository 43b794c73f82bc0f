"""What a person sees: one error class, and progress lines on standard error."""

import sys
import time

_START = time.monotonic()


class GuestError(Exception):
    """Something failed; the text is one line: what, where, how to mend."""


def progress(text: str) -> None:
    """Print one progress line with the seconds since the command started."""
    print(f"[{time.monotonic() - _START:6.1f} s] {text}", file=sys.stderr, flush=True)
