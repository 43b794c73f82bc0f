"""How integration/test counts: every test once, also where several processes share the tests, or one of them dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SAMPLE = """
import os, pytest
@pytest.fixture
def broken():
    yield
    raise ValueError
@pytest.mark.parametrize("number", range(4))
def test_passes(number): pass
def test_fails(): assert 0
def test_is_skipped(): pytest.skip("x")
@pytest.mark.xfail
def test_is_expected_to_fail(): assert 0
def test_fails_at_its_end(broken): pass
"""
BROKEN = "import nothing_of_this_name"
ENDS = "import os\ndef test_ends(): os._exit(1)\n"


def counted(folder: Path, *options: str) -> dict[str, int] | None:
    """Run pytest on a folder, and return what was counted; None where nothing was written."""
    # without what else is installed (hypothesis): it would take most of the time of each of the processes
    environment = {**os.environ, "PYTHONPATH": ROOT, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment["CONFINED_QEMU_COUNTS"] = str(folder / "counts")
    plugins = ("-p", "integration.guestlib.counting", "-p", "xdist.plugin", "-p", "no:cacheprovider")
    (folder / "pytest.ini").write_text("[pytest]\n")
    subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-q", *plugins, *options],
        cwd=folder, env=environment, capture_output=True, check=False,
    )  # fmt: skip
    try:
        found: dict[str, int] = json.loads((folder / "counts").read_text())
    except FileNotFoundError:
        return None
    return found


@pytest.mark.touches_host
def test_each_test_counts_once_as_its_worst_step(tmp_path: Path) -> None:
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    assert counted(tmp_path) == {"passed": 4, "skipped": 2, "failed": 2}


@pytest.mark.touches_host
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one", "two"])
def test_a_module_that_cannot_be_imported_is_a_failure(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "test_broken.py").write_text(BROKEN)
    found = counted(tmp_path, *options)
    assert found is not None
    assert found["failed"] >= 1
    assert found["passed"] == 0


@pytest.mark.touches_host
def test_a_test_that_ends_its_worker_is_a_failure_and_the_others_count(tmp_path: Path) -> None:
    (tmp_path / "test_ends.py").write_text(ENDS)
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    found = counted(tmp_path, "-n", "2")
    assert found == {"passed": 4, "skipped": 2, "failed": 3}


@pytest.mark.touches_host
def test_a_run_that_is_cut_off_has_written_nothing_or_its_missing_tests(tmp_path: Path) -> None:
    (tmp_path / "test_ends.py").write_text(ENDS)
    assert counted(tmp_path) is None
    (tmp_path / "test_ends.py").write_text(SAMPLE)
    found = counted(tmp_path, "-n", "2", "-x")
    assert found is not None
    assert sum(found.values()) == 8
