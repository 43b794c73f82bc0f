"""`help`: the topics that come with the package, as text for a terminal, and the pager that shows them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import textwrap

import confined_qemu
from confined_qemu.cli import manpages
from confined_qemu.model.errors import UsageError, printable
from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


FOLDER: Final = os.path.join(os.path.dirname(os.path.abspath(confined_qemu.__file__)), "help")
_WIDTH: Final = 80


def topics() -> list[str]:
    """Return the names of all topics."""
    return sorted(name.removesuffix(".md") for name in os.listdir(FOLDER) if name.endswith(".md"))


def source(topic: str) -> str:
    """Return a topic as it is written.

    Raises:
        UsageError: there is none of that name.
    """
    known = topics()
    if topic not in known:
        raise UsageError(f"no help topic {printable(topic)!r}", hint=f"the topics are: {', '.join(known)}")
    with open(os.path.join(FOLDER, f"{topic}.md"), encoding="utf-8") as file:
        return file.read()


def listing() -> str:
    """Return the topics, one a line, and how to read one."""
    known = topics()
    width = max(map(len, known))
    lines = [f"{topic.ljust(width)}  {manpages.plain(manpages.about(source(topic)))}" for topic in known]
    return "\n".join([*lines, "", "Read one with: confined-qemu help TOPIC"])


def text(topic: str) -> str:
    """Return a topic as it is shown on a terminal."""
    parts = [_part(block) for block in manpages.blocks(source(topic))]
    # the one sign in the topics that is not ASCII: not every terminal can show it
    return "\n\n".join(parts).replace("…", "...")


def _part(block: manpages.Block) -> str:
    match block.kind:
        case "title" | "section":
            return manpages.plain(block.text).upper() if block.kind == "section" else manpages.plain(block.text)
        case "code":
            return textwrap.indent(block.text, "    ")
        case "item":
            return _filled(block.text, f"{block.mark} ", " " * (len(block.mark) + 1))
        case "table":
            table = manpages.columns(block.rows)
            return textwrap.indent("\n".join(table), "    ") if table is not None else _listed(block.rows)
    return _filled(block.text)


def _listed(rows: tuple[tuple[str, ...], ...]) -> str:
    found = []
    for tag, cells in manpages.entries(rows):
        found.append("\n".join([_filled(tag), *(_filled(cell, "    ", "    ") for cell in cells)]))
    return "\n\n".join(found)


def _filled(words: str, first: str = "", rest: str = "") -> str:
    """Return words in lines that fit a terminal; a command or a path in them is never broken."""
    return textwrap.fill(
        manpages.plain(words),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def paged(shown: str) -> bool:
    """Show a text through the user's pager; False: standard output is no terminal, or there is no pager."""
    if not os.isatty(1):
        return False
    wanted = shlex.split(os.environ.get("PAGER", ""))
    pagers = [wanted] if wanted else [["less"], ["more"]]
    command = next((words for words in pagers if shutil.which(words[0])), None)
    if command is None:
        return False
    # as git sets it: a text of one screen is shown and left there
    environment = {"LESS": "FX", **os.environ}
    # ^C is the pager's while it runs; a handler, unlike SIG_IGN, is not handed on to it
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        subprocess.run(command, input=f"{shown}\n", encoding="utf-8", env=environment, check=False)
    finally:
        signal.signal(signal.SIGINT, before)
    return True
