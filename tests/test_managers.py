"""The stand-ins for contextlib: each does what the standard library's own does."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.model import lean

if TYPE_CHECKING:
    from collections.abc import Iterator

STACKS: list[Any] = [lean.ExitStack, contextlib.ExitStack]


@lean.contextmanager
def noted(log: list[str], name: str, *, takes: bool = False, fails: bool = False) -> Iterator[str]:
    try:
        yield name
    except OSError:
        log.append(f"{name} saw an error")
        if not takes:
            raise
    else:
        log.append(f"{name} ended")
    if fails:
        raise ValueError(name)


def story(stack: Any, steps: tuple[dict[str, bool], ...], *, error: bool) -> list[str]:
    """Return what happens where managers end as these steps say, in an `ExitStack`."""
    log: list[str] = []
    try:
        with stack() as held:
            for number, step in enumerate(steps):
                log.append(f"entered {held.enter_context(noted(log, str(number), **step))}")
                held.callback(log.append, f"called {number}")
            if error:
                os.close(-1)
        log.append("went on")
    except (OSError, ValueError) as raised:
        log.append(f"{type(raised).__name__} {raised}")
    return log


@pytest.mark.parametrize("error", [False, True])
def test_a_stack_ends_as_contextlibs(*, error: bool) -> None:
    plain: dict[str, bool] = {}
    takes, fails, both = {"takes": True}, {"fails": True}, {"takes": True, "fails": True}
    for steps in ((), (plain,), (plain, plain), (takes, plain), (plain, takes), (fails, plain), (plain, fails),
                  (takes, fails), (both, plain), (plain, both), (takes, both), (fails, fails)):  # fmt: skip
        ours, theirs = (story(stack, steps, error=error) for stack in STACKS)
        assert ours == theirs, steps


def test_a_stack_that_was_closed_can_be_filled_again() -> None:
    for stack in STACKS:
        log: list[str] = []
        with stack() as held:
            held.enter_context(noted(log, "a"))
            held.close()
            held.enter_context(noted(log, "b"))
            log.append("last")
        assert log == ["a ended", "last", "b ended"]
