"""`contextmanager` and `suppress` as contextlib has them, without a start that loads `contextlib`.

That one brings collections, functools and their kin, and the launcher needs none of them. The type checker sees the
standard library's own. What nothing here needs is left out: managers as decorators, and `async`.
"""

from __future__ import annotations

__all__ = ["contextmanager", "suppress"]

TYPE_CHECKING = False  # as typing's own
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import contextmanager, suppress
    from typing import Any
else:

    def contextmanager(make: Callable[..., Iterator[Any]]) -> Callable[..., _Generated]:
        """Return what makes a context manager of a generator that yields once."""

        def made(*values: Any, **named: Any) -> _Generated:
            return _Generated(make(*values, **named))

        return made

    class suppress:  # noqa: N801 - contextlib's name
        """Takes exceptions of these kinds for nothing."""

        def __init__(self, *kinds: type[BaseException]) -> None:
            self.kinds = kinds

        def __enter__(self) -> None:
            """Begin."""

        def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
            return kind is not None and issubclass(kind, self.kinds)


class _Generated:
    """The context manager of a generator: up to its `yield` at the beginning, the rest at the end."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __enter__(self) -> Any:
        return next(self.generator)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            next(self.generator, None)
            return False
        try:
            self.generator.throw(error)
        except StopIteration:
            return True
        except BaseException as raised:
            if raised is not error:
                raise
            return False
        raise RuntimeError("the generator of a context manager yields once")
