"""What holds for every test: it cannot touch the host, whatever the code under test does."""

from __future__ import annotations

import ctypes  # noqa: F401 - loads the C library when it is imported, which no sealed test may do
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from confined_qemu.host import capabilities, landlock, processcontrol
from tests.examples import LONG, NORMAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A loaded machine must not fail a property by its clock, and a run leaves no folder in the checkout.
_HYPOTHESIS = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("project", _HYPOTHESIS, max_examples=NORMAL)
settings.register_profile("long", _HYPOTHESIS, max_examples=LONG)  # pytest --hypothesis-profile=long
settings.load_profile("project")

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
_FORBIDDEN = frozenset(
    {"os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"}
    | {"os.setxattr", "os.removexattr", "ctypes.dlopen"}
)
"""Audit events (library/audit_events) of what no test does: the ones that need it say so with a marker."""
_CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((1, 3),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
}
"""Events that change a path: where the path is among their arguments, and where the folder it starts at."""
_SOCKETS = frozenset({"socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"})
_FOR_GOOD = (
    (landlock, "enforce"),
    (capabilities, "keep"),
    (capabilities, "bound"),
    (processcontrol, "set_no_new_privs"),
)
"""What takes rights from the process that runs the tests, with no way back."""
_PATIENCE = 120
"""Seconds; the slowest is mypy without its cache on a loaded machine."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class TouchesHostError(AssertionError):
    """A test reached for the host."""


@dataclass
class Seal:
    """The audit hook, which can be neither removed nor gone around: on or off, and where writing is allowed."""

    closed: bool = False
    places: tuple[str, ...] = ()

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise where a sealed test does what it may not."""
        if not self.closed:
            return
        if event in _FORBIDDEN:
            raise TouchesHostError(f"{event}{arguments!r}: mark the test touches_host if it must")
        if event == "open":
            if isinstance(arguments[2], int) and arguments[2] & _WRITES:
                self._require_inside(event, arguments[0], None)
        elif event in _CHANGES:
            for path, folder in _CHANGES[event]:
                self._require_inside(event, arguments[path], None if folder is None else arguments[folder])
        elif event in _SOCKETS and arguments[1] is not None:
            if not isinstance(arguments[1], str | bytes):
                raise TouchesHostError(f"{event}: {arguments[1]!r}")
            self._require_inside(event, arguments[1], None)

    def _require_inside(self, event: str, path: Any, folder: int | None) -> None:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        text = os.fsdecode(path)
        if folder not in (None, -1):
            text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
        text = os.path.abspath(text)
        if os.path.dirname(text) == "/proc/self/fd":
            text = os.readlink(text)
        elif text.startswith("/proc/self/fd/"):  # a socket's long path goes by way of its folder
            text = os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))
        inside = any(text.startswith(f"{place}/") for place in self.places)
        if not inside and text != os.devnull and "/__pycache__/" not in text:
            raise TouchesHostError(f"{event} outside the test's folder: {text!r}")


def _no_way_back(*arguments: Any) -> None:
    raise TouchesHostError(f"the tests' own process would be held for good: {arguments!r}")


_SEAL = Seal()
sys.addaudithook(_SEAL.hook)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be written anew."""
    parser.addoption("--update", action="store_true", help="write the golden files as the code now answers")


@contextmanager
def _patience() -> Iterator[None]:
    """Fail a test whose processes hang, rather than hang with them."""

    def hangs(*_: object) -> None:
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(_PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def python_signals() -> Iterator[None]:
    """What Python ignores it ignores after each test again: becoming QEMU gives these two back to the kernel."""
    yield
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def sealed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Keep a test from processes, labels, SELinux, the network, and files outside its own folder.

    `touches_host` lifts it for a test that must start something.
    """
    if request.node.get_closest_marker("touches_host") is not None:
        with _patience():
            yield
        return
    updated = (GOLDEN,) if request.config.getoption("--update") else ()
    _SEAL.places = (str(tmp_path_factory.getbasetemp()), *updated)
    monkeypatch.setattr(landlock, "abi", lambda: 0)  # the suite says the same on every kernel
    for module, name in _FOR_GOOD:
        monkeypatch.setattr(module, name, _no_way_back)  # they make no audit event
    before = sys.modules.get("selinux")
    sys.modules["selinux"] = None  # type: ignore[assignment] # libselinux's own writes make no audit event
    _SEAL.closed = True
    yield
    _SEAL.closed = False
    del sys.modules["selinux"]
    if before is not None:
        sys.modules["selinux"] = before


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return a function that compares a text with a file of tests/golden, or writes it with --update."""
    update = bool(request.config.getoption("--update"))

    def compare(name: str, text: str) -> None:
        path = os.path.join(GOLDEN, name)
        if update:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        with open(path, encoding="utf-8") as file:
            assert text == file.read(), f"{name}; pytest --update writes it anew"

    return compare
