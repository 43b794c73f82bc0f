"""The demo's scene: what a person types to boot a confined VM, with the real output, checked line by line.

Runs where SELinux enforces (the guest, or a host of that kind), or held by Landlock where it does not, with `screen`
beside it and nothing else:
`python3 -m integration.guestlib.scene --help`.
"""

import argparse
import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

from integration.guestlib import screen

SPEC = "linux-0.2.yaml"
IMAGE = "linux-0.2.img"
SOCKET = "linux-0.2.qmp"
UNUSED = r"\bvirt_image_t:s0 "
MARKER = "linux-0.2: ready"
PROMPT = re.compile(r"[#$] ?$")
QUESTION, ANSWER = "uname -sr", re.compile(r"^Linux \d", re.MULTILINE)
POLL = 0.5
"""Seconds between two looks at the processes."""
PATIENCE = 400.0
"""Seconds for a boot; a host without KVM takes a minute."""
POLICY = "/etc/selinux/config"
INTERRUPT = "\x03"
EMULATED = f"sed -i 's/^accel: auto .*/accel: tcg/' {SPEC}"
END_PATIENCE = 60.0
BEGIN, END = "<!-- transcript -->\n```\n", "```\n<!-- end -->"
"""Where the transcript stands in a text of ours."""
_VARYING = (
    (r":c\d+,c\d+", ":cA,cB"),  # pairs
    (r"\b\d+ (pts/\d+|\?) +\d\d:\d\d:\d\d", "PID TTY TIME"),
    (r"(/ # )?\[ +\d+\.\d+\]", "[TIME]"),  # the kernel's last line, with or without the shell's last prompt
    (r"\(Debian [^)]*\)", "(Debian)"),  # versions of Debian's packages
    (r"Linux \d\S*", "Linux VERSION"),
    (r"BusyBox v\S*", "BusyBox VERSION"),
    (r"\n\n+", "\n"),
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def transcript(path: str) -> str:
    """Return the transcript that a text shows."""
    with open(path, encoding="utf-8") as file:
        return file.read().partition(BEGIN)[2].partition(END)[0]


def same_each_time(text: str, *varying: tuple[str, str]) -> str:
    """Return a transcript without what differs from run to run; `varying` are patterns of this one and their names."""
    for pattern, name in (*varying, *_VARYING):
        text = re.sub(pattern, name, text)
    return text.strip()


class SceneError(Exception):
    """Something that was shown is not what it should be; one line."""


class Console(Protocol):
    """Where the VM's shell is: its serial line, or its screen."""

    def wait_for(self, found: Callable[[str], bool], what: str) -> None:
        """Wait until the text that the VM has printed satisfies `found`."""

    def type(self, line: str) -> None:
        """Type a line."""


class Vm:
    """`confined-qemu run` on a terminal of its own; its output is shown as whole lines, as they come."""

    def __init__(self, command: list[str]) -> None:
        self.text = ""
        self._shown = 0
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)

    def wait_for(self, found: Callable[[str], bool], what: str) -> None:
        """Read the serial line until its text satisfies `found`."""
        deadline = time.monotonic() + PATIENCE
        while not found(self.text):
            if not self._read(deadline - time.monotonic()):
                raise SceneError(f"{what} never came; the last output was: {self.text[-200:]!r}")

    def type(self, line: str) -> None:
        """Type a line; the guest's shell echoes it."""
        os.write(self._terminal, line.encode() + b"\n")

    def wait_for_process(self, kind: str) -> None:
        """Wait until the VM runs in its domain, ready for ^C, and go on reading what it prints."""
        deadline = time.monotonic() + PATIENCE
        while not _catches_interrupts(kind):
            if time.monotonic() > deadline:
                raise SceneError(f"no process in {kind} ever came; the last output was: {self.text[-200:]!r}")
            self._read(POLL)

    def interrupt(self) -> None:
        """Type ^C, which ends a VM."""
        os.write(self._terminal, INTERRUPT.encode())

    def end(self) -> int:
        """Show what is left to show and return the exit code, -n where signal n ended it."""
        deadline = time.monotonic() + END_PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        self._show(len(self.text))
        if time.monotonic() >= deadline:
            os.kill(self.pid, signal.SIGKILL)
            raise SceneError(f"the VM did not end within {END_PATIENCE:.0f} s")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        """End it, where something went wrong, and show what it said."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGTERM)
            while self._read(END_PATIENCE):
                pass
            self._show(len(self.text))
            os.waitpid(self.pid, 0)

    def _read(self, patience: float) -> bool:
        if not select.select([self._terminal], [], [], max(0.0, patience))[0]:
            return False
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # a terminal that nobody has open any more
            return False
        self.text = _ESCAPES.sub("", self.text + data.decode(errors="replace"))
        self._show(self.text.rfind("\n") + 1)
        return bool(data)

    def _show(self, end: int) -> None:
        if end > self._shown:
            show(self.text[self._shown : end].rstrip("\n"))
            self._shown = end


def _catches_interrupts(kind: str) -> bool:
    """Tell whether a process of this type is there that has a handler for ^C: QEMU, once it is set up."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/attr/current", encoding="ascii") as file:
                found = f":{kind}:" in file.read()
            if found:
                with open(f"/proc/{name}/status", encoding="utf-8") as file:
                    caught = next(line.split()[1] for line in file if line.startswith("SigCgt:"))
                return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)
    return False


def show(text: str) -> None:
    """Print a part of the transcript."""
    print(text, flush=True)


def shell(line: str, *, expect: str | None = None, times: int | None = None) -> str:
    """Run a line as a person types it, show both, and return its output.

    Args:
        line: the command; it must succeed.
        expect: a pattern that the output must have.
        times: how often it must have it; at least once where None.
    """
    show(f"# {line}")
    done = subprocess.run(
        ["sh", "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.stdout:
        show(done.stdout.rstrip("\n"))
    if done.returncode != 0:
        raise SceneError(f"{line}: exit code {done.returncode}")
    if expect is not None:
        found = len(re.findall(expect, done.stdout))
        if found == 0 or times not in (None, found):
            raise SceneError(f"{line}: expected to find {expect!r}, found it {found} times")
    return done.stdout


def domain(*, emulated: bool) -> str:
    """Return the type that the policy has for VMs, and for those that generate code where it tells them apart."""
    with open(POLICY, encoding="ascii") as file:
        (name,) = (line.partition("=")[2].strip() for line in file if line.startswith("SELINUXTYPE="))
    with open(f"/etc/selinux/{name}/contexts/virtual_domain_context", encoding="ascii") as file:
        contexts = file.read().split()
    return contexts[-1 if emulated else 0].split(":")[2]


def play(*, on_screen: bool, emulated: bool, held: bool, progress: Callable[[str], None]) -> None:
    """Show the whole scene in the current folder, which holds the image and the spec."""
    if emulated:
        shell(EMULATED)
    shell(f"confined-qemu check {SPEC}")
    if not held:
        shell(f"ls -Z {IMAGE}", expect=UNUSED)
    command = ["confined-qemu", "run", SPEC]
    if on_screen:
        command += ["--", "-qmp", f"unix:{SOCKET},server=on,wait=off"]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET)
    show("# " + " ".join(command))
    progress("booting; 20 to 60 seconds where everything is emulated")
    vm = Vm(command)
    try:
        if emulated:
            _look_at_start(vm)
        else:
            _boot(vm, on_screen=on_screen, held=held)
        code = vm.end()
    except BaseException:
        vm.kill()
        raise
    show(f"# echo $?\n{code}")
    if code != 0:
        raise SceneError(f"confined-qemu run: exit code {code}")
    if not held:
        shell(f"ls -Z {IMAGE}", expect=UNUSED)


def _boot(vm: Vm, *, on_screen: bool, held: bool) -> None:
    console: Console = screen.Screen(SOCKET, PATIENCE) if on_screen else vm
    console.wait_for(lambda text: MARKER in text or (on_screen and _prompts(text)), "the guest's marker")
    console.wait_for(_prompts, "the guest's prompt")
    _look_from_outside(None if held else domain(emulated=False))
    console.type(QUESTION)
    console.wait_for(lambda text: bool(ANSWER.search(text)) and _prompts(text), f"the answer to {QUESTION}")
    if on_screen:
        show("-- on its screen:\n" + console.text())  # type: ignore[attr-defined]
    console.type("poweroff")


def _look_at_start(vm: Vm) -> None:
    """Look as soon as the VM runs, and end it: in an emulated machine an emulator takes long to boot Linux."""
    kind = domain(emulated=True)
    vm.wait_for_process(kind)
    _look_from_outside(kind)
    vm.interrupt()


def _prompts(text: str) -> bool:
    return bool(PROMPT.search(text.rstrip("\n")))


def _look_from_outside(kind: str | None) -> None:
    """Look at the VM in its domain; without one, at the list that says what holds it."""
    show("-- meanwhile, in a second terminal:")
    if kind is None:
        shell("confined-qemu ps", expect=r"\blinux-0\.2\b.*\blandlock\b")
    else:
        _look_at_labels(kind)
    show("-- and back in the first one:")


def _look_at_labels(kind: str) -> None:
    process = shell(f"ps -eZ | grep {kind}", expect=rf"\b{kind}:s0:c\d+,c\d+ ", times=1)
    image = shell(f"ls -Z {IMAGE}", expect=r"\bsvirt_image_t:s0:c\d+,c\d+ ")
    pairs = [re.findall(r":s0:(c\d+,c\d+) ", text) for text in (process, image)]
    if pairs[0] != pairs[1]:
        raise SceneError(f"QEMU runs at {pairs[0]} and its image is at {pairs[1]}")


def main(argv: list[str]) -> int:
    """Play the scene in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help=f"holds {IMAGE} and {SPEC}")
    parser.add_argument("--screen", action="store_true", help="the guest's shell is on its screen, not on serial")
    parser.add_argument("--tcg", action="store_true", help="without KVM, in the domain for VMs that generate code")
    parser.add_argument("--landlock", action="store_true", help="without SELinux")
    parser.add_argument("--progress", action="store_true", help="say on standard error what takes long")
    chosen = parser.parse_args(argv)
    os.chdir(chosen.folder)

    def progress(text: str) -> None:
        if chosen.progress:
            print(f"({text})", file=sys.stderr, flush=True)

    try:
        play(on_screen=chosen.screen, emulated=chosen.tcg, held=chosen.landlock, progress=progress)
    except (SceneError, screen.ScreenError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
