"""A folder of images with labels, and a folder of journals; what is lost of a label is found by looking."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

VICTIM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "victim.py")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LABEL = "security.selinux"
BEFORE = "system_u:object_r:virt_image_t:s0"
GIVEN = "system_u:object_r:svirt_image_t:s0:c1,c2"
_NO_WORK = frozenset({"lock", "history"})


class Loss(Exception):
    """A label is not what it was, or something was left."""


@dataclass(frozen=True, slots=True)
class World:
    """Where the images and the journals are; both may be on file systems of their own."""

    images: str
    state: str
    count: int = 3
    checkout: str = ROOT
    """Where the package lies that is tried."""

    @property
    def journals(self) -> str:
        """Where the journals of this user are."""
        return os.path.join(self.state, "confined-qemu", str(os.geteuid()))

    def paths(self) -> list[str]:
        """Return the images."""
        return [os.path.join(self.images, f"{number}.img") for number in range(self.count)]

    def prepare(self) -> None:
        """Make all as it was before any VM."""
        for folder in (self.images, self.state):
            os.makedirs(folder, exist_ok=True)
        for path in self.paths():
            with open(path, "ab"):
                os.setxattr(path, LABEL, BEFORE.encode() + b"\0")

    def command(self, verb: str) -> list[str]:
        """Return what runs a victim."""
        return [sys.executable, "-IB", VICTIM, self.checkout, verb, self.images, str(self.count)]

    def launch(self, number: int) -> subprocess.Popen[bytes]:
        """Start a stand-in for a VM with one image."""
        command = [sys.executable, "-IB", VICTIM, self.checkout, "launch", self.images, str(number)]
        return subprocess.Popen(command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def environment(self) -> dict[str, str]:
        """Return what a victim is given."""
        return {"PATH": os.environ["PATH"], "XDG_STATE_HOME": self.state}

    def run(self, verb: str, *before: str) -> subprocess.CompletedProcess[str]:
        """Run a victim, behind the words of another program where there are any."""
        command = [*before, *self.command(verb)]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)

    def labels(self) -> list[str]:
        """Return the labels of the images."""
        return [os.getxattr(path, LABEL).rstrip(b"\0").decode() for path in self.paths()]

    def check(self, what: str) -> None:
        """Recover, and hold the world to what it was.

        Raises:
            Loss: it is not.
        """
        done = self.run("recover")
        left = [name for name in self._left() if name not in _NO_WORK and not name.endswith(".new")]
        if done.returncode != 0 or self.labels() != [BEFORE] * self.count or left:
            raise Loss(f"{what}: labels {self.labels()}, left {left}, recover: {done.returncode} {done.stderr.strip()}")

    def _left(self) -> list[str]:
        return sorted(os.listdir(self.journals)) if os.path.isdir(self.journals) else []
