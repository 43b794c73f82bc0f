"""`contextmanager`, `suppress` and `ExitStack` as contextlib has them, without a start that loads `contextlib`.

That one brings collections, functools and their kin, and the launcher needs none of them. The type checker sees the
standard library's own. What nothing here needs is left out: managers as decorators, `async`, `push`, `pop_all`.
"""

from __future__ import annotations

__all__ = ["ExitStack", "contextmanager", "suppress"]

TYPE_CHECKING = False  # as typing's own
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack, contextmanager, suppress
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

    class ExitStack:
        """Ends what it was given in the opposite order, when its block ends or at `close`."""

        def __init__(self) -> None:
            self._ends: list[Callable[..., Any]] = []

        def enter_context(self, manager: Any) -> Any:
            """Begin with a manager, which ends with this one."""
            value = manager.__enter__()
            self._ends.append(manager.__exit__)
            return value

        def callback(self, call: Callable[..., Any], *values: Any) -> None:
            """Have this called at the end."""
            self._ends.append(lambda *_: call(*values) and False)

        def close(self) -> None:
            """End all of it now."""
            self.__exit__(None, None, None)

        def __enter__(self) -> ExitStack:  # noqa: PYI034 - Self is of typing
            return self

        def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
            known, begun = error, kind is not None
            while self._ends:
                try:
                    if self._ends.pop()(kind, error, trace):
                        kind = error = trace = None
                except BaseException as raised:  # noqa: BLE001 - raised below
                    kind, error, trace = type(raised), raised, raised.__traceback__
            if error is not None and error is not known:
                raise error
            return begun and kind is None


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
