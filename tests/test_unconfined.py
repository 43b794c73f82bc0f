"""Which command lines start a VM that nothing is to confine: told before the launch script is entered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from confined_qemu.cli.unconfined import keeps_context

if TYPE_CHECKING:
    from pathlib import Path

DISK = "disks: [{file: a.img, format: raw}]\n"


@pytest.mark.parametrize(
    ("text", "options", "keeps"),
    [
        ("seclabel: {type: none}\n", [], True),
        ("confinement: none\n", [], True),
        ("confinement: none\n", ["--confinement", "selinux"], False),
        ("", ["--confinement", "none"], True),
        ("", ["--conf=none"], True),
        ("", ["--name", "none"], False),
        ("display: none\n", [], False),
        ("display: none\nseclabel: {type: dynamic}\n", [], False),
        ("seclabel: {type: none, relabel: yes}\n", [], False),
        ("seclabel: [none\n", [], False),
        ('"seclabel": {"type":\n "none"}\n', [], True),
    ],
)
def test_specs(tmp_path: Path, text: str, options: list[str], *, keeps: bool) -> None:
    spec = tmp_path / "x.yaml"
    spec.write_text(f"name: x\n{DISK}{text}")
    assert keeps_context(["run", str(spec), *options]) is keeps
    assert keeps_context(["run", *options, str(spec), "--", "-display", "none"]) is keeps


def test_the_usual_spec_is_not_parsed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError("the launch script parses it, once")

    monkeypatch.setattr("confined_qemu.cli.command.launchverbs.parsed", parsed)
    spec = tmp_path / "x.yaml"
    spec.write_text(f"name: x\n{DISK}display: none\nnetwork: none\nconfinement: selinux\nseclabel: {{type: dynamic}}\n")
    assert not keeps_context(["run", str(spec)])


@pytest.mark.parametrize(
    ("words", "keeps"),
    [
        (["exec", "--confinement", "none", "--", "-M", "none"], True),
        (["exec", "--confinement", "auto", "--", "-M", "none"], False),
        (["exec", "--", "--confinement", "none"], False),
        (["run", "/no/such/file", "--confinement", "auto"], False),
        (["run", "-", "--confinement", "none"], True),
        (["run", "-", "--confinement", "auto"], False),
        (["run"], False),
        (["recover"], False),
        (["settle", "--confinement", "none"], False),
    ],
)
def test_words(words: list[str], *, keeps: bool) -> None:
    assert keeps_context(words) is keeps
