"""Style, types, and nothing in the files of the project that belongs to the machine it was written on."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MACHINE = re.compile(rb"(?<![A-Za-z0-9_.~}\"'-])/" + rb"work/")
"""The folder of a checkout, as an absolute path."""


def tool(name: str) -> str:
    """Return the tool beside this Python, or on PATH; a missing one is a failure, never a skip."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.path.exists(beside) else shutil.which(name)
    assert found is not None, f"{name} is missing; integration/setup.sh installs it"
    return found


def run(*command: str) -> None:
    done = subprocess.run(
        [tool(command[0]), *command[1:]],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.touches_host
@pytest.mark.parametrize("command", ["ruff check", "ruff format --check --diff", "mypy --strict"])
def test_linter(command: str) -> None:
    run(*command.split())


def files() -> list[str]:
    """Return the files of the repository, or, without git, all that lie here."""
    listing = ["git", "-C", ROOT, "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached"]
    done = subprocess.run(listing, capture_output=True, text=True, check=False) if shutil.which("git") else None
    if done is not None and done.returncode == 0:
        return [name for name in done.stdout.split("\0") if name]
    skipped = {"__pycache__", ".git", "dist"}
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in skipped and not name.endswith("_cache")]
        found += [os.path.relpath(os.path.join(folder, name), ROOT) for name in names]
    return found


@pytest.mark.touches_host
def test_what_cannot_run_fails_and_is_not_skipped() -> None:
    tests = [name for name in files() if name.endswith(".py") and name.startswith(("tests/", "integration/"))]
    for name in tests:
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            tree = ast.parse(file.read())
        named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert named.isdisjoint({"skip", "skipif", "importorskip"}), name


@pytest.mark.touches_host
def test_no_file_names_the_machine_it_was_written_on() -> None:
    names = files()
    assert "pyproject.toml" in names
    found = []
    for name in names:
        path = os.path.join(ROOT, name)
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, "rb") as file:
                found += [f"{name}: {line!r}" for line in file if _MACHINE.search(line)]
    assert found == []


def test_a_machines_path_is_found() -> None:
    for line in (b"see /" + b"work/x", b"=/" + b"work/main"):
        assert _MACHINE.search(line)
    assert not _MACHINE.search(b"patch/" + b"work/x")
