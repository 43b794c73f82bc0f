"""What a start costs on the building machine, in system calls and modules: budgets, as no test may go by time."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from integration.buildhost.hosted import CHECKOUT
from integration.guestlib.timing import ENTRY, write_program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with the package as an installation has it: apart from the checkout, and compiled."""
    folder = str(tmp_path_factory.mktemp("installed"))
    shutil.copytree(os.path.join(CHECKOUT, "confined_qemu"), os.path.join(folder, "confined_qemu"))
    subprocess.run(["/usr/bin/python3", "-I", "-m", "compileall", "-q", folder], check=True)
    return folder


def calls(program: str, folder: Path, *words: str, confinement: str) -> list[str]:
    """Return the system calls from the start of our program to the exec that ends it; `true` stands for QEMU."""
    (folder / "bin").mkdir(exist_ok=True)
    shutil.copy("/usr/bin/true", folder / "bin" / "qemu-system-x86_64")
    log = folder / "calls"
    environment = {"PATH": f"{folder}/bin:/usr/bin", "CONFINED_QEMU_CONFINEMENT": confinement}
    strace = ["strace", "-qq", "-o", str(log), program, *words]
    subprocess.run(strace, env=environment, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("execve("))
    assert "bin/qemu-system-x86_64" in lines[last]
    return lines[1:last]


@pytest.mark.parametrize(
    ("confinement", "most", "looked"), [("version", 600, 18), ("none", 1250, 63), ("landlock", 2200, 85)]
)
def test_a_start_makes_few_system_calls(
    installed: str, tmp_path: Path, confinement: str, most: int, looked: int
) -> None:
    """Python's own start makes 250, and its finder a dozen for each module; `looked` counts the modules in Python."""
    folder = tmp_path / "link"
    folder.mkdir()
    program = write_program(
        str(folder / "qemu-system-x86_64"), ENTRY.format(flags="-IS", folder=installed, module="cli.launchscript")
    )
    image = tmp_path / "a.img"
    image.write_bytes(bytes(4096))
    words = ["-nodefaults", "-display", "none", "-drive", f"file={image},format=raw,if=ide", "-S", "-qmp", "stdio"]
    asked = ["-version"] if confinement == "version" else words
    made = calls(program, tmp_path, *asked, confinement=confinement.replace("version", "none"))
    assert len(made) <= most
    assert sum(".pyc" in line and line.startswith("openat(") and "ENOENT" not in line for line in made) <= looked
