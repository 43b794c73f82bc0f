"""The launcher's settings: two files and the environment, the later one wins key by key, and who may write one."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.cli.unconfined import keeps_context
from confined_qemu.host import settingsfiles
from confined_qemu.launch.inputs import from_arguments
from confined_qemu.model import paths
from confined_qemu.model.errors import ConfinedQemuError, HostError, SpecError, UsageError
from confined_qemu.model.invocation import Confinement
from confined_qemu.read.settings import Settings, UnknownOptions, from_environment, from_file
from tests.messages import is_message

if TYPE_CHECKING:
    from pathlib import Path


def test_the_environment() -> None:
    assert from_environment({}) == Settings()
    found = from_environment(
        {
            "CONFINED_QEMU_CONFINEMENT": "auto",
            "CONFINED_QEMU_UNKNOWN_OPTIONS": "warn",
            "CONFINED_QEMU_EXTRA_PATHS": "/a:rel::",
            "CONFINED_QEMU_REQUIRE_DOMAIN": "yes",
        }
    )
    assert found == Settings(Confinement.AUTO, UnknownOptions.WARN, ("/a", "rel"), require_domain=True)


@pytest.mark.parametrize("key", ["CONFINEMENT", "UNKNOWN_OPTIONS", "REQUIRE_DOMAIN"])
@pytest.mark.parametrize("text", ["", "Yes", "none ", "1"])
def test_a_word_that_is_none(key: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"CONFINED_QEMU_{key} is .*\n  set it to"):
        from_environment({f"CONFINED_QEMU_{key}": text})


def test_a_file_sets_the_keys_that_it_has() -> None:
    before = Settings(Confinement.AUTO, UnknownOptions.WARN, ("/a",), ("/b",))
    found = from_file("extra_paths: [/c d, '/e,f']\nrequire_domain: on\n", "x", before)
    assert found == Settings(Confinement.AUTO, UnknownOptions.WARN, ("/c d", "/e,f"), ("/b",), require_domain=True)
    for nothing in ("", "\n", "# confinement: none\n\n  # and so on\n"):
        assert from_file(nothing, "x", before) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("confinment: none\n", "x:1:1: confinment: unknown key\n  did you mean confinement?"),
        (
            "confinement: no\n",
            "x:1:14: confinement: expected one of selinux, landlock, auto, none, got 'no'",
        ),
        ("extra_paths: /a\n", "x:1:14: extra_paths: expected a list\n  "),
        ("extra_paths: [a]\n", "x:1:15: extra_paths[0]: expected an absolute path, got 'a'"),
        ("require_domain: maybe\n", "x:1:17: require_domain: expected yes or no, got 'maybe'"),
        ("label_trees: [/a]\nlabel_trees: [/b]\n", "x:2:1: label_trees: duplicate key, first in line 1\n  "),
        ("- /a\n", "x:1:1: settings are a mapping (key: value)\n  "),
        ("confinement: [\n", "x:2:1: not YAML: "),
        ("emulator: /usr/bin/qemu\n", "x:1:1: emulator: unknown key\n  the keys are confinement, "),
    ],
)
def test_what_is_wrong_in_a_file_has_its_place(text: str, said: str) -> None:
    with pytest.raises(SpecError) as raised:
        from_file(text, "x", Settings())
    (line,) = raised.value.messages
    assert line.startswith(said)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_any_text_is_settings_or_a_problem_with_its_place(text: str) -> None:
    with suppress(SpecError):
        from_file(text, "x", Settings())


# ---- the files on a host


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with an empty `.config`, and no settings of the system's."""
    monkeypatch.setattr(paths, "SETTINGS", str(tmp_path / "etc" / "confined-qemu.yaml"))
    (tmp_path / "etc").mkdir()
    (tmp_path / ".config").mkdir()
    return tmp_path


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_later_one_wins_key_by_key(home: Path) -> None:
    environment = {"HOME": str(home)}
    assert settingsfiles.load(environment) == (Settings(), ())
    system = write(home / "etc" / "confined-qemu.yaml", "confinement: auto\nunknown_options: warn\nlabel_trees: [/a]\n")
    own = write(home / ".config" / "confined-qemu.yaml", "confinement: selinux\nlabel_trees: []\n")
    found, used = settingsfiles.load(environment | {"CONFINED_QEMU_UNKNOWN_OPTIONS": "refuse"})
    assert found == Settings(Confinement.SELINUX)
    assert used == (str(system), str(own))
    elsewhere = home / "x"
    elsewhere.mkdir()
    write(elsewhere / "confined-qemu.yaml", "confinement: none\n")
    found, used = settingsfiles.load(environment | {"XDG_CONFIG_HOME": str(elsewhere)})
    assert (found.confinement, used) == (Confinement.NONE, (str(system), f"{elsewhere}/confined-qemu.yaml"))


@pytest.mark.parametrize("variables", [{}, {"HOME": ""}, {"HOME": "rel"}, {"XDG_CONFIG_HOME": "rel", "HOME": "."}])
def test_a_home_that_is_none(variables: dict[str, str]) -> None:
    assert settingsfiles.candidates(variables) == (paths.SETTINGS,)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
@pytest.mark.parametrize("place", ["etc", ".config"])
def test_what_others_may_write_is_refused(home: Path, mode: int, place: str) -> None:
    path = write(home / place / "confined-qemu.yaml", "confinement: none\n", mode)
    with pytest.raises(HostError) as raised:
        settingsfiles.load({"HOME": str(home)})
    assert str(raised.value) == f"{path}: others may write these settings\n  run: chmod go-w {path}"


@pytest.mark.parametrize("place", ["etc", ".config"])
def test_what_belongs_to_another_is_refused_also_behind_a_link(
    home: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(home / "theirs", "confinement: none\n")
    if os.geteuid() == 0:
        os.chown(path, 1234, 1234)  # root's own file may configure everybody
    (home / place / "confined-qemu.yaml").symlink_to(path)
    owner, other = os.stat(path).st_uid, 4321
    monkeypatch.setattr(os, "geteuid", lambda: other)
    told = f"belong to uid {owner}, which may not configure uid {other}"
    mend = 0 if place == "etc" else other
    with pytest.raises(HostError, match=f"{told}\n  run: chown {mend} "):
        settingsfiles.load({"HOME": str(home)})


def test_what_is_no_readable_file_is_refused(home: Path) -> None:
    path = home / ".config" / "confined-qemu.yaml"
    path.mkdir()
    with pytest.raises(HostError, match="not a regular file"):
        settingsfiles.load({"HOME": str(home)})
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(HostError, match="not a regular file"):
        settingsfiles.load({"HOME": str(home)})
    path.unlink()
    for target in ("nowhere", path.name):
        path.symlink_to(target)
        with pytest.raises(HostError, match="cannot be read") as raised:
            settingsfiles.load({"HOME": str(home)})
        assert is_message(str(raised.value))
        path.unlink()
    write(path, "#" * 70_000)
    with pytest.raises(HostError, match="are not read"):
        settingsfiles.load({"HOME": str(home)})


def test_a_command_line_takes_them(home: Path) -> None:
    write(home / ".config" / "confined-qemu.yaml", "confinement: auto\nrequire_domain: yes\n")
    found, _ = settingsfiles.load({"HOME": str(home)})
    invocation = from_arguments("qemu-system-x86_64", ["-M", "none"], settings=found)
    assert (invocation.confinement, invocation.require_domain) == (Confinement.AUTO, True)
    stronger = from_arguments("qemu-system-x86_64", ["-M", "none"], confinement="none", settings=found)
    assert stronger.confinement is Confinement.NONE


@pytest.mark.parametrize(
    ("case", "bare"),
    [
        (("", None, []), False),
        (("confinement: none\n", None, []), True),
        (("confinement: none\n", None, ["--confinement", "selinux"]), False),
        (("confinement: none\n", "selinux", []), False),
        (("", "none", []), True),
        (("", "nonsense", []), False),
        (("confinement: [\n", None, []), False),
    ],
)
def test_exec_knows_before_the_domain_is_entered_that_nothing_confines(
    home: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str | None, list[str]], *, bare: bool
) -> None:
    file, variable, words = case
    write(home / ".config" / "confined-qemu.yaml", file)
    monkeypatch.setattr(
        os, "environ", {"HOME": str(home)} | ({"CONFINED_QEMU_CONFINEMENT": variable} if variable else {})
    )
    assert keeps_context(["exec", *words, "--", "-M", "none"]) is bare
    assert not keeps_context(["run", str(home / "none.yaml")])


def test_every_error_is_one_of_ours(home: Path) -> None:
    write(home / "etc" / "confined-qemu.yaml", "confinement: maybe\n")
    with pytest.raises(ConfinedQemuError):
        settingsfiles.load({})
