"""The help topics as man pages: reads the part of Markdown that `confined_qemu/help/` uses, writes man(7).

The build hook loads this file by its path, before anything is installed: so it imports nothing of ours.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

PAGES: Final = {"command-line": ("confined-qemu", 1), "spec": ("confined-qemu.yaml", 5)}
"""Topics whose page has a name and a section of its own; every other one is confined-qemu-TOPIC(7)."""
_NARROW: Final = 76
"""A table that fits into so many columns is shown as a table, a wider one as a list of entries."""
_ITEM: Final = re.compile(r"(-|\d+\.) ")
_INLINE: Final = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|!?\[([^]]*)\]\(([^)]*)\)")
_CELLS: Final = re.compile(r"(?<!\\)\|")


class Block(NamedTuple):
    """A part of a topic. `kind`: title, section, subsection, text, item, code or table."""

    kind: str
    text: str = ""
    """The words of it; for code its lines."""
    mark: str = ""
    """What an item starts with: a dash or a number."""
    rows: tuple[tuple[str, ...], ...] = ()
    """The cells of a table, its header first."""


def blocks(source: str) -> list[Block]:
    """Take a topic's Markdown apart. HTML comments, which mark what is generated, are left out."""
    found: list[Block] = []
    lines = source.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            end = lines.index("```", at + 1)
            found.append(Block("code", "\n".join(lines[at + 1 : end])))
            at = end + 1
        elif line.startswith("|"):
            end = _end(lines, at, lambda text: text.startswith("|"))
            found.append(_table(lines[at:end]))
            at = end
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            found.append(Block(("title", "section", "subsection")[level - 1], line[level:].strip()))
            at += 1
        elif not line.strip() or line.startswith("<!--"):
            at += 1
        else:
            end = _end(lines, at + 1, _continues)
            found.append(_words(lines[at:end]))
            at = end
    return found


def _end(lines: list[str], at: int, belongs: Callable[[str], bool]) -> int:
    """Return where the lines end that belong to what started before `at`."""
    while at < len(lines) and belongs(lines[at]):
        at += 1
    return at


def _continues(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("```", "|", "#", "<!--")) and not _ITEM.match(line)


def _words(lines: list[str]) -> Block:
    text = " ".join(line.strip() for line in lines)
    item = _ITEM.match(text)
    return Block("item", text[item.end() :], item[1]) if item else Block("text", text)


def _table(lines: list[str]) -> Block:
    rows = [tuple(cell.strip().replace("\\|", "|") for cell in _CELLS.split(line)[1:-1]) for line in lines]
    return Block("table", rows=(rows[0], *rows[2:]))  # the second row is the rule below the header


def plain(text: str, page: str = "confined-qemu help {}") -> str:
    """Return a text without its Markdown; `page` says what a link to another topic becomes."""

    def shown(found: re.Match[str]) -> str:
        target = found[5] or ""
        if target.endswith(".md"):
            return page.format(target.removesuffix(".md"))
        return found[1] or found[2] or found[3] or found[4]

    return _INLINE.sub(shown, text)


def columns(rows: tuple[tuple[str, ...], ...]) -> list[str] | None:
    """Return a table as lines with aligned columns, or None: it is too wide for that."""
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    if sum(widths) + 2 * (len(widths) - 1) > _NARROW:
        return None
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def entries(rows: tuple[tuple[str, ...], ...]) -> list[tuple[str, list[str]]]:
    """Return a table as a list: for each row its first cell, and the others each behind its column's name."""
    header, *body = rows
    named = len(header) > 2  # noqa: PLR2004 - a column beside the first needs no name
    return [
        (
            row[0],
            [
                f"{name}: {cell}" if named and name else cell
                for name, cell in zip(header[1:], row[1:], strict=True)
                if cell
            ],
        )
        for row in body
    ]


def name_of(topic: str) -> tuple[str, int]:
    """Return the name and the section of a topic's page."""
    return PAGES.get(topic, (f"confined-qemu-{topic}", 7))


def about(source: str) -> str:
    """Return a topic's own line: what stands in its title behind the topic's name."""
    return source.partition("\n")[0].partition(": ")[2]


def page(topic: str, source: str, date: str) -> str:
    """Return the man page of a topic."""
    name, section = name_of(topic)
    lines = [
        f'.TH "{name.upper()}" {section} "{date}" "confined-qemu" "confined-qemu"',
        ".SH NAME",
        rf"{_literal(name)} \- {_prose(about(source))}",
    ]
    found = blocks(source)[1:]
    if not found or found[0].kind != "section":
        lines.append(".SH DESCRIPTION")
    fresh = True  # nothing has been said below this heading: a paragraph macro there says nothing
    for block in found:
        lines += _written(block, fresh=fresh)
        fresh = block.kind.endswith("section")
    return "\n".join(lines) + "\n"


def _written(block: Block, *, fresh: bool) -> list[str]:
    """Return the lines of one part of a page."""
    gap = [] if fresh else [".PP"]
    match block.kind:
        case "section":
            return [f'.SH "{_prose(block.text.upper())}"']
        case "subsection":
            return [f'.SS "{_prose(block.text)}"']
        case "code":
            return [*gap, *_verbatim(block.text.split("\n"))]
        case "item":
            mark = r"\(bu" if block.mark == "-" else block.mark
            return [f'.IP "{mark}" 4', _line(_prose(block.text))]
        case "table":
            table = columns(block.rows)
            return [*gap, *_verbatim(table)] if table is not None else _listed(block.rows)
    return [*gap, _line(_prose(block.text))]


def _verbatim(lines: list[str]) -> list[str]:
    return [".RS 4", ".nf", *(_line(_literal(line)) for line in lines), ".fi", ".RE"]


def _listed(rows: tuple[tuple[str, ...], ...]) -> list[str]:
    found = []
    for tag, cells in entries(rows):
        found += [".TP", _line(_prose(tag) or r"\&")]
        for at, cell in enumerate(cells):
            found += [".br"] * bool(at) + [_line(_prose(cell))]
    return found


def _prose(text: str) -> str:
    """Return words with their Markdown as man(7) writes it."""
    found, at = "", 0
    for match in _INLINE.finditer(text):
        found += _escaped(text[at : match.start()])
        at = match.end()
        code, strong, weak, link, target = match.groups()
        if code or strong:
            found += rf"\fB{_literal(code) if code else _escaped(strong)}\fP"
        elif weak:
            found += rf"\fI{_escaped(weak)}\fP"
        elif target.endswith(".md"):
            other, section = name_of(target.removesuffix(".md"))
            found += rf"\fB{_literal(other)}\fP({section})"
        else:
            found += _escaped(link)
    return found + _escaped(text[at:])


def _escaped(text: str) -> str:
    """Return a text without anything that roff reads as its own, in ASCII."""
    text = text.replace("\\", r"\e").replace('"', r"\(dq")
    return "".join(sign if sign.isascii() else rf"\[u{ord(sign):04X}]" for sign in text)


_AS_TYPED: Final = {"-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
"""What roff would print as a typographic sign, which no shell takes."""


def _literal(text: str) -> str:
    return "".join(_AS_TYPED.get(sign, sign) for sign in _escaped(text))


def _line(text: str) -> str:
    """Return a line that is no request, whatever it starts with."""
    return rf"\&{text}" if text.startswith((".", "'")) else text


def write(help_folder: str, folder: str, date: str) -> dict[str, str]:
    """Write the pages of all topics; returns where each is to be installed, by the file that was written."""
    written = {}
    for file in sorted(os.listdir(help_folder)):
        topic, suffix = os.path.splitext(file)
        if suffix != ".md":
            continue
        name, section = name_of(topic)
        with open(os.path.join(help_folder, file), encoding="utf-8") as source:
            text = page(topic, source.read(), date)
        path = os.path.join(folder, f"{name}.{section}")
        with open(path, "w", encoding="ascii") as out:
            out.write(text)
        written[path] = f"share/man/man{section}/{name}.{section}"
    return written
