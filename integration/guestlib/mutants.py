"""Do the tests notice when the code changes? Changes a module in small ways, one at a time, and runs the tests near it.

The changes are cosmic-ray's: another operator, another number, a condition turned round, a loop that does not run.
They are made in a copy of the checkout. What no test notices is printed, to be judged by a person: some changes make
no difference (a limit of 107 bytes for one of 108, where no name is as long), and need no test.
"""

import argparse
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from integration.guestlib import programs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cosmic_ray.work_item import MutationSpec

LIMIT = 300.0
"""Seconds for the tests of one change; a change that makes them hang is noticed."""
NO_DIFFERENCE = re.compile(r"core/ReplaceBinaryOperator_BitOr_|core/ReplaceComparisonOperator_Is(Not)?_(?!Is)")
"""`X | None` in annotations, which are never evaluated; and an order in the place of `is`, which asks for one value."""


def main(argv: list[str]) -> int:
    """Print what survived and the counts; 0 if the tests ran."""
    parser = argparse.ArgumentParser(prog="python3 -m integration.guestlib.mutants", description=__doc__)
    parser.add_argument("module", help="the file to change, for example confined_qemu/plan/sockets.py")
    parser.add_argument("tests", nargs="+", help="the tests near it, for example tests/test_planner.py")
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="how many changes (20)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which of them (1)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="mutants.") as folder:
        copy = os.path.join(folder, "checkout")
        skipped = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(programs.checkout(), copy, ignore=skipped)
        os.chdir(copy)
        return _run(Path(options.module), options.tests, options.sample, options.seed)


def _run(module: Path, tests: list[str], count: int, seed: int) -> int:
    from cosmic_ray.mutating import mutate_and_test  # development only
    from cosmic_ray.testing import run_tests
    from cosmic_ray.work_item import TestOutcome

    command = shlex.join([sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests])
    outcome, output = run_tests(command, LIMIT)
    if outcome is not TestOutcome.SURVIVED:
        print(output, file=sys.stderr)
        print(f"error: {module}: the tests fail without a change", file=sys.stderr)
        return 1
    every = [change for change in _changes(module) if NO_DIFFERENCE.match(change.operator_name) is None]
    chosen = random.Random(seed).sample(every, min(count, len(every)))  # noqa: S311 - a sample to repeat
    survived = 0
    for change in sorted(chosen, key=lambda change: change.start_pos):
        result = mutate_and_test([change], command, LIMIT)
        if result.is_killed:
            continue
        survived += 1
        print(f"{module}:{change.start_pos[0]}: {change.operator_name.removeprefix('core/')}")
        lines = (result.diff or "").splitlines()
        print(*(f"    {line}" for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")), sep="\n")
    print(f"{module}: {len(chosen)} of {len(every)} changes tried, {len(chosen) - survived} noticed, {survived} not")
    return 0


def _changes(module: Path) -> "Iterator[MutationSpec]":
    from cosmic_ray.commands.init import init
    from cosmic_ray.work_db import use_db

    with use_db("changes.sqlite") as database:
        init([module], database, {})
        for item in database.work_items:
            yield from item.mutations


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
