"""An upgrade leaves launch scripts and watchers that import by the names of before: these find today's code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import confined_qemu
from confined_qemu import FormerNames

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_each_leads_to_a_module_of_today() -> None:
    for name in FormerNames.NOW.values():
        path = os.path.join(ROOT, "confined_qemu", *name.split("."))
        assert os.path.exists(f"{path}.py") or os.path.exists(os.path.join(path, "__init__.py")), name


@pytest.mark.touches_host
@pytest.mark.parametrize(
    "text",
    [
        # the scripts of version 3 of the module
        "from confined_qemu.dropin import main; import confined_qemu.cli.launchscript as m; assert main is m.main",
        "from confined_qemu.cli import denials_script; assert callable(denials_script)",
        # its watcher and its relay, in their order
        "from confined_qemu.beside.survivors import survivors; survivors('x:y:z:s0')\n"
        "from confined_qemu import locks; assert locks.SHARED == locks.take.__globals__['SHARED']\n"
        "from confined_qemu.errors import ConfinedQemuError\n"
        "from confined_qemu.restore.restore import restore\n"
        "import confined_qemu.model.errors as e, confined_qemu.labels.restore as r\n"
        "assert ConfinedQemuError is e.ConfinedQemuError and restore is r.restore",
    ],
)
def test_what_they_import_is_there(text: str) -> None:
    program = f"import sys; sys.path += ['/usr/lib/python3/dist-packages', {ROOT!r}]\n{text}"
    subprocess.run(["/usr/bin/python3", "-IS", "-c", program], check=True)


def test_other_names_are_not_found() -> None:
    assert FormerNames.find_spec(f"{confined_qemu.__name__}.lsm") is None
    assert FormerNames.find_spec("errors_of_somebody") is None
    assert "dropin" not in sys.modules
