"""What a drop-in must preserve, as one table: bare QEMU and the drop-in are seen to be the same."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from integration.suite import points_files as files
from integration.suite import points_host as host
from integration.suite import points_process as process
from integration.suite import sides
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from integration.suite.sides import Seen, Side


@dataclass(frozen=True)
class Row:
    """A point, and the probe that is run on both sides.

    `differs` is what the drop-in shows where it cannot show what bare QEMU does; `because` says why. Texts of it are
    regular expressions.
    """

    point: str
    probe: Callable[[Side], Seen]
    differs: Mapping[str, object] = field(default_factory=dict)
    because: str = ""


TABLE = (
    Row(
        "1, 6, 8, 9: the process and all that it inherits",
        process.running,
        {"CapPrm": "0+", "CapEff": "0+", "CapBnd": "0+", "NoNewPrivs": "1"},
        "what the command line does not need is given up: CONFINED_QEMU_HARDEN=no keeps it",
    ),
    Row("2: SIGKILL", process.sigkill),
    Row("3a: the ways to end", process.ends),
    Row("3b: isa-debug-exit", process.debug_exit),
    Row("4a: success", files.success),
    Row("4b: what QEMU itself refuses", host.bad_option),
    Row(
        "4c: a missing file",
        files.missing_file,
        {"exit": 125, "stderr": "confined-qemu: /.*/missing.img .*: no such file\n"},
        "what is to be labelled is looked at first: one line, and the status of a launcher that refuses (env(1))",
    ),
    Row("5a: a terminal", process.terminal),
    Row("5b: the background of a terminal", files.background),
    Row("5c: pipes, files and here-documents", files.streams),
    Row("5d: the end of QEMU's output", files.end_of_file),
    Row("6: descriptors by number", files.by_number),
    Row(
        "7: standard output by name",
        files.output_by_name,
        {
            "file": "(?s).*/dev/stdout.*confined-qemu:   name the file itself, or use QEMU's stdio.*",
            **({} if HERE.opens_terminals else {"terminal": "(?s).*descriptor 1 .*svirt_t may not open it by name.*"}),
        },
        "a VM may write to a caller's log that it was handed, and may open none by itself (neverallow in our module)",
    ),
    Row(
        "7: another process's descriptor by name",
        files.memory_of_the_caller,
        {"came up": False, "exit": None, "stderr": None, "said": ".*cannot be looked at: Permission denied.*"},
        "/proc of the caller is closed to the launcher and to VMs",
    ),
    Row(
        "8: as the program sees itself",
        process.shown,
        {"when the caller dies": 0, "personality": "0+\n"},
        "the kernel drops PR_SET_PDEATHSIG and ADDR_NO_RANDOMIZE where the context changes (security/selinux/hooks.c)",
    ),
    Row(
        "8: SIGXFSZ ignored",
        process.file_too_large,
        {"SIGXFSZ is ignored": False},
        "Python ignores it in each of its programs, so what the caller had is not known",
    ),
    Row("10: questions", files.questions),
    Row("11: one image and a system's firmware for two", host.shared),
    Row("12a: what is not there yet", host.not_yet_there),
    Row("12b: what goes away", host.vanishing),
    Row("13: sockets of both kinds", host.sockets),
    Row("14: a daemon", host.daemon),
    Row("15a: other ways to name a file", host.other_ways_to_say_it),
    Row(
        "15b: an option that is not known",
        host.unknown_option,
        {"exit": 125, "stderr": "confined-qemu: -no-such-option: unknown option, .*\nconfined-qemu:   .*\n"},
        "it may name a file, which would have no label: refused by name, or passed on with --unknown-options=warn",
    ),
    Row("16a: a declared file over QMP", host.declared),
    Row(
        "16b: a file over QMP that nobody declared",
        host.undeclared,
        {"denied": True},
        "it is what confinement is for: CONFINED_QEMU_EXTRA_PATHS or `confined-qemu allow` names it",
    ),
    Row("17: by name, with the drop-in twice on PATH", host.by_name),
)


@pytest.fixture
def place() -> Iterator[None]:
    """Have nothing of the sides' folder afterwards."""
    yield
    shutil.rmtree(sides.FOLDER, ignore_errors=True)


@pytest.mark.usefixtures("drop_in", "place")
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.point)
def test_point(row: Row) -> None:
    bare, confined = sides.both(row.probe)
    for key, shown in row.differs.items():
        was, now = bare.pop(key, None), confined.pop(key, None)
        assert now != was, f"no longer another one: {row.because}"
        assert re.fullmatch(shown, str(now)) if isinstance(shown, str) else now == shown
    assert confined == bare
