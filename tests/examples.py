"""How many examples a property is tried with: few in the normal run, many with `--hypothesis-profile=long`."""

from __future__ import annotations

from hypothesis import settings

NORMAL, LONG = 25, 500


def examples(count: int) -> settings:
    """Return the settings of a property that needs so many in the normal run, and as much more in the long one."""
    return settings(max_examples=count * settings().max_examples // NORMAL)
