"""What is said where a folder holds more, or goes deeper, than what is put back at once.

Either message leads to the end of the journal: `recover` starts where the last one stopped, and what it does not enter
a person puts right.
"""

from __future__ import annotations

from confined_qemu.host import walk
from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.errors import HINT, LabelError, shell_word

if TYPE_CHECKING:
    from confined_qemu.model.context import Context


def too_deep(path: str, given: Context, restore: Context) -> LabelError:
    """Return what is said of a folder that goes too deep: a person puts the rest right, and says so."""
    shown = shell_word(path)
    return LabelError(
        f"more than {walk.DEEPEST} folders deep: what lies there may still carry {given}",
        where=path,
        hint=f"run: find {shown} -xdev -context {shell_word(str(given))} -exec chcon -h {restore} {{}} +"
        f"{HINT}then run: confined-qemu recover --forget {shown}",
    )


def too_many(path: str, given: Context) -> LabelError:
    """Return what is said of a folder in which so much was made that it is not put back at once."""
    return LabelError(
        f"more than {walk.MOST:,} entries were made in it: the others still carry {given}",
        where=path,
        hint="run: confined-qemu recover (it does as many again)",
    )
