"""The `confined-qemu` command under a name that is not its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from confined_qemu import __main__ as command
from confined_qemu.cli import command as verbs
from confined_qemu.cli import unconfined
from confined_qemu.model import paths

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.mark.parametrize("name", ["/opt/bin/qemu-system-x86_64", "qemu-system-aarch64", "/x/qemu-kvm", "kvm"])
@pytest.mark.parametrize("arguments", [["-version"], ["run", "x.yaml"], []])
def test_an_emulators_name_that_leads_to_the_command_is_told_the_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 125
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"confined-qemu: {name}: ")
    assert err.endswith("\nconfined-qemu:   use: confined-qemu install-shim\n")
    assert err.count("\n") == 2


@pytest.mark.parametrize("name", ["confined-qemu", "/opt/bin/confined-qemu", "qemu-kvm-confined", "kvmtool"])
def test_any_other_name_is_the_command(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(verbs, "main", len)
    monkeypatch.setattr(sys, "argv", [name, "schema"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1


# ---- the command as it is installed


@pytest.mark.touches_host
@pytest.mark.parametrize("isolated", [True, False], ids=["the command", "what pip would write"])
def test_the_callers_environment_chooses_nothing_that_the_command_runs(tmp_path: Path, isolated: bool) -> None:
    """As with `sudo -E`: the caller's home and PYTHONPATH, and an environment that sees the system's packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages, customized = tmp_path / f"venv/lib/{version}/site-packages", tmp_path / "customized"
    users = tmp_path / f"home/.local/lib/{version}/site-packages"
    for folder in (tmp_path / "venv/bin", packages, users, tmp_path / "path"):
        folder.mkdir(parents=True)
    (tmp_path / "venv/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    (tmp_path / "venv/bin/python3").symlink_to("/usr/bin/python3")
    (packages / "confined_qemu").symlink_to(os.path.join(ROOT, "confined_qemu"))
    for folder in (users, tmp_path / "path"):
        (folder / "usercustomize.py").write_text(f"open({str(customized)!r}, 'w')")
    command = tmp_path / "venv/bin/confined-qemu"
    if isolated:
        shutil.copy(os.path.join(ROOT, "confined_qemu/cli/confined-qemu.sh"), command)
    else:
        command.write_text(f"#!{tmp_path}/venv/bin/python3\nfrom confined_qemu.__main__ import main\nmain()\n")
    command.chmod(0o755)
    (tmp_path / "link").symlink_to(command)
    done = subprocess.run(
        [tmp_path / "link", "help", "design"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path / "path"),
             "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "how confined-qemu works" in done.stdout
    assert customized.exists() is not isolated


TEXTS = {
    "name: x\ndisplay: none\nnetwork: none\nconfinement: selinux\n": "straight",
    "name: x\nconfinement: none\n": "asked",
    "{'confinement' :\r\n\t \"none\"}": "asked",
    "confinement: landlock\n": "asked",
    "seclabel: {type: none}\n": "asked",
    "seclabel:\n  type:\n\n    'none'\n": "asked",
    "hypervisor: xen\n": "asked",
    "<seclabel type='none'/>": "asked",
    "<seclabel type = \n'none'/>": "asked",
    "name: x\n\0confinement: none\n": "asked",
    "# none of type dynamic: landlock\n": "straight",
    "\xff\nconfinement: none\n": "asked",
}
"""Specs, and which way each goes."""


@pytest.mark.touches_host
def test_the_usual_spec_goes_straight_to_the_launch_script(tmp_path: Path) -> None:
    """The shell knows the words of `cli.unconfined`: what it sends past them must be none of theirs."""
    launch, python, command = tmp_path / "launch", tmp_path / "python3", tmp_path / "confined-qemu"
    source = Path(ROOT, "confined_qemu/cli/confined-qemu.sh").read_text()
    assert f"launch={paths.LAUNCH_SCRIPT}\n" in source
    command.write_text(source.replace(paths.LAUNCH_SCRIPT, str(launch)))
    launch.write_text('#!/bin/sh\necho straight "$@"\n')
    python.write_text('#!/bin/sh\nshift 3\necho asked "$@"\n')
    for program in (launch, python, command):
        program.chmod(0o755)
    spec = tmp_path / "-a b.yaml"

    def way(*words: str) -> str:
        done = subprocess.run([command, *words], capture_output=True, text=True, check=True, cwd=tmp_path)
        said, _, rest = done.stdout.rstrip("\n").partition(" ")
        assert rest == " ".join(words if said == "straight" else (str(command), *words))
        return said

    for text, expected in TEXTS.items():
        spec.write_bytes(text.encode("latin-1"))
        assert way("run", str(spec)) == expected, text
        assert expected == "asked" or not unconfined._may_say_none(str(spec)), text
    spec.write_text("name: x\n")
    (tmp_path / "p").symlink_to(spec)
    assert way("run", "p", "--", "-S", "-name", "x") == "straight"
    for words in (("run",), ("run", "p", "--name", "x"), ("run", "-a b.yaml"), ("run", "no"), ("run", "--help"),
                  ("run", "."), ("exec", "p"), ("plan", "p"), ("run", "--confinement=none", "p"), ()):  # fmt: skip
        assert way(*words) == "asked", words
    launch.chmod(0o644)
    assert way("run", "p") == "asked"
