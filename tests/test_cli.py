"""Every command line gets an answer: a result, or one line that says what and how to mend it. Never a traceback."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from confined_qemu import __main__
from confined_qemu.cli import arguments as argparsing
from confined_qemu.cli import command as cli
from confined_qemu.cli import launchscript, launchverbs, output, unconfined
from confined_qemu.host import lsm, packages
from confined_qemu.labels import journal, statefolders
from confined_qemu.launch import collect, heldvms, run, session
from confined_qemu.model import paths
from confined_qemu.model.distribution import Family
from confined_qemu.model.errors import ConfinedQemuError, LsmError, UsageError
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.invocation import Confinement
from tests import strategies
from tests.examples import examples
from tests.messages import is_hint, is_message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def words_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the verbs of a parser, or the steps of a verb."""
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


VERBS = tuple(words_of(cli._parser()))
STEPS = tuple(words_of(words_of(cli._parser())["policy"]))
SPEC = "name: x\ndisks:\n  - {file: a.img, format: raw}\n"


class Executed(SystemExit):
    """The place where a VM would have been started."""


@pytest.fixture(autouse=True)
def host(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of the test's own, on a host without SELinux, where nothing is executed."""
    folder = tmp_path_factory.mktemp("cli")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
    for name in ("STATE", "LAUNCH_SCRIPT", "DENIALS_SCRIPT", "RUNTIME", "MODULE", "RECOVER_UNIT", "RECOVER_WANTED"):
        monkeypatch.setattr(paths, name, str(folder / "host" / name))
    monkeypatch.setattr(session, "launch", executed)
    monkeypatch.setattr(run, "supervise", executed)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    (folder / "state").mkdir()
    monkeypatch.setattr(statefolders, "user_folder", lambda _: str(folder / "state"))
    monkeypatch.setattr(statefolders, "state_folder", lambda: str(folder / "host/STATE"))
    (folder / "policy/contexts").mkdir(parents=True)
    (folder / "policy/contexts/virtual_domain_context").write_text("system_u:system_r:svirt_t:s0\n")
    (folder / "policy/contexts/virtual_image_context").write_text(
        "system_u:object_r:svirt_image_t:s0\nsystem_u:object_r:virt_content_t:s0\n"
    )
    (folder / "x.yaml").write_text(SPEC)
    (folder / "a.img").write_text("")
    (folder / "qemu").write_text("")
    (folder / "qemu").chmod(0o755)
    return folder


def executed(*_: object) -> NoReturn:
    raise Executed(0)


def said(err: str) -> str:
    """Return a message as it was before each of its lines was said to be the program's."""
    return "\n".join(line.removeprefix("confined-qemu: ") for line in err.removesuffix("\n").split("\n"))


def answer(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of one command line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = __main__.serve(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
    out.getvalue().encode()
    err.getvalue().encode()
    return code, out.getvalue(), err.getvalue()


# ---- any command line

_words = (
    st.sampled_from((*VERBS, *STEPS, "--json", "--", "--help", "--version", "--mcs", "--name", "--timeout", "-h"))
    | st.sampled_from(("x.yaml", "missing.yaml", "policy", "--policy-root", "--emulator", "./qemu", "c1,c2", "c1", "0"))
    | st.sampled_from(("--confinement", "none", "auto", "selinux", "-hda", "a.img", "--no-load", "nan", "inf", "1e999"))
    | strategies.hostile
    | strategies.stray
)


@given(st.lists(_words, max_size=7))
@example(["settle", "--timeout", "nan"])
@example(["settle", "--timeout", "inf"])
@example(["settle", "--timeout", "1e300"])
@example(["settle", "--timeout", "-1"])
@example(["plan", "--policy-root", "policy", "x.yaml", "--", "-hda", "\udcff"])
@example(["plan", "--emulator", "\udcff", "--", "-hda", "a.img"])
@example(["plan", "--emulator", "", "--", "-hda", "a.img"])
@example(["exec", "--emulator", "/", "--", "-hda", "a.img"])
@example(["run", "."])
@example(["check", "."])
@examples(60)
def test_no_traceback_for_any_words(arguments: list[str]) -> None:
    code, _, err = answer(arguments)
    assert code in {0, 1, 125, 126, 127}
    for line in err.splitlines():
        assert line.startswith("confined-qemu: ")
        assert line.isprintable()
    if code > 1:
        assert err != "" or code == 125


@given(st.lists(strategies.hostile | strategies.stray | st.sampled_from(["-hda", "-drive", "-M", "help"]), max_size=6))
@examples(40)
def test_no_traceback_for_any_qemu_arguments(arguments: list[str]) -> None:
    code, out, _ = answer(["plan", "--json", "--policy-root", "policy", "--emulator", "./qemu", "--", *arguments])
    assert code in {0, 125}
    if out:
        assert json.loads(out)["schema"] == 1


# ---- usage


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in VERBS), *(("policy", step) for step in STEPS)])
def test_help(verb: tuple[str, ...]) -> None:
    code, out, err = answer([*verb, "--help"])
    assert (code, err) == (0, "")
    assert out.startswith("usage: confined-qemu")


def test_help_names_every_verb() -> None:
    _, out, _ = answer(["--help"])
    assert all(verb in out for verb in VERBS)


def test_the_light_start_knows_the_verbs_that_it_serves() -> None:
    """They are listed apart, as no parser is loaded to tell whether one is needed."""
    assert set(unconfined.LAUNCHED) == set(words_of(launchverbs._parser(())))
    assert set(unconfined.LAUNCHED) < set(VERBS)
    assert set(unconfined.STARTING) < set(unconfined.LAUNCHED)
    assert set(launchverbs.CONFINEMENTS) == set(Confinement)


@given(st.lists(st.sampled_from(["run", "x.yaml", "-", "--", "-S", "", "--name", "a=b", "exec"]), max_size=5))
@example(["run", "x.yaml", "run"])
@example(["run", "x.yaml"])
@example(["run", "x.yaml", "--"])
@example(["run", "x.yaml", "--", "-S", "--"])
def test_the_plain_run_is_read_as_argparse_reads_it(words: list[str]) -> None:
    try:
        plain = launchverbs.parsed(words) if words[:2] == ["run", "x.yaml"] else None
    except UsageError:
        plain = None
    if isinstance(plain, launchverbs.Plain):
        assert vars(plain) == vars(argparsing.parse(launchverbs._parser(words), words, ("run",)))
    else:
        assert words[:2] != ["run", "x.yaml"] or words[2:3] not in ([], ["--"])


def test_version() -> None:
    code, out, _ = answer(["--version"])
    assert code == 0
    assert out.startswith("confined-qemu ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such-verb",),
        ("run",),
        ("plan",),
        ("plan", "--no-such-option", "x.yaml"),
        ("ps", "more"),
        ("settle", "--timeout", "soon"),
        ("settle", "--timeout", "nan"),
        ("run", "--confinement", "chroot", "x.yaml"),
        ("policy",),
        ("policy", "adopt"),
        ("plan", "--mcs", "c1", "x.yaml"),
        ("plan", "--mcs", "c1,c1024", "x.yaml"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_125(arguments: tuple[str, ...]) -> None:
    code, out, err = answer(arguments)
    assert (code, out) == (125, "")
    assert is_message(said(err))


@pytest.mark.parametrize("value", ["bogus", "", "SELINUX"])
def test_a_wrong_variable_is_one_line_and_125(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("CONFINED_QEMU_CONFINEMENT", value)
    code = output.guarded(lambda: launchscript._serve("/usr/bin/qemu-system-x86_64", ["-M", "none"]))
    err = capsys.readouterr().err
    assert code == 125
    assert "CONFINED_QEMU_CONFINEMENT" in err
    assert is_message(said(err))


@pytest.mark.parametrize(
    ("family", "module", "said"),
    [
        (Family.DEBIAN, "psutil", "apt install python3-psutil\n"),
        (Family.DEBIAN, "yaml", "apt install python3-yaml\n"),
        (Family.FEDORA, "psutil", "dnf install python3-psutil\n"),
        (Family.FEDORA, "yaml", "dnf install python3-pyyaml\n"),
    ],
)
def test_a_module_that_is_not_installed_is_one_line_and_125(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], family: Family, module: str, said: str
) -> None:
    monkeypatch.setattr(packages, "family", lambda: family)

    def work() -> int:
        raise ModuleNotFoundError(name=module)

    assert output.guarded(work) == 125
    assert capsys.readouterr().err.endswith(f"run: {said}")


# ---- who answers


@pytest.mark.parametrize("name", ["qemu-system-x86_64", "qemu-system-i386", "qemu-kvm"])
def test_the_emulators_names_are_the_emulator(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    started: list[str] = []

    def launch(invocation: object, caller: collect.Caller, *_: object) -> NoReturn:
        started.append(f"{getattr(invocation, 'emulator', '')} as {caller.argv0}")
        raise Executed(0)

    monkeypatch.setattr(session, "launch", launch)
    for argv0 in (name, f"/opt/bin/{name}"):
        with pytest.raises(Executed):
            launchscript._serve(argv0, ["-M", "none"])
    assert started == [f"{name} as {name}", f"{name} as /opt/bin/{name}"]


def test_errors_have_their_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ConfinedQemuError("what", where="there", hint="mend it")

    assert output.guarded(fail) == 125
    assert capsys.readouterr().err == "confined-qemu: there: what\nconfined-qemu:   mend it\n"
    assert answer(["plan", "--emulator", "/missing", "--", "-M", "none"])[0] == 127
    assert answer(["plan", "--emulator", "./a.img", "--", "-M", "none"])[0] == 126
    assert answer(["plan", "--emulator", "no-such-qemu", "--", "-M", "none"])[0] == 127


def test_each_line_of_an_error_has_the_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("warning: ", "a\nb")
    assert capsys.readouterr().err == "confined-qemu: warning: a\nconfined-qemu: warning: b\n"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "x", "/gone"),
        PermissionError(13, "x"),
        OSError("no number"),
        MemoryError(),
        RecursionError("deep"),
    ],
)
def test_what_nobody_foresaw_is_one_line_too(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    def fail() -> int:
        raise error

    assert output.guarded(fail) == 125
    err = capsys.readouterr().err
    assert err.startswith("confined-qemu: ")
    assert err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """`confined-qemu schema | head -1`."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "kill", lambda *_: None)

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    with redirect_stderr(io.StringIO()) as err:
        assert cli.main(["schema"]) == 125
    assert "Traceback" not in err.getvalue()


def test_an_interrupt_ends_as_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))

    def fail() -> int:
        raise KeyboardInterrupt

    output.guarded(fail)
    assert sent == [(os.getpid(), signal.SIGINT)]


# ---- what the verbs answer


def test_a_plan_for_another_host(host: Path) -> None:
    arguments = ["plan", "--json", "--policy-root", "policy", "--mcs", "c7,c9", "x.yaml"]
    (host / "x.yaml").write_text(SPEC + "emulator: ./qemu\n")
    code, out, err = answer(arguments)
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert printed["process_context"] == "system_u:system_r:svirt_t:s0:c7,c9"
    assert [(r["path"], r["context"], r["restore"]) for r in printed["resources"]] == [
        (str(host / "a.img"), "system_u:object_r:svirt_image_t:s0:c7,c9", "system_u:object_r:virt_image_t:s0")
    ]


def test_a_plan_without_selinux_is_refused_and_printed(host: Path) -> None:
    (host / "x.yaml").write_text(SPEC + "emulator: ./qemu\n")
    code, out, err = answer(["plan", "x.yaml"])
    assert (code, err) == (125, "")
    assert "refused  SELinux is disabled on this host" in out


def test_a_specs_problems_are_a_line_each(host: Path) -> None:
    (host / "x.yaml").write_text("nam: x\nmemory: lots\n")
    code, out, err = answer(["plan", "x.yaml"])
    assert (code, out) == (125, "")
    lines = [line.split(": ")[1] for line in err.splitlines()]
    assert [line for line in lines if not is_hint(line)] == ["x.yaml:1:1"] * 2 + ["x.yaml:2:9"]
    assert len([line for line in lines if is_hint(line)]) == 2


def test_extra_arguments_follow_the_spec(host: Path) -> None:
    (host / "x.yaml").write_text(SPEC + "emulator: ./qemu\n")
    _, out, _ = answer(["plan", "--json", "--policy-root", "policy", "x.yaml", "--", "-hdb", "a,b"])
    assert json.loads(out)["argv"][-2:] == ["-hdb", "a,b"]


def test_check_says_what_fails() -> None:
    code, out, _ = answer(["check", "--json"])
    assert code == 1
    findings = {row["subject"]: row["verdict"] for row in json.loads(out)["findings"]}
    assert findings["selinux"] == "fail"


def test_nothing_is_left_to_do_without_selinux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", os.getuid)
    monkeypatch.setattr(heldvms, "live", tuple)
    assert answer(["ps"])[:2] == (0, "NAME  PID  ACCEL  MEMORY  WALL  CONTEXT  IMAGES\n")
    assert json.loads(answer(["ps", "--json"])[1]) == {"schema": 1, "vms": []}
    assert answer(["recover"]) == (0, "", "")
    assert json.loads(answer(["recover", "--json"])[1]) == {"schema": 1, "recovered": []}
    assert answer(["settle", "--timeout", "5"]) == (0, "", "")


def test_policy_status_without_selinux() -> None:
    code, out, _ = answer(["policy", "status"])
    assert code == 1
    assert "selinux: disabled" in out


def test_the_policy_is_roots() -> None:
    for step in ("install", "remove"):
        code, _, err = answer(["policy", step])
        assert code == 125
        assert f"sudo confined-qemu policy {step}" in err


def test_a_state_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> SelinuxMode:
        raise LsmError("the kernel has SELinux, and selinuxfs is not mounted", hint="mount it")

    monkeypatch.setattr(lsm, "mode", fail)
    for arguments in (["ps"], ["policy", "status"], ["plan", "--", "-M", "none"]):
        code, _, err = answer(arguments)
        assert code == 125
        assert "selinuxfs is not mounted\nconfined-qemu:   mount it" in err
    assert answer(["check"])[0] == 1


def test_a_journal_that_nobody_can_read_is_told(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", os.getuid)
    monkeypatch.setattr(statefolders, "readable_folders", lambda: [str(host / "state")])
    (host / "state" / f"1.1{journal.SUFFIX}").write_text("{")
    code, _, err = answer(["recover"])
    assert code == 125
    assert "is not a journal" in err


# ---- as a process


def program(*arguments: str, redirect: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a shell that redirects its output."""
    line = f"exec {shlex.join([sys.executable, '-m', 'confined_qemu', *arguments])} {redirect}"
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(
        ["/bin/sh", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.touches_host
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_nowhere_to_write(redirect: str) -> None:
    done = program("schema", redirect=redirect)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode in ({125} if "full" in redirect else {0, 125})


@pytest.mark.touches_host
def test_nowhere_to_complain() -> None:
    assert program("no-such-verb", redirect="2>&-").returncode == 125


@pytest.mark.touches_host
def test_the_reader_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "confined_qemu", "schema"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writing)
    assert done.stderr == b"confined-qemu: Broken pipe\n"
    assert done.returncode == 125


@pytest.mark.touches_host
def test_a_working_directory_that_is_gone(host: Path) -> None:
    gone = host / "gone"
    gone.mkdir()
    command = [
        "/bin/sh",
        "-c",
        f"rmdir {shlex.quote(str(gone))}; exec {sys.executable} -m confined_qemu plan -- -M none",
    ]
    done = subprocess.run(
        command, cwd=gone, env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, check=False
    )
    assert done.returncode in {125, 127}
    assert done.stderr.startswith("confined-qemu: ")
    assert done.stderr.count("\n") == 1
