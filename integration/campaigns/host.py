"""A folder with what a VM has and is given, where its journals are, and what stands for semanage(8); VMs of life.py."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from integration.campaigns.world import BEFORE, LABEL, ROOT, Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIFE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "life.py")
PLAIN = "system_u:object_r:var_t:s0"
_FOLDERS = ("files/tree/sub", "files/vms/sub", "bin", "state")
_FILES = ("image", "later", "tree/a", "tree/sub/b", "vms/a", "vms/sub/b")
_PATIENCE = 600.0
"""Seconds after which something is taken for hung; nothing is timed by it."""
_NO_WORK = frozenset({"lock", "history"})
_SEMANAGE = """#!/bin/sh
# in the place of semanage(8): `fcontext -a -t TYPE PATTERN`, `fcontext -d PATTERN`
set -eu
for pattern; do :; done
grep -vxF -e "$pattern" "$CAMPAIGN_CONTEXTS" >"$CAMPAIGN_CONTEXTS.new" || :
if [ "$2" = -a ]; then echo "$pattern" >>"$CAMPAIGN_CONTEXTS.new"; fi
mv "$CAMPAIGN_CONTEXTS.new" "$CAMPAIGN_CONTEXTS"
"""


class Host:
    """The place, and the VM that runs there now."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.files = self.at("files")
        self.journals = os.path.join(self.at("state"), "confined-qemu", str(os.geteuid()))
        self.vm: subprocess.Popen[bytes] | None = None

    def at(self, name: str) -> str:
        """Return the path of something here."""
        return os.path.join(self.place, name)

    def prepare(self) -> None:
        """Make all as it was before any VM."""
        for name in _FOLDERS:
            os.makedirs(self.at(name), exist_ok=True)
        for name in _FILES:
            with open(os.path.join(self.files, name), "ab"):
                pass
        for path in self._all():
            os.setxattr(path, LABEL, self._usual(path).encode() + b"\0")
        with open(self.at("bin/semanage"), "w", encoding="ascii") as file:
            file.write(_SEMANAGE)
        os.chmod(self.at("bin/semanage"), 0o755)
        with open(self.at("contexts"), "w", encoding="ascii"):
            pass

    # ---- what runs

    def begin(self, verb: str, *before: str, watcher: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start one of life.py's verbs behind the words of another program; its input is at its end."""
        return self._started(verb, before, watcher, subprocess.DEVNULL)

    def run(self, verb: str, *before: str, watcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run one to its end; `watcher` are words before the watcher's."""
        return self.end(self.begin(verb, *before, watcher=watcher))

    def must(self, verb: str) -> None:
        """Run one that has to do its work.

        Raises:
            Loss: it failed.
        """
        done = self.run(verb)
        if done.returncode != 0:
            raise Loss(f"{verb}: exit {done.returncode}: {done.stderr}")

    def end(self, process: subprocess.Popen[bytes]) -> subprocess.CompletedProcess[str]:
        """Wait for the end of one, and return what it said."""
        try:
            out, err = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Loss(f"{process.args!r} hangs") from None
        return subprocess.CompletedProcess(process.args, process.returncode, out.decode(), err.decode(errors="replace"))

    def start(self) -> None:
        """Have a VM run."""
        self.vm = self._started("launch", (), (), subprocess.PIPE)
        assert self.vm.stdin is not None
        assert self.vm.stdout is not None
        self.vm.stdin.write(b"?")
        self.vm.stdin.flush()
        if not select.select([self.vm.stdout], [], [], _PATIENCE)[0] or os.read(self.vm.stdout.fileno(), 1) != b"?":
            raise Loss("the VM does not answer")

    def kill_qemu(self) -> None:
        """Kill the VM."""
        vm, self.vm = self.vm, None
        if vm is not None:
            vm.kill()
            vm.communicate()

    def crash(self) -> None:
        """Kill the VM and all watchers at once."""
        for pid in self._beside():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill_qemu()

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Wait for something.

        Raises:
            Loss: it does not come.
        """
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Loss(f"never: {what}")
            select.select((), (), (), 0.005)

    def _started(self, verb: str, before: Sequence[str], watcher: Sequence[str], given: int) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-IB", LIFE, ROOT, verb, self.files]
        return subprocess.Popen(
            command, env=self._environment(watcher), stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def _environment(self, watcher: Sequence[str]) -> dict[str, str]:
        variables = {
            "PATH": f"{self.at('bin')}:{os.environ['PATH']}",
            "XDG_STATE_HOME": self.at("state"),
            "CAMPAIGN_CONTEXTS": self.at("contexts"),
        }
        if watcher:
            program = self.at("bin/watcher")
            with open(program, "w", encoding="utf-8") as file:
                file.write(f'#!/bin/sh\nexec {" ".join(watcher)} {sys.executable} "$@"\n')
            os.chmod(program, 0o755)
            variables["CAMPAIGN_WATCHER"] = program
        return variables

    def _beside(self) -> list[int]:
        """Return the processes beside a VM: their words name its journal."""
        found = []
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdecimal():
                    with open(f"/proc/{name}/cmdline", "rb") as file:
                        found += [int(name)] * (os.fsencode(self.journals) in file.read())
        return found

    # ---- what came of it

    def check(self, what: str) -> None:
        """End the VM, recover, and hold all to what it was.

        Raises:
            Loss: it is not.
        """
        self.kill_qemu()
        done = self.run("recover")
        self.until("watchers end", lambda: not self._beside())
        left = sorted(set(os.listdir(self.journals)) - _NO_WORK) if os.path.isdir(self.journals) else []
        wrong = self.wrong()
        if done.returncode != 0 or wrong or left:
            raise Loss(f"{what}: {wrong}, left {left}, recover: {done.returncode} {done.stderr.strip()}")

    def check_adopted(self, what: str) -> None:
        """Adopt once more, which is to complete it, and undo that."""
        self.must("adopt")
        wrong = {path: label for path, label in self._labels().items() if label != BEFORE}
        if wrong:
            raise Loss(f"{what}: {wrong}")
        self.must("undo")
        self.check(what)

    def check_given_back(self, what: str) -> None:
        """Undo once more, which may find nothing left to do."""
        done = self.run("undo")
        with open(self.at("contexts"), encoding="utf-8") as file:
            if file.read():
                raise Loss(f"{what}: the file contexts are there still: {done.stderr}")
        self.check(what)

    def wrong(self) -> dict[str, str]:
        """Return what has not the label that it had."""
        return {path: label for path, label in self._labels().items() if label != self._usual(path)}

    def _usual(self, path: str) -> str:
        return PLAIN if f"{path}/".startswith(f"{self.files}/vms/") else BEFORE

    def _labels(self) -> dict[str, str]:
        return {path: os.getxattr(path, LABEL).rstrip(b"\0").decode() for path in self._all()}

    def _all(self) -> list[str]:
        found = []
        for folder, _, names in os.walk(self.files):
            found += [folder, *(os.path.join(folder, name) for name in names)]
        return found
