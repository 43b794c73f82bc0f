"""Which Python runs our scripts: the distribution's, new enough, with the binding; else one line says what lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from confined_qemu.cli import output
from confined_qemu.host import interpreter, packages
from confined_qemu.model.distribution import Family
from confined_qemu.model.errors import HostError
from tests.messages import is_message

if TYPE_CHECKING:
    from pathlib import Path

OLD = "echo 'is Python 3.9' >&2; exit 1"
BARE = "basename $0 | cut -c 7-"
GOOD = f"{BARE}; echo /usr/lib64/python3.12/site-packages"
HELPLESS = "echo 'can load no libselinux' >&2; exit 1"


@pytest.fixture
def pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the candidates of a host like EL 9, which has none yet."""
    names = [os.path.basename(path) for path in interpreter.CANDIDATES]
    monkeypatch.setattr(interpreter, "CANDIDATES", tuple(str(tmp_path / name) for name in names))
    monkeypatch.setattr(packages, "family", lambda: Family.FEDORA)
    return tmp_path


def make(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_candidates_are_the_distributions_own_and_new_ones_first() -> None:
    assert interpreter.CANDIDATES == (
        "/usr/bin/python3", "/usr/bin/python3.14", "/usr/bin/python3.13", "/usr/bin/python3.12", "/usr/bin/python3.11",
    )  # fmt: skip


@pytest.mark.touches_host
def test_what_is_too_old_or_has_no_binding_is_passed_over(pythons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(pythons, "python3", OLD)
    make(pythons, "python3.13", BARE)
    make(pythons, "python3.12", GOOD)
    make(pythons, "python3.11", GOOD)
    (pythons / "elsewhere").mkdir()
    make(pythons / "elsewhere", "python3", GOOD)
    monkeypatch.setenv("PATH", f"{pythons}/elsewhere:/usr/bin:/bin")
    found = interpreter.find()
    folder = "/usr/lib64/python3.12/site-packages"
    assert found == interpreter.Interpreter(str(pythons / "python3.12"), "3.12", folder)


@pytest.mark.touches_host
@pytest.mark.parametrize(("own", "name"), [((3, 11), "python3.11"), ((3, 14), "python3.12")])
def test_without_a_binding_it_is_the_one_that_the_environment_was_made_with(
    pythons: Path, monkeypatch: pytest.MonkeyPatch, own: tuple[int, int], name: str
) -> None:
    make(pythons, "python3", OLD)
    make(pythons, "python3.13", HELPLESS)
    make(pythons, "python3.12", BARE)
    make(pythons, "python3.11", BARE)
    monkeypatch.setattr(sys, "version_info", (*own, 0))
    found = interpreter.find()
    assert found == interpreter.Interpreter(str(pythons / name), name.removeprefix("python"), None)


@pytest.mark.touches_host
def test_without_one_the_line_says_what_each_lacks_and_what_to_install(pythons: Path) -> None:
    make(pythons, "python3", OLD)
    make(pythons, "python3.12", HELPLESS)
    with pytest.raises(HostError) as raised:
        interpreter.find()
    line = str(raised.value)
    assert f"{pythons}/python3 is Python 3.9, {pythons}/python3.12 can load no libselinux\n  " in line
    assert line.endswith("dnf install python3-libselinux")
    assert is_message(line)


def test_without_any_python_the_line_names_what_was_tried(pythons: Path) -> None:
    with pytest.raises(HostError, match=f"none of {pythons}/python3, {pythons}/python3.14 to python3.11 is there"):
        interpreter.find()


NONE = "raise Exception('Failed to detect selinux python bindings')"
"""What PyPI's shim does where there is no binding."""
UNLOADABLE = "class CDLL:\n    def __init__(self, name): raise OSError(name)\n"


@pytest.mark.touches_host
@pytest.mark.parametrize(
    ("version", "modules", "said"),
    [
        ((3, 9), {}, "is Python 3.9"),
        ((3, 11), {"selinux": "", "ctypes": UNLOADABLE}, "can load no libselinux"),
        ((3, 11), {"selinux": NONE, "ctypes": UNLOADABLE}, "can load no libselinux"),
        ((3, 11), {"selinux": NONE, "ctypes": "CDLL = str"}, "3.11\n"),
        ((3, 12), {"selinux": "getcon_raw = 1", "ctypes": UNLOADABLE}, "3.12\nHERE\n"),
    ],
)
def test_what_a_python_is_asked(tmp_path: Path, version: tuple[int, int], modules: dict[str, str], said: str) -> None:
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    head = f"import sys; sys.version_info = {version}; sys.path.insert(0, {str(tmp_path)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", head + interpreter._ASK], capture_output=True, text=True, check=False
    )
    answer = (done.stderr.strip() if done.returncode else done.stdout).replace(str(tmp_path.parent), "HERE")
    assert answer == said


def test_what_stays_beside_a_vm_runs_with_the_same_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3.12")
    assert interpreter.current() == "/usr/bin/python3.12"
    monkeypatch.setattr(sys, "executable", "")
    assert interpreter.current() == "/usr/bin/python3"


@pytest.mark.parametrize(
    ("own", "said"),
    [("python3", "run: dnf install python3-psutil"), ("python3.12", "confined-qemu's environment: pip install psutil")],
)
def test_a_module_that_is_missing_is_the_distributions_for_its_own_python_only(
    pythons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own: str, said: str
) -> None:
    for name in ("python3", "python3.12"):
        make(pythons, name, "")
    monkeypatch.setattr(sys, "executable", str(pythons / own))

    def needs_it() -> int:
        raise ModuleNotFoundError("No module named 'psutil'", name="psutil")

    assert output.guarded(needs_it) == 125
    text = capsys.readouterr().err
    assert text.startswith("confined-qemu: Python's module psutil is not installed")
    assert text.endswith(f"{said}\n")
