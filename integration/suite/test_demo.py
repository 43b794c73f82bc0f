"""The demo's scene, played here, is what the README shows, and the help of Fedora's policy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from integration.guestlib import scene
from integration.suite import harness
from integration.suite.policies import HERE

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_the_demo_shows_what_the_readme_says(folder: str) -> None:
    for name in ("linux-0.2.img", "linux-0.2.yaml"):
        shutil.copy(os.path.join(TREE, "images", name), folder)
    subprocess.run(["restorecon", "-RF", folder], check=True)
    text, arguments = HERE.scene
    done = harness.run(sys.executable, "-m", "integration.guestlib.scene", folder, *arguments, cwd=TREE)
    shown = scene.transcript(os.path.join(TREE, text))
    assert scene.same_each_time(done.stdout) == scene.same_each_time(shown)
