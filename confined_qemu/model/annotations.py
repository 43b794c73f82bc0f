"""What annotations need of `typing`, without a start that loads it: alone it takes longer than any module of ours.

Type checkers go by the names: below `if TYPE_CHECKING:` stands what only they read.
"""

__all__ = ["TYPE_CHECKING", "Protocol"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object
