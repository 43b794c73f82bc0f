"""What the tests in Xen's dom0 are written with: domains, their labels in Flask, their images' in SELinux."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = "/usr/local/bin/confined-qemu"
GUEST = "/usr/local/share/domu"
TINY = ("wait", "poweroff")
IMAGES = "/var/lib/xen/images"
UNUSED = "xen_image_t:s0"
JOURNALS = "/var/lib/confined-qemu/0"
FLASK_TOOLS = "/usr/lib/xen-4.17/bin"
IMAGE_SIZE = 1 << 20
PATIENCE = 300
"""Seconds after which a thing that should happen is taken for one that never will; nothing is timed by it."""
_PAIR = re.compile(r"s0:c\d+,c\d+")
STARTED: list[Run] = []
"""What `nothing_left` ends after a test."""


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command with its output captured as text."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done


def confined(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `confined-qemu`, whatever its exit code."""
    return run(COMMAND, *arguments, check=False)


def refused(*arguments: str) -> str:
    """Run a command that must be refused, by the launcher, and return what it said."""
    done = confined(*arguments)
    assert done.returncode == 125, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def label(path: str) -> str:
    """Return a file's label without user and role."""
    return os.fsdecode(os.getxattr(path, "security.selinux")).rstrip("\0").split(":", 2)[2]


def level(text: str) -> str:
    """Return the pair level at the end of a context."""
    found = _PAIR.search(text)
    assert found is not None, text
    return found[0]


def until(what: str, condition: Any) -> Any:
    """Return the first true answer of `condition`; fail when it never comes."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.2)
    return answer


def domains() -> dict[str, str]:
    """Return the label of each domain, by its name, as `xl list -Z` shows them; dom0 is left out."""
    lines = run("xl", "list", "-Z").stdout.splitlines()[1:]
    found = {line.split()[0]: line.split()[-1] for line in lines}
    del found["Domain-0"]
    return found


@contextmanager
def switched(boolean: str) -> Iterator[None]:
    """Have a boolean of Flask's policy on inside the block."""
    run(f"{FLASK_TOOLS}/flask-set-bool", boolean, "1")
    try:
        yield
    finally:
        run(f"{FLASK_TOOLS}/flask-set-bool", boolean, "0")


def static(label: str) -> dict[str, Any]:
    """Return the key of a spec that gives its domain this label."""
    return {"seclabel": {"type": "static", "label": label}}


def journals() -> list[str]:
    """Return the journals that are left."""
    names = os.listdir(JOURNALS) if os.path.isdir(JOURNALS) else []
    return [name for name in names if name.endswith(".vm.json")]


def watchers() -> list[int]:
    """Return the watchers that wait."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/comm", encoding="ascii", errors="replace") as file:
                found += [int(name)] if file.read() == "confined-watch\n" else []
        except OSError:
            continue
    return found


@dataclass
class Spec:
    """A spec of a domain in a folder of its own; `task` is what the guest does (integration/guestlib/domu.py).

    TINY tasks have kernels of their own, the others are Linux's.
    """

    folder: str
    name: str
    task: str = "wait"
    keys: dict[str, Any] = field(default_factory=dict)
    disk: bool = True

    @property
    def image(self) -> str:
        """Its disk."""
        return os.path.join(self.folder, f"{self.name}.img")

    def write(self) -> str:
        """Write the spec, and its disk where there is none yet, and return the spec's path."""
        values: dict[str, Any] = {
            "hypervisor": "xen",
            "name": self.name,
        }
        if self.task in TINY:
            values |= {"kernel": f"{GUEST}/{self.task}", "memory": "16M"}
        else:
            values |= {"kernel": f"{GUEST}/vmlinux", "initrd": f"{GUEST}/initrd", "memory": "128M"}
            values |= {"cmdline": f"console=hvc0 do={self.task}"}
        if self.disk:
            values["disks"] = [{"file": self.image, "format": "raw"}]
            if not os.path.exists(self.image):
                with open(self.image, "wb") as file:
                    file.truncate(IMAGE_SIZE)
                run("restorecon", "-F", self.image)
                assert label(self.image) == UNUSED
        path = os.path.join(self.folder, f"{self.name}.yaml")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(values | self.keys, file)  # JSON is YAML
        return path

    def start(self) -> Run:
        """Start it and return once it runs; it must not end before."""
        started = self.launch()
        started.await_running()
        return started

    def launch(self) -> Run:
        """Start it and return at once."""
        path = self.write()
        process = subprocess.Popen(
            [COMMAND, "run", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started = Run(self, process)
        STARTED.append(started)
        return started


@dataclass
class Run:
    """A running `confined-qemu run`."""

    spec: Spec
    process: subprocess.Popen[str]
    said: str = ""

    def await_running(self) -> None:
        """Return once it says that the domain runs; it must not end before."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if "runs as domain" in line:
                return
        raise AssertionError(f"it ended with {self.process.wait()}: {self.said}")

    def end(self, number: int | None = None) -> int:
        """Send a signal, if any, wait for the end and return the exit status as Python gives it."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.process.wait(PATIENCE)


GRANT_CLASS = 10
GRANT_MAP_READ, GRANT_MAP_WRITE, GRANT_COPY = 1 << 0, 1 << 1, 1 << 5
"""Of class `grant` (xen/xsm/flask/policy/access_vectors, in their order there)."""


def may_grant(source: str, target: str) -> int:
    """Return what Flask lets a domain do with a grant of another's: permissions as bits (FLASK_ACCESS)."""
    library = ctypes.CDLL("libxenctrl.so.4.17", use_errno=True)
    library.xc_interface_open.restype = ctypes.c_void_p
    library.xc_interface_close.argtypes = [ctypes.c_void_p]
    library.xc_flask_access.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint16, ctypes.c_uint32,
        *[ctypes.POINTER(ctypes.c_uint32)] * 5,
    ]  # fmt: skip
    handle = library.xc_interface_open(None, None, 0)
    assert handle
    answers = [ctypes.c_uint32() for _ in range(5)]  # the first is what is allowed
    code = library.xc_flask_access(
        handle, source.encode(), target.encode(), GRANT_CLASS, 0xFFFFFFFF,
        *map(ctypes.byref, answers),
    )  # fmt: skip
    library.xc_interface_close(handle)
    assert code in (0, -1), code
    return answers[0].value
