"""The demo's scene, played here, is what the README shows, and the help of Fedora's policy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

from integration.suite import harness
from integration.suite.policies import HERE

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_VARYING = (
    (r":c\d+,c\d+", ":cA,cB"),  # pairs
    (r"\b\d+ (pts/\d+|\?) +\d\d:\d\d:\d\d", "PID TTY TIME"),
    (r"(/ # )?\[ +\d+\.\d+\]", "[TIME]"),  # the kernel's last line, with or without the shell's last prompt
    (r"\(Debian [^)]*\)", "(Debian)"),  # versions of Debian's packages
    (r"Linux \d\S*", "Linux VERSION"),
    (r"BusyBox v\S*", "BusyBox VERSION"),
    (r"\n\n+", "\n"),
)


def _same_each_time(text: str) -> str:
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text)
    return text.strip()


def test_the_demo_shows_what_the_readme_says(folder: str) -> None:
    for name in ("linux-0.2.img", "linux-0.2.yaml"):
        shutil.copy(os.path.join(TREE, "images", name), folder)
    subprocess.run(["restorecon", "-RF", folder], check=True)
    text, arguments = HERE.scene
    done = harness.run(sys.executable, "-m", "integration.guestlib.scene", folder, *arguments, cwd=TREE)
    with open(os.path.join(TREE, text), encoding="utf-8") as file:
        shown = file.read().split("<!-- transcript -->\n```\n")[1].split("```\n<!-- end -->")[0]
    assert _same_each_time(done.stdout) == _same_each_time(shown)
