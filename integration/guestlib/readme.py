"""Renews the blocks of README.md that quote other files: the example spec, the table of labels, the list of modules.

`python3 -m integration.guestlib.readme` writes them; a test compares. `integration/demo --transcript README.md` and
`integration/bench --readme` renew the two blocks that are measured.
"""

import ast
import os

from confined_qemu.model.labelrules import TABLE
from confined_qemu.model.resource import Sharing
from integration.guestlib import programs

README = os.path.join(programs.checkout(), "README.md")
END = "<!-- end -->"


def with_block(text: str, name: str, block: str) -> str:
    """Return the text with the lines between its marks `<!-- name -->` and `<!-- end -->` replaced."""
    before, mark, rest = text.partition(f"<!-- {name} -->\n")
    if not mark:
        raise ValueError(f"README.md has no block {name}")
    return f"{before}{mark}{block.rstrip()}\n{END}{rest.partition(END)[2]}"


def quoted(text: str) -> str:
    """Return README's text with the blocks that quote files renewed."""
    for name, block in (("spec", _spec()), ("labels", _labels()), ("modules", _modules())):
        text = with_block(text, name, block)
    return text


def _spec() -> str:
    with open(os.path.join(programs.checkout(), "configs", "linux-0.2.yaml"), encoding="utf-8") as file:
        return f"```yaml\n{file.read()}```"


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


def _modules() -> str:
    """Return a list of the package's folders and modules, each with the first sentence of its docstring."""
    top = os.path.join(programs.checkout(), "confined_qemu")
    lines = []
    for parent, folders, names in os.walk(top):
        folders.sort()
        if "__init__.py" not in names:
            continue  # what an interpreter left
        inner = parent != top
        if inner:
            lines.append(f"- `{os.path.relpath(parent, top)}/`: {_about(os.path.join(parent, '__init__.py'))}")
        modules = [name for name in sorted(names) if name.endswith(".py") and not (inner and name == "__init__.py")]
        indent = "  " if inner else ""
        lines += [f"{indent}- `{name}`: {_about(os.path.join(parent, name))}" for name in modules]
    return "\n".join(lines)


def _about(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return (ast.get_docstring(ast.parse(file.read())) or "").partition("\n")[0]


def renew(name: str | None = None, block: str = "") -> None:
    """Write README.md with its quoting blocks renewed, or with one block replaced."""
    with open(README, encoding="utf-8") as file:
        text = file.read()
    text = quoted(text) if name is None else with_block(text, name, block)
    with open(README, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    renew()
