"""The drop-in: questions are answered as QEMU answers them, the system's emulator is diverted and comes back."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "/usr/local/lib/confined-shim"
NAME = "qemu-system-x86_64"


QUESTIONS = """
-version
--help
-h
-M help
-machine pc,help
-M none -accel help
-M none -netdev help
-cpu ?
-device help
-display none -machine accel=kvm:tcg -device ?
-device e1000,help
-device virtio-blk-pci,?
-object help
-object memory-backend-file,help
-chardev help
-audiodev help
-display help
-display gtk,gl=es -M none -version
-vga help
-trace help
-drive format=help
-L help
-d help
-tpmdev help
-boot ?
-blockdev help
-global help
-nic help
-smbios help
""".strip().splitlines()
"""Every form of a question that clients were seen to use, and some that QEMU refuses: those end as it ends them."""


@pytest.fixture
def shim() -> Iterator[str]:
    """The folder that `install-shim` filled."""
    os.makedirs(FOLDER, exist_ok=True)
    done = harness.confined("install-shim", FOLDER)
    assert done.returncode == 0, done.stderr
    assert os.readlink(f"{FOLDER}/{NAME}") == harness.LAUNCH
    yield f"{FOLDER}/{NAME}"
    harness.run(harness.COMMAND, "install-shim", FOLDER, "--remove")
    assert os.listdir(FOLDER) == []
    os.rmdir(FOLDER)


def _answer(program: str, words: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
    done = harness.run(*prefix, program, *words.split(), check=False, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def test_every_question_is_answered_as_qemu_answers_it(shim: str) -> None:
    with ThreadPoolExecutor(2) as both:
        bare = list(both.map(lambda words: _answer(harness.QEMU, words), QUESTIONS))
        ours = list(both.map(lambda words: _answer(shim, words), QUESTIONS))
    different = [(words, b, o) for words, b, o in zip(QUESTIONS, bare, ours, strict=True) if b != o]
    assert different == []
