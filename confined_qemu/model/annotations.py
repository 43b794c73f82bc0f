"""What annotations need of `typing`, without a start that loads it: alone it takes longer than any module of ours.

Type checkers go by the names: below `if TYPE_CHECKING:` stands what only they read.
"""

__all__ = ["TYPE_CHECKING", "Protocol", "cast"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, cast
else:
    Protocol = object

    def cast(_kind: str, value: object) -> object:
        """Return `value`; the type checker takes it for what `_kind` says."""
        return value
