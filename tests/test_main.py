"""The `confined-qemu` command under a name that is not its own."""

from __future__ import annotations

import sys

import pytest

from confined_qemu import __main__ as command
from confined_qemu.cli import command as verbs


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
