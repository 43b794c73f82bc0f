"""What a process tells the kernel about itself, with python-prctl and without: the kernel has the same answer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WITHOUT = "import sys; sys.modules['_prctl'] = None\n"
WITH = """
import sys, types, ctypes
libc = ctypes.CDLL(None)
module = types.ModuleType("_prctl")
module.prctl = lambda option, value: print("module") or libc.prctl(option, value, 0, 0, 0)
sys.modules["_prctl"] = module
del sys.modules["ctypes"]  # where that is loaded it is taken
"""
"""python-prctl's C part, which need not be built here."""
ACT = """
from confined_qemu.host import processcontrol
processcontrol.die_with_parent(15)
processcontrol.set_no_new_privs()
import ctypes
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0)
privs = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs"))
print(number.value, privs)
"""


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.touches_host
@pytest.mark.parametrize(("start", "said"), [(WITHOUT, ""), (WITH, "module\nmodule\n")])
def test_the_kernel_is_told(start: str, said: str) -> None:
    assert run(start + ACT) == f"{said}15 1\n"


@pytest.mark.touches_host
def test_a_refusal_is_an_error() -> None:
    bad = "from confined_qemu.host import processcontrol\nprocesscontrol.die_with_parent(999)\n"
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run(WITHOUT + bad)
    assert "Invalid argument" in raised.value.stderr
