"""The command line of integration/linux-image."""

import argparse
import sys

from integration.guestlib import image
from integration.guestlib.report import GuestError


def main(argv: list[str]) -> int:
    """Make the image where it is missing and print its path."""
    parser = argparse.ArgumentParser(prog="integration/linux-image", description=image.__doc__)
    parser.add_argument("--print-path", action="store_true", help="the default, for scripts that say what they want")
    parser.parse_args(argv)
    try:
        print(image.image())
    except GuestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 125
    return 0
