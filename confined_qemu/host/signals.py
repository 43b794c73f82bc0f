"""The module `signal` without its enumerations: a launch loads no `enum` for them. Names and meanings are its own.

What it gives and takes are plain numbers.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's own
if TYPE_CHECKING:
    from signal import *  # noqa: F403
else:
    from _signal import *  # noqa: F403
