"""Following chains with a program in qemu-img's place: it says what a hostile one would, and nothing of it lasts."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.host import lsm, packages, probe
from confined_qemu.model import paths
from confined_qemu.model.distribution import Family
from confined_qemu.model.errors import HostError, LsmError
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.invocation import Invocation
from confined_qemu.model.lean import replace
from confined_qemu.model.resource import PROBED, Access, Resource, Role, Sharing
from confined_qemu.read.headers import Layer
from tests.worlds import LAUNCHER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.touches_host
Program = "Callable[[str], None]"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a Python text in qemu-img's place; the image's path is its last argument."""
    path = tmp_path / "qemu-img"

    def write(text: str) -> None:
        path.write_text(f"#!{sys.executable} -IS\nimport os, sys\npath = sys.argv[-1]\n{text}")
        path.chmod(0o755)

    monkeypatch.setattr(paths, "QEMU_IMG", str(path))
    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
    return write


def disk(path: object, form: str = "qcow2") -> Resource:
    return Resource(str(path), Role.DISK, Access.READ_WRITE, Sharing.PRIVATE, "disks[0].file", form)


def follow(*resources: Resource) -> Invocation:
    return probe.follow(Invocation("x", "qemu", (), resources))


def image(path: Path) -> Path:
    path.write_text("")
    return path


CHAIN = """
import json
found = {"format": "qcow2", "backing-filename-format": "qcow2"}
number = int(os.path.basename(path))
if number:
    found["backing-filename"] = str(number - 1)
print(json.dumps(found))
"""


def test_a_chain_is_followed_layer_by_layer(program: Callable[[str], None], tmp_path: Path) -> None:
    program(CHAIN)
    for number in range(4):
        image(tmp_path / str(number))
    found = follow(disk(tmp_path / "3"), disk("/x", "raw"))
    assert found.problems == ()
    assert [(resource.path, resource.source) for resource in found.resources] == [
        (f"{tmp_path}/3", "disks[0].file"),
        (f"{tmp_path}/2", "disks[0].file, backing 1"),
        (f"{tmp_path}/1", "disks[0].file, backing 2"),
        (f"{tmp_path}/0", "disks[0].file, backing 3"),
        ("/x", "disks[0].file"),
    ]


def test_what_it_is_asked(program: Callable[[str], None], tmp_path: Path) -> None:
    program("print(repr(sys.argv[1:]), file=sys.stderr)\nsys.exit(1)")
    path = image(tmp_path / "a")
    for form, stated in (("qcow2", "'-f', 'qcow2', "), (PROBED, "")):
        (problem,) = follow(disk(path, form)).problems
        assert f"['info', {stated}'-U', '--output=json', '{path}']" in problem


def test_a_chain_is_deep_and_has_an_end(
    program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(CHAIN)
    monkeypatch.setattr(probe, "DEEPEST", 3)
    for number in range(7):
        image(tmp_path / str(number))
    assert follow(disk(tmp_path / "3")).problems == ()
    (problem,) = follow(disk(tmp_path / "6")).problems
    assert "disks[0].file, backing 4" in problem
    assert "more than 3 layers" in problem
    monkeypatch.setattr(probe, "MOST", 5)
    assert len(follow(disk(tmp_path / "2"), disk(tmp_path / "2")).problems) == 1


WHOLE_CHAIN = """
import json
def about(number):
    found = {"filename": os.path.join(os.path.dirname(path), str(number)), "format": FORMATS.get(number, "qcow2")}
    if number:
        found |= {"backing-filename": str(number - 1), "backing-filename-format": "qcow2"}
    return found
number = int(os.path.basename(path))
if "--backing-chain" not in sys.argv:
    print(json.dumps({**about(number), "format": "qcow2"}))
elif number == REFUSED:
    sys.exit("no")
else:
    print(json.dumps([about(each) for each in range(number, -1, -1)]))
"""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let qemu-img have a domain, and return what it was run on: `5`, or `5+` where it was asked for the chain."""
    monkeypatch.setattr(probe, "_domain", lambda: LAUNCHER)
    monkeypatch.setattr(lsm, "set_exec_context", lambda _context: None)
    monkeypatch.setattr(lsm, "process_context", lambda _pid: LAUNCHER)
    seen = []

    def run(command: list[str], *rest: Any) -> str:
        seen.append(os.path.basename(command[-1]) + "+" * ("--backing-chain" in command))
        return real(command, *rest)

    real = probe.run
    monkeypatch.setattr(probe, "run", run)
    return seen


def test_one_run_answers_for_a_chain_in_the_domain(
    program: Callable[[str], None], tmp_path: Path, runs: list[str]
) -> None:
    for number in range(6):
        image(tmp_path / str(number))
    for formats, refused, expected in (
        ("{}", None, "5 4+"),
        ("{}", 4, "5 4+ 4 3 2 1 0"),  # one layer is another owner's, or missing
        ("{2: 'vmdk'}", None, "5 4+ 2"),  # found by another format than its overlay states
    ):
        runs.clear()
        program(f"FORMATS, REFUSED = {formats}, {refused}\n{WHOLE_CHAIN}")
        found = follow(disk(tmp_path / "5"))
        assert found.problems == ()
        assert [os.path.basename(resource.path) for resource in found.resources] == list("543210")
        assert runs == expected.split()


def test_a_chains_answer_is_not_believed_of_another_disk(
    program: Callable[[str], None], tmp_path: Path, runs: list[str]
) -> None:
    program(f"FORMATS, REFUSED = {{}}, None\n{WHOLE_CHAIN}")
    for number in range(4):
        image(tmp_path / str(number))
    follow(disk(tmp_path / "3"), disk(tmp_path / "1"))
    assert runs == ["3", "2+", "1", "0+"]


@pytest.mark.parametrize("link", [False, True])
def test_a_chain_that_comes_back(program: Callable[[str], None], tmp_path: Path, *, link: bool) -> None:
    name = "b" if link else "a"
    program(f"""print('{{"format": "qcow2", "backing-filename": "{name}", "backing-filename-format": "qcow2"}}')""")
    path = image(tmp_path / "a")
    if link:
        os.link(path, tmp_path / "b")
    found = follow(disk(path))
    assert "comes back to itself" in found.problems[0]
    assert len(found.resources) == 2


def test_two_disks_may_share_a_base(program: Callable[[str], None], tmp_path: Path) -> None:
    program(CHAIN)
    for number in range(2):
        image(tmp_path / str(number))
    assert follow(disk(tmp_path / "1"), disk(tmp_path / "1")).problems == ()


def test_nothing_but_files_is_opened(program: Callable[[str], None], tmp_path: Path) -> None:
    program("raise SystemExit(open('/nowhere'))")
    os.mkfifo(tmp_path / "pipe")
    found = follow(disk(tmp_path / "pipe"), disk(tmp_path), disk("/dev/null"))
    assert len(found.problems) == 3
    assert all("neither a file nor a block device" in problem for problem in found.problems)
    assert follow(disk(tmp_path / "missing")).problems == ()


HOSTILE = {
    "import time\ntime.sleep(1000)": "did not finish reading its header within 0 s",
    "os.close(1); os.close(2)\nimport time\ntime.sleep(1000)": "killed by SIGKILL",
    "while True: os.write(1, b'x' * 65536)": "answer about its header is too long",
    "while True: os.write(2, b'x' * 65536)": "answer about its header is too long",
    "os.write(2, b'first\\nsecond'); sys.exit(1)": "cannot read its header: first",
    "sys.exit(1)": "it does not say why",
    "os.kill(os.getpid(), 11)": "killed by SIGSEGV",
    "try: bytearray(1 << 31)\nexcept MemoryError: sys.exit('no memory')": "cannot read its header: no memory",
    "try: os.write(os.open(path, os.O_WRONLY), b'x')\nexcept OSError as e: sys.exit(e.strerror)": "File too large",
    "print('x')": "cannot be read",
    "os.write(1, b'\\xff')": "cannot be read",
    "import json\nprint(json.dumps({'backing-filename': 'a\\0b', 'backing-filename-format': 'raw'}))": "not UTF-8",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_it_does(
    program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    program(text)
    if "0 s" in HOSTILE[text]:
        monkeypatch.setattr(probe, "PATIENCE", 0.0)
    before = set(os.listdir("/proc/self/fd"))
    (problem,) = follow(disk(image(tmp_path / "a"))).problems
    assert HOSTILE[text] in problem.splitlines()[-1]
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, 0)


def test_it_gets_nothing_of_the_callers(
    program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/x.so")
    program(
        "import json, resource, signal\n"
        "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status'))\n"
        "said = {'environment': dict(os.environ), 'descriptors': sorted(os.listdir('/proc/self/fd')),\n"
        "        'nnp': status['NoNewPrivs'].strip(), 'blocked': status['SigBlk'].strip(),\n"
        "        'core': resource.getrlimit(resource.RLIMIT_CORE), 'size': resource.getrlimit(resource.RLIMIT_FSIZE),\n"
        "        'input': sys.stdin.read(), 'session': os.getsid(0) == os.getpid()}\n"
        "sys.stderr.write(json.dumps(said)); sys.exit(1)"
    )
    inherited = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(inherited, True)  # noqa: FBT003 - positional by definition
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        (problem,) = follow(disk(image(tmp_path / "a"))).problems
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        os.close(inherited)
    said: dict[str, Any] = json.loads(problem[problem.index("{") :])
    assert said["environment"].keys() <= {"LC_ALL", "PATH", "LC_CTYPE"}
    assert said["descriptors"] == ["0", "1", "2", "3"]  # the last is the listing's own
    assert (said["nnp"], said["blocked"], said["input"], said["session"]) == ("1", "0" * 16, "", True)
    assert (said["core"], said["size"]) == ([0, 0], [0, 0])


def test_a_caller_that_ignores_its_children(program: Callable[[str], None], tmp_path: Path) -> None:
    program("print('{}')")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert follow(disk(image(tmp_path / "a"))).problems == ()
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_without_qemu_img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
    monkeypatch.setattr(paths, "QEMU_IMG", str(tmp_path / "none"))
    path = image(tmp_path / "a")
    monkeypatch.setattr(packages, "family", lambda: Family.FEDORA)
    assert "dnf install qemu-img" in follow(disk(path)).problems[0]
    monkeypatch.setattr(paths, "QEMU_IMG", str(path))
    assert "cannot be executed: Permission denied" in follow(disk(path)).problems[0]


def test_a_full_table_of_processes(
    program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("print('{}')")

    def fork() -> int:
        raise BlockingIOError(11, "")

    monkeypatch.setattr(os, "fork", fork)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match="ulimit"):
        follow(disk(image(tmp_path / "a")))
    assert set(os.listdir("/proc/self/fd")) == before


def test_it_ran_elsewhere(program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context is read back from the kernel: here there is none, so the answer is not taken."""
    program("print('{}')")
    monkeypatch.setattr(lsm, "set_exec_context", lambda _: None)
    monkeypatch.setattr(lsm, "process_context", lambda _: LAUNCHER)
    monkeypatch.setattr(probe, "_domain", lambda: replace(LAUNCHER, type=probe.DOMAIN))
    with pytest.raises(LsmError, match="instead of"):
        follow(disk(image(tmp_path / "a")))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, 0)


@pytest.mark.parametrize("confined", [True, False])
def test_a_block_device_that_cannot_be_looked_into_says_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confined: bool
) -> None:
    """A label is a way out where there is SELinux, and nowhere else."""

    def run(*_: object) -> str:
        raise probe._NoAnswerError("qemu-img cannot read its header: Permission denied")

    monkeypatch.setattr(probe, "run", run)
    walk = probe._HeaderWalk(str(tmp_path), replace(LAUNCHER, type=probe.DOMAIN) if confined else None, 1e12)
    for mode, hinted in ((stat.S_IFBLK, True), (stat.S_IFREG, False)):
        found = os.stat_result((mode, 1, 1, 1, 0, 0, 0, 0, 0, 0))
        (line,) = walk._names(Layer.top(disk("/dev/vdb")), "/dev/vdb", found).problems
        assert line.startswith("/dev/vdb (disks[0].file): qemu-img cannot read its header: Permission denied")
        assert ("say format=raw" in line) is hinted
        assert ("chcon -t virt_image_t /dev/vdb" in line) is (hinted and confined)
