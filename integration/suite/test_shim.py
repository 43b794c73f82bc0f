"""The drop-in in its place: questions answered as QEMU answers them, the system's emulator, settings from files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FOLDER = "/usr/local/lib/confined-shim"
NAME = "qemu-system-x86_64"
DIVERT = "/usr/bin/dpkg-divert"
DIVERTED = f"{harness.QEMU}.distrib"
PACKAGES = "/opt/confined-qemu/lib/python3.11/site-packages"


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


# ---- a question's own context


@pytest.fixture
def shown_context() -> Iterator[str]:
    """A folder for PATH with an emulator that prints a file: `-ae . FILE -h` is a question to QEMU and to grep."""
    folder = "/usr/local/lib/confined-real"
    os.makedirs(folder, exist_ok=True)
    shutil.copy("/usr/bin/grep", f"{folder}/{NAME}")
    harness.run("chcon", "-t", "qemu_exec_t", f"{folder}/{NAME}")
    yield folder
    shutil.rmtree(folder)


def test_a_question_is_confined_and_its_answer_comes_through_a_login_shells_pipe(
    shim: str, shown_context: str, audit: harness.AuditTrail
) -> None:
    def ask(path: str) -> subprocess.CompletedProcess[str]:
        return harness.run(shim, "-ae", ".", path, "-h", check=False, env={"PATH": f"{FOLDER}:{shown_context}"})

    own = harness.context(os.getpid())
    assert own.endswith("c0.c1023"), own  # what the pipe is labelled with
    said = ask("/proc/self/attr/current")
    assert (said.stdout.rstrip("\0\n"), said.stderr) == (f"system_u:system_r:{HERE.tcg}:s0", "")
    assert ask("/proc/self/comm").stdout == "qemu-system-x86\n"
    denied = ask("/etc/shadow")
    assert denied.returncode == 2
    assert audit.has("read", HERE.tcg, "shadow_t", "file")


PROBES = ("-display none -machine accel=kvm:tcg -qmp stdio", "-machine none,accel=kvm:hvf:tcg -display none -qmp stdio")
"""libguestfs' question by QMP, of 1.48 and of today: a QEMU that never runs a guest."""


@pytest.mark.parametrize("words", PROBES)
def test_a_question_by_qmp(shim: str, words: str) -> None:
    asked = "".join(f'{{"execute": "{name}"}}\n' for name in ("qmp_capabilities", "query-kvm", "query-version", "quit"))
    answers = []
    for program in (harness.QEMU, shim):
        done = harness.run(program, *words.split(), check=False, input=asked)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        answers.append((done.returncode, done.stderr, [line for line in lines if "event" not in line]))
    assert answers[0] == answers[1]
    assert answers[0][2][2]["return"]["present"] is True


# ---- the system's emulator


def _system() -> str:
    """Return what of the system `install-shim --system` changes; a file's number of links and times are in it."""
    return _system_files() + harness.run("dpkg-divert", "--list").stdout


def _system_files() -> str:
    return harness.run("sh", "-c", "ls -lZ --time-style=full-iso /usr/bin/*qemu* /usr/bin/kvm").stdout


@pytest.fixture
def undiverted() -> Iterator[str]:
    """The system as it is; it is so again afterwards."""
    before = _system()
    yield before
    done = harness.confined("install-shim", "--system", "--remove")
    assert done.returncode == 0, done.stderr
    assert _system() == before


ONE_STEP_AT_A_TIME = """
import os, signal, sys
sys.path += {path!r}
from confined_qemu.install import shim
left = 1
def counted(act, counts=lambda *_: True):
    def work(*words, **more):
        global left
        if counts(*words):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return act(*words, **more)
    return work
for name in ("link", "symlink", "rename", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
shim.policy.run = counted(shim.policy.run, lambda command, *_: {{"--add", "--remove"}} & set(command))
for work in (shim.install_system, shim.remove_system):
    runs, status = 0, -1
    while status:
        if (child := os.fork()) == 0:
            work()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        assert os.access({emulator!r}, os.X_OK)
        runs += 1
    print(work.__name__, runs, os.path.realpath({emulator!r}))
"""


def test_a_crash_after_any_step_leaves_an_emulator_and_the_next_run_goes_on(undiverted: str) -> None:
    packages = [path for path in sys.path if path.endswith("site-packages")] + [PACKAGES]
    program = ONE_STEP_AT_A_TIME.format(path=packages, emulator=harness.QEMU)
    done = harness.run("/usr/bin/python3", "-c", program, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"install_system 4 {os.path.realpath(harness.LAUNCH)}",
        f"remove_system 2 {harness.QEMU}",
    ]
    assert _system() == undiverted


@pytest.fixture
def no_divert(tmp_path: Path) -> Iterator[None]:
    """A system like Fedora's, without dpkg-divert, and without a link of ours afterwards."""
    nothing = tmp_path / "nothing"
    nothing.touch(0o644)
    harness.run("mount", "--bind", str(nothing), DIVERT)
    try:
        yield
        done = harness.confined("install-shim", "--system", "--remove")
        assert done.returncode == 0, done.stderr
    finally:
        harness.run("umount", DIVERT)


@pytest.mark.usefixtures("no_divert")
def test_without_dpkg_divert_a_link_wins_on_path(image: harness.Image) -> None:
    before, name = _system_files(), os.path.basename(harness.QEMU)
    link = f"/usr/local/bin/{name}"
    done = harness.confined("install-shim", "--system")
    assert done.returncode == 0, done.stderr
    assert "no dpkg-divert" in done.stderr
    assert os.path.realpath(link) == os.path.realpath(harness.LAUNCH)
    # as a program finds it that a person starts after a login
    login = ("env", "-i", "sh", "-lc", 'command -v "$0" >&2; exec "$0" "$@"', name)
    vm = harness.boot(*login, *harness.raw_arguments(image.path))
    pair = harness.level(harness.label(image.path))
    assert harness.context(harness.qemu_of(image.path)) == f"system_u:system_r:svirt_t:{pair}"
    vm.popen.terminate()
    assert vm.popen.communicate()[1].decode().splitlines()[0] == link
    assert _system_files() == before
    assert harness.confined("install-shim", "--system", "--remove").returncode == 0
    assert not os.path.lexists(link)


# ---- settings


USER = "shimmed"


@pytest.fixture
def settings() -> Iterator[Callable[[str, str], str]]:
    """Return a function that writes the settings of the system or of a user, labelled as the policy labels them."""
    harness.run("useradd", "--create-home", "--groups", "kvm", USER, check=False)
    made = set()

    def write(who: str, text: str) -> str:
        home = os.path.expanduser(f"~{who}") if who else ""
        path = f"{home}/.config/confined-qemu.yaml" if who else "/etc/confined-qemu.yaml"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        made.add(path)
        if who:
            harness.run("chown", "-R", f"{who}:", os.path.dirname(path))
            harness.run("restorecon", "-RF", os.path.dirname(path))
        return path

    yield write
    for path in made:
        os.unlink(path)


def _start(shim: str, user: str = "root", **variables: str) -> str:
    """Start a VM of no machine as `user` would, and return what it said; it ends by itself."""
    words = [f"{key}={value}" for key, value in variables.items()]
    asked = '{"execute": "qmp_capabilities"}{"execute": "quit"}'
    command = ["env", *words, shim, "-M", "none,accel=kvm", "-display", "none", "-qmp", "stdio"]
    if user != "root":
        # through pipes of the user's own shell: only their owner may bring them to the VM's level
        line = f"{{ echo '{asked}' | {' '.join(command)} 2>&1 >/dev/null; echo exit $?; }} | cat"
        return harness.run("runuser", "-l", user, "-c", line).stdout.rstrip("\n")
    done = harness.run(*command, check=False, input=asked)
    return done.stderr or f"exit {done.returncode}"


def test_settings_are_read_in_the_launchers_domain(shim: str, settings: Callable[[str, str], str]) -> None:
    none = "confined-qemu: confinement: none: QEMU would keep your context"
    assert _start(shim) == "exit 0"
    settings("root", "confinement: none\n")
    assert none in _start(shim)
    assert _start(shim, CONFINED_QEMU_CONFINEMENT="selinux") == "exit 0"
    path = settings("", "confinement: nothing\n")
    assert _start(shim).startswith(f"confined-qemu: {path}:1:14: confinement: expected one of ")
    assert _answer(shim, "-version")[0] == 0  # a question asks for no settings
    settings("", "confinement: none\n")
    settings(USER, "confinement: selinux\n")
    assert _start(shim, USER) == "exit 0"
    settings(USER, "extra_paths: [/nowhere/x]\nconfinement: selinux\n")
    assert "/nowhere/x" in _start(shim, USER)
    checked = harness.confined("check")
    assert f"settings: {path}, then /root/.config/confined-qemu.yaml\n" in checked.stdout


def test_settings_that_may_not_count_are_refused(
    shim: str, settings: Callable[[str, str], str], audit: harness.AuditTrail
) -> None:
    path = settings("", "confinement: auto\n")
    os.chmod(path, 0o666)
    assert (
        _start(shim)
        == f"confined-qemu: {path}: others may write these settings\nconfined-qemu:   run: chmod go-w {path}\n"
    )
    os.chmod(path, 0o644)
    assert _start(shim) == "exit 0"
    harness.run("chcon", "-t", "shadow_t", path)
    assert "these settings cannot be read: Permission denied\nconfined-qemu:   see: ls -lZ" in _start(shim)
    assert audit.has("read", "confined_qemu_t", "shadow_t", "file")


def test_exec_starts_an_unconfined_vm_where_settings_say_so(settings: Callable[[str, str], str]) -> None:
    settings("root", "confinement: none\n")
    words = ("-M", "none,accel=kvm", "-display", "none", "-qmp", "stdio")
    done = harness.confined(
        "exec", "--", *words, stdin=None, input='{"execute": "qmp_capabilities"}{"execute": "quit"}'
    )
    assert done.returncode == 0, done.stderr
    assert "nothing confines this VM" in done.stderr
