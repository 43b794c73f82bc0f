"""The table of command lines that real QEMU is traced with leaves no row of the table of options out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from confined_qemu.read.qemu.blocks import PROTOCOLS
from confined_qemu.read.qemu.collector import objects
from confined_qemu.read.qemu.options import OPTIONS
from confined_qemu.read.qemu.queries import walk
from integration.guestlib import strikes
from integration.suite import hostile, openings, openings_sets, openings_table

if TYPE_CHECKING:
    from collections.abc import Iterator


def rows() -> set[str]:
    """Return the table of options as text: `OPTION`, and `OPTION [DRIVER:]KEY` for each key that names a file."""
    return OPTIONS.keys() | {f"{name} {key}" for name, option in OPTIONS.items() for key in option.keys}


def rows_of(run: openings_table.Run) -> Iterator[str]:
    for _, name, value in walk(openings.arguments(run, "/f/o,p")):
        if name is None:
            continue
        yield name
        option = OPTIONS[name]
        if not option.keys or value is None:
            continue
        values = objects(name, value, option.implied)
        driver = dict(values).get(option.implied or "", "")
        for key, _ in values:
            yield from {f"{name} {found}" for found in (f"{driver}:{key}", key) if found in option.keys}


def test_every_row_is_run_or_says_why_not() -> None:
    run = {row for one in openings_table.RUNS for row in rows_of(one)}
    assert run & openings_sets.NOT_RUN.keys() == set()
    assert rows() - run - openings_sets.NOT_RUN.keys() == set()
    assert openings_sets.NOT_RUN.keys() - rows() == set()


def test_every_protocol_is_run_or_says_why_not() -> None:
    words = " ".join(word for run in openings_table.RUNS for word in run.words)
    run = {name for name in PROTOCOLS if re.search(rf'(=|driver":"|-blockdev |json:){re.escape(name)}\b', words)}
    assert run & openings_sets.NOT_RUN_PROTOCOLS.keys() == set()
    assert PROTOCOLS - run - openings_sets.NOT_RUN_PROTOCOLS.keys() == set()
    assert openings_sets.NOT_RUN_PROTOCOLS.keys() - PROTOCOLS == set()


def test_what_is_excused_is_excused_with_a_reason() -> None:
    excuses = [*openings_sets.NOT_RUN.values(), *openings_sets.NOT_RUN_PROTOCOLS.values(), *openings.OWN.values()]
    excuses += [reason for run in openings_table.RUNS for reason in run.unopened.values()]
    assert all(excuses)


def test_a_run_has_a_name_of_its_own() -> None:
    names = [run.name for run in openings_table.RUNS]
    assert len(names) == len(set(names))


def test_each_attempt_of_the_hostile_program_has_a_name_of_its_own_and_can_be_made() -> None:
    with open(hostile.PROGRAM, encoding="utf-8") as file:
        kinds = set(re.findall(r'^    "(\w+)": ', file.read().partition("ATTEMPTS = {")[2], re.MULTILINE))
    names = [one.what for one in strikes.STRIKES]
    assert len(names) == len(set(names)) >= 60
    assert {one.kind for one in strikes.STRIKES} <= kinds
