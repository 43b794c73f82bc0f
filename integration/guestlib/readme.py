"""Renews the blocks of README.md and of the help topics that quote code or each other.

`python3 -m integration.guestlib.readme` writes them; a test compares. `integration/demo --transcript README.md` and
`integration/bench --readme` renew the two blocks that are measured.
"""

import os
from typing import Any

from confined_qemu.cli import help as topics
from confined_qemu.cli import manpages
from confined_qemu.model.labelrules import TABLE
from confined_qemu.model.resource import Sharing
from confined_qemu.read.spec.kinds import NO, YES, Table
from confined_qemu.read.spec.table import SPEC
from confined_qemu.read.spec.xentable import XEN
from integration.guestlib import bypolicy, programs, strikes, walls

README = "README.md"
HELP = "confined_qemu/help"
END = "<!-- end -->"


def read(name: str) -> str:
    """Return the text of a file of the checkout."""
    with open(os.path.join(programs.checkout(), name), encoding="utf-8") as file:
        return file.read()


def block(text: str, name: str) -> str:
    """Return the lines between the marks `<!-- name -->` and `<!-- end -->`."""
    _, mark, rest = text.partition(f"<!-- {name} -->\n")
    if not mark:
        raise ValueError(f"there is no block {name}")
    return rest.partition(END)[0].rstrip()


def with_block(text: str, name: str, lines: str) -> str:
    """Return the text with the lines between its marks replaced."""
    block(text, name)
    before, mark, rest = text.partition(f"<!-- {name} -->\n")
    return f"{before}{mark}{lines.rstrip()}\n{END}{rest.partition(END)[2]}"


def quoted() -> dict[str, str]:
    """Return the text of each file that quotes others, renewed."""
    readme = read(README)
    wanted = (
        (README, "spec", f"```yaml\n{read('configs/linux-0.2.yaml')}```"),
        (README, "topics", _topics(f"{HELP}/")),
        (f"{HELP}/command-line.md", "verbs", block(readme, "verbs")),
        (f"{HELP}/command-line.md", "topics", _topics("", but="command-line")),
        (f"{HELP}/spec.md", "keys", _keys()),
        (f"{HELP}/xen.md", "keys", _key_table(XEN)),
        (f"{HELP}/labels.md", "labels", _labels()),
        (f"{HELP}/tests.md", "tests", bypolicy.table()),
        (f"{HELP}/landlock.md", "walls", walls.table()),
        (f"{HELP}/security.md", "strikes", strikes.table(strikes.wanted())),
    )
    texts = {name: read(name) for name, _, _ in wanted}
    for name, mark, lines in wanted:
        texts[name] = with_block(texts[name], mark, lines)
    return texts


def _topics(folder: str, but: str | None = None) -> str:
    """Return the table of the help topics, but for the one where it stands; links start there."""
    shown = [topic for topic in topics.topics() if topic != but]
    rows = [f"| [{topic}]({folder}{topic}.md) | {manpages.about(topics.source(topic))} |" for topic in shown]
    return "\n".join(["| topic | what it explains |", "|---|---|", *rows])


def _keys() -> str:
    """Return the table of a spec's keys, made of the table that the loader reads."""
    return _key_table(SPEC)


def _key_table(table: Table) -> str:
    return "\n".join(["| key | meaning |", "|---|---|", *_rows(table.schema(), "")])


def _rows(table: dict[str, Any], above: str) -> list[str]:
    found = []
    for key, value in table["properties"].items():
        found.append(f"| `{above}{key}` | {value['description'].rstrip('.')}{_values(value)} |")
        items = value.get("items", {})
        for below in (value, items, *value.get("anyOf", ()), *items.get("anyOf", ())):
            if "properties" in below:
                found += _rows(below, f"{above}{key}{'[]' if value.get('type') == 'array' else ''}.")
    return found


def _values(value: dict[str, Any]) -> str:
    """Return which words a key takes, and which it has when it is left out."""
    default = value.get("default")
    if isinstance(default, bool):
        return f" (default: `{'yes' if default else 'no'}`)"
    words = ", ".join(f"`{word}`" for word in value.get("enum", ()) if str(word).lower() not in (*YES, *NO))
    shown = [f"one of {words}"] * bool(words) + [f"default: `{default}`"] * bool(default)
    return f" ({'; '.join(shown)})" if shown else ""


_LABELS = {
    Sharing.PRIVATE: "`svirt_image_t`, the VM's pair",
    Sharing.SHARED: "`svirt_image_t:s0`, no pair",
    Sharing.CONTENT: "`virt_content_t:s0`, or what it has if VMs may read it",
    Sharing.UNLABELLED: "as it is",
}


def _labels() -> str:
    """Return the table that the launcher decides by, for people."""
    lines = ["| file | label while the VM runs | afterwards | because |", "|---|---|---|---|"]
    for row in TABLE:
        why = f"{row.why} ({row.source})"
        lines.append(f"| {row.what} | {_LABELS[row.sharing]} | {row.end} | {why} |".replace("|  |", "| |"))
    return "\n".join(lines)


def write(name: str, text: str) -> None:
    """Write a file of the checkout."""
    with open(os.path.join(programs.checkout(), name), "w", encoding="utf-8") as file:
        file.write(text)


def renew(name: str, mark: str, lines: str) -> None:
    """Write a file with one block replaced: one that is measured."""
    write(name, with_block(read(name), mark, lines))


if __name__ == "__main__":
    for path, content in quoted().items():
        write(path, content)
