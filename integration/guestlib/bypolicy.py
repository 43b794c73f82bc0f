"""The table of every test of the enforcing guest, by policy: made of the tests, and of who runs them where."""

import ast
import os
from collections.abc import Iterator

from integration.guestlib import layers, programs, testing

EACH, WHOLE, NONE = "each run", "whole suite", ""
COLUMNS = tuple(name for name, policy in layers.POLICIES.items() if policy.hypervisor is None)
"""SELinux's policies; Xen's suite is one of its own."""
HEAD = ("test", *COLUMNS, "what the policies' table says for it")
TABLE = "HERE"
"""The suite's name for what its table says of the policy that is enforced (integration/suite/policies.py)."""


def table() -> str:
    """Return the table as Markdown."""
    lines = [HEAD, tuple("---" for _ in HEAD), *rows()]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in lines)


def rows() -> Iterator[tuple[str, ...]]:
    """Yield a row for each test: its name, when it runs under each policy, and what it asks."""
    for folder in sorted({part.folder for part in testing.PARTS if part.policy in COLUMNS}):
        for file in sorted(os.listdir(os.path.join(programs.checkout(), folder))):
            if file.startswith("test_") and file.endswith(".py"):
                path = f"{folder}/{file}"
                where = tuple(_where(path, policy) for policy in COLUMNS)
                short = path.removeprefix(f"{testing.SUITE}/").replace("test_", "").removesuffix(".py")
                for name, asked in _tests(path):
                    yield (f"{short}: {name}", *where, ", ".join(f"`{key}`" for key in asked))


def _where(path: str, policy: str) -> str:
    """Return when a file runs under a policy."""
    if any(path in part.paths() for part in testing.PARTS if part.policy == policy):
        return EACH
    return WHOLE if any(path in part.paths() for part in testing.under(policy)) else NONE


def _tests(path: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each test of a file in words, and what it, or what it calls there, asks the table of policies."""
    with open(os.path.join(programs.checkout(), path), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for name, node in defined.items():
        if name.startswith("test_"):
            yield name.removeprefix("test_").replace("_", " "), sorted(_asked(node, defined, set()))


def _asked(node: ast.AST, defined: dict[str, ast.FunctionDef | ast.ClassDef], seen: set[str]) -> set[str]:
    found = set[str]()
    for child in ast.walk(node):
        if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and child.value.id == TABLE:
            found.add(child.attr)
        name = child.id if isinstance(child, ast.Name) else child.arg if isinstance(child, ast.arg) else None
        if name in defined and name not in seen:
            seen.add(name)
            found |= _asked(defined[name], defined, seen)
    return found
