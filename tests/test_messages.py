"""All that the package says, found in its source: line and hint are apart, and what the help quotes is said."""

from __future__ import annotations

import ast
import os
import re
from typing import TYPE_CHECKING

import pytest

from confined_qemu.cli import help as topics
from confined_qemu.model import errors
from integration.guestlib import readme

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IN_THE_LINE = re.compile(r"; (?:run|see|use|stop|start it|say|choose|name it|give|copy|boot|leave|let|move)\b")
"""How a message goes on that says the hint in the line itself."""
ERRORS = {name for name in vars(errors) if isinstance(vars(errors)[name], type)} - {"HINT"}


def parts(node: ast.expr) -> Iterator[list[str]]:
    """Yield the texts of a literal that are written out, apart for what stands on lines of its own."""
    found: list[str] = []
    for value in node.values if isinstance(node, ast.JoinedStr) else [node]:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found.append(value.value)
        elif isinstance(value, ast.FormattedValue) and getattr(value.value, "id", "") == "HINT":
            yield found
            found = []
    yield found


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder, _, names in os.walk(os.path.join(ROOT, "confined_qemu")):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    yield os.path.relpath(path, ROOT), ast.parse(file.read())


def literals() -> Iterator[tuple[str, ast.Constant | ast.JoinedStr]]:
    """Yield each text of the package with its place, docstrings left out."""
    for path, tree in sources():
        plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if id(node) in plain or id(node) in inner:
                continue
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                yield f"{path}:{node.lineno}", node


def test_a_hint_is_not_glued_to_its_line() -> None:
    """A spec's losses and remarks are lists of facts, where a semicolon joins two facts."""
    glued = [
        place
        for place, node in literals()
        if not place.startswith("confined_qemu/read/libvirt/")
        for part in parts(node)
        if IN_THE_LINE.search("".join(part))
    ]
    assert glued == []


def test_what_failed_is_a_line_without_a_full_stop_and_a_hint_says_something() -> None:
    seen, bad = 0, []
    for path, tree in sources():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") not in ERRORS:
                continue
            seen += 1
            hints = [keyword.value for keyword in call.keywords if keyword.arg == "hint"]
            for text in call.args[:1] + hints:
                last = text.values[-1] if isinstance(text, ast.JoinedStr) else text
                end = last.value if isinstance(last, ast.Constant) else None
                if isinstance(end, str) and end.endswith((".", ";", " ")):
                    bad.append(f"{path}:{call.lineno}")
    assert seen > 150
    assert bad == []


# ---- what README and help quote

QUOTED = re.compile(r"^(?:confined-qemu: (?:warning: )?|(?:ok|warn|fail)  +[\w.-]+: |  denied )(.*)$", re.MULTILINE)
WORD = re.compile(r"(?<= )[a-z]{4,}(?=[ ,:;]|$)")


def written() -> tuple[set[str], set[str]]:
    """Return the pieces of text that the package has, those of several words and those of one."""
    many, one = set[str](), set[str]()
    for _, node in literals():
        for part in parts(node):
            for piece in part:
                (many if " " in piece.strip() else one).add(piece.strip())
                one.update(piece.split() if piece.count("\n") > 1 else ())
    return many, one


PIECES = written()


def unsaid(line: str) -> list[str]:
    """Return the words of a quoted line that no text of the package has at such a place."""
    many, one = PIECES
    covered = set[int]()
    for piece in many:
        start = line.find(piece)
        while start >= 0:
            covered.update(range(start, start + len(piece)))
            start = line.find(piece, start + 1)
    return [found[0] for found in WORD.finditer(line) if found.start() not in covered and found[0] not in one]


@pytest.mark.parametrize("name", ["README.md", *(f"{readme.HELP}/{topic}.md" for topic in topics.topics())])
def test_a_quoted_message_is_one_that_the_code_says(name: str) -> None:
    for quoted in QUOTED.finditer(readme.read(name)):
        assert unsaid(quoted[1]) == [], quoted[0]


def test_a_message_that_nobody_says_is_found() -> None:
    assert unsaid("/x (disks[0].file): SELinux took it away when the launcher started") != []
    assert sum(len(QUOTED.findall(readme.read(f"{readme.HELP}/{topic}.md"))) for topic in topics.topics()) > 10
