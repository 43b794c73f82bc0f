"""A pytest plugin: writes how a run ended to the file that CONFINED_QEMU_COUNTS names. Guests load it by itself.

Each test counts once, as the worst of its set-up, call and tear-down; xfail is a skip, a skip is not a pass. Where
pytest-xdist shares the tests out (`-n`), its workers load the plugin too, and only the process that leads them writes.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import pytest

_ORDER = ("passed", "skipped", "failed")
_results: dict[str, str] = {}
_collected: set[str] = set()


def pytest_collection_finish(session: Any) -> None:
    """Note what will run: of a run that is cut off, tests are missing."""
    _collected.update(item.nodeid for item in getattr(session, "items", ()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: Sequence[str]) -> None:
    """Note what a worker has found: every worker finds all."""
    _collected.update(ids)


def pytest_collectreport(report: Any) -> None:
    """Count a module that cannot be imported as a failure, one that skips itself as a skip."""
    if report.outcome != "passed":
        _note(report)


def pytest_runtest_logreport(report: Any) -> None:
    """Count a step of a test."""
    _note(report)


def _note(report: Any) -> None:
    worst = max(_results.get(report.nodeid, "passed"), report.outcome, key=_ORDER.index)
    _results[report.nodeid] = worst


def pytest_sessionfinish(session: Any) -> None:
    """Write the numbers."""
    if hasattr(session.config, "workerinput"):
        return
    found = [*_results.values(), *["failed" for name in _collected if name not in _results]]
    with open(os.environ["CONFINED_QEMU_COUNTS"], "w", encoding="ascii") as file:
        json.dump({name: found.count(name) for name in _ORDER}, file)
