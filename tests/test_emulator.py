"""Finding the real emulator: behind an emulator's name lies QEMU's own program, never ourselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import emulator, interpreter
from confined_qemu.install import script
from confined_qemu.model.errors import EmulatorNotExecutable, EmulatorNotFound
from tests.messages import is_message

if TYPE_CHECKING:
    from pathlib import Path

NAME = "qemu-system-x86_64"
PROGRAM = b"\x7fELF and so on"


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A launch script, and no emulator where one usually lies."""
    monkeypatch.setattr(emulator, "FOLDERS", ())
    monkeypatch.setattr(script, "_require_trusted", lambda _: None)
    python = interpreter.Interpreter("/usr/bin/python3", "3.11", "/usr/lib/python3/dist-packages")
    monkeypatch.setattr(interpreter, "find", lambda: python)
    path = tmp_path / "launch"
    make(path, script.text(script.Script.LAUNCH).encode())
    return path


def make(path: Path, content: bytes = PROGRAM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def test_itself_in_every_guise_is_passed_over(tmp_path: Path, launch: Path) -> None:
    folders = [tmp_path / name for name in "abcdef"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / NAME).symlink_to(launch)
    (folders[1] / NAME).symlink_to(folders[0] / NAME)
    os.link(launch, folders[2] / NAME)
    shutil.copy(launch, folders[3] / NAME)
    make(folders[4] / NAME, b'#!/bin/sh\nexec ../a/qemu-system-x86_64 "$@"\n')
    folders[5].rmdir()
    folders[5].symlink_to(folders[0])
    search = os.pathsep.join(map(str, folders))
    assert emulator.look(NAME, search) is None
    real = make(tmp_path / "real" / NAME)
    assert emulator.look(NAME, f"{search}:{real.parent}:{folders[0]}") == str(real)


def test_a_path_of_ours_is_a_name(tmp_path: Path, launch: Path) -> None:
    shim = tmp_path / "a" / NAME
    shim.parent.mkdir()
    shim.symlink_to(launch)
    real = make(tmp_path / "real" / NAME)
    assert emulator.find(str(shim), str(real.parent)) == str(real)
    with pytest.raises(EmulatorNotFound):
        emulator.find(str(shim), str(shim.parent))


def test_the_diverted_one_lies_beside_ours(tmp_path: Path, launch: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / NAME).symlink_to(launch)
    real = make(folder / f"{NAME}.distrib")
    assert emulator.look(NAME, str(folder)) == str(real)
    assert emulator.find(str(folder / NAME), "") == str(real)
    (folder / NAME).unlink()
    make(folder / NAME)
    assert emulator.look(NAME, str(folder)) == str(folder / NAME)


@pytest.mark.usefixtures("launch")
def test_qemu_kvm_under_the_names_that_distributions_give_it(tmp_path: Path) -> None:
    search = f"{tmp_path}/bin:{tmp_path}/libexec"
    system = make(tmp_path / "bin" / NAME)
    make(tmp_path / "bin" / "kvm", b'#!/bin/sh\nexec qemu-system-x86_64 -enable-kvm "$@"\n')
    assert emulator.look("qemu-kvm", search) == str(system)
    kvm = make(tmp_path / "libexec" / "qemu-kvm")
    assert emulator.look("qemu-kvm", search) == str(kvm)
    assert emulator.look("qemu-system-aarch64", search) is None
    assert emulator.look(NAME, search) == str(system)
    system.unlink()
    assert emulator.look(NAME, search) == str(kvm)  # RHEL has no other


def test_qemu_goes_by_the_name_that_its_command_line_was_read_for() -> None:
    assert emulator.argv0(NAME, "/usr/libexec/qemu-kvm") == NAME
    assert emulator.argv0(f"/usr/bin/{NAME}", "/usr/libexec/qemu-kvm") == NAME
    assert emulator.argv0("qemu-kvm", f"/usr/bin/{NAME}") == "qemu-kvm"
    for name, found in (
        (NAME, f"/usr/bin/{NAME}.distrib"),
        ("kvm", "/usr/libexec/qemu-kvm"),
        ("/opt/qemu", "/opt/qemu"),
    ):
        assert emulator.argv0(name, found) == found


def test_a_path_that_is_unset_empty_or_ours_alone(
    tmp_path: Path, launch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = make(tmp_path / "usual" / NAME)
    monkeypatch.setattr(emulator, "FOLDERS", (str(real.parent),))
    monkeypatch.setattr(os, "defpath", "/nowhere")
    for search in ("", str(launch.parent), ":::", "relative"):
        assert emulator.look(NAME, search) == str(real)


@pytest.mark.usefixtures("launch")
def test_what_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "a" / NAME).mkdir(parents=True)
    make(tmp_path / "b" / NAME).chmod(0o644)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / NAME).symlink_to(tmp_path / "c" / NAME)
    os.mkfifo(tmp_path / "c" / "qemu-kvm")
    assert emulator.look(NAME, ":".join(str(tmp_path / name) for name in "abc")) is None
    for path, error in (("b", EmulatorNotExecutable), ("a", EmulatorNotExecutable), ("d", EmulatorNotFound)):
        with pytest.raises(error):
            emulator.find(str(tmp_path / path / NAME), "")


def drop_in(folder: Path, words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the launch script as a client would."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    lines = (
        f"#!{sys.executable} -IS",
        "# Written by `confined-qemu policy install`",
        "import sys",
        f"sys.path.append({package!r})",
        "from confined_qemu.cli.launchscript import main",
        "main()",
    )
    program = make(folder / NAME, "\n".join(lines).encode())
    return subprocess.run(
        [program, *words], env=variables, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


@pytest.mark.touches_host
def test_a_question_reaches_the_emulator_with_all_that_the_caller_set(tmp_path: Path) -> None:
    shown = shutil.which("env")
    assert shown is not None
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / NAME
    shutil.copy(shown, real)
    search = f"{tmp_path / 'shim'}:{real.parent}"
    done = drop_in(tmp_path / "shim", ["--version"], PATH=search)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("env (GNU coreutils)")


def test_no_emulator_is_one_line_and_127(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "FOLDERS", ())
    with pytest.raises(EmulatorNotFound, match="no such emulator on PATH") as raised:
        emulator.find(NAME, str(tmp_path))
    assert is_message(str(raised.value))


@pytest.mark.touches_host
@pytest.mark.parametrize(
    "words",
    [
        "-version",
        "--help",
        "-device help",
        "-device ?",
        "-M none -accel help",
        "-display help",
        "-d help",
        "-tpmdev help",
    ],
)
def test_a_question_is_answered_as_qemu_answers_it(tmp_path: Path, words: str) -> None:
    real = emulator.look(NAME, "")
    assert real is not None, "install QEMU: apt install qemu-system-x86"
    asked = words.split()
    bare = subprocess.run([real, *asked], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    ours = drop_in(tmp_path / "shim", asked, PATH=f"{tmp_path}/shim")
    assert (ours.returncode, ours.stdout, ours.stderr) == (bare.returncode, bare.stdout, bare.stderr)
