"""The policy module compiles with the least policy that it can be compiled with, in a second; whole ones come after."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.install import module
from confined_qemu.install.module import PolicyLevels
from tests.test_policy import statements, walk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def names(expression: Any) -> Iterator[str]:
    if isinstance(expression, str):
        if expression not in {"and", "or", "not", "xor", "all", "self"}:
            yield expression
    else:
        for inner in expression:
            yield from names(inner)


def base(text: str) -> str:
    """Return the least policy in which the module can be compiled: what it names and does not declare itself."""
    declared: set[str] = set()
    types: set[str] = set()
    attributes: set[str] = set()
    roles = {"system_r", "object_r"}
    booleans: set[str] = set()
    classes: dict[str, set[str]] = {"process": {"transition"}, "file": {"read"}, "dir": {"read"}}
    for words in walk(statements(text)):
        match words:
            case ["type" | "typeattribute" | "typealias" | "boolean", str(name), *_]:
                declared.add(name)
            case ["allow" | "dontaudit" | "neverallow", source, target, [str(kind), [*permissions]]]:
                types.update((*names(source), *names(target)))
                classes.setdefault(kind, set()).update(permissions)
            case ["typeattributeset", str(name), expression]:
                attributes.add(name)
                types.update(names(expression))
            case ["typetransition", source, target, str(kind), *rest]:
                types.update((source, target, rest[-1]))
                classes.setdefault(kind, {"read"})
            case ["rangetransition", source, target, *_]:
                types.update((source, target))
            case ["roletype", str(role), str(name)]:
                roles.add(role)
                types.add(name)
            case ["booleanif", str(name), *_]:
                booleans.add(name)
    attributes |= {name for name in types if not name.endswith("_t")}
    return "\n".join(
        (
            *(f"(class {kind} ({' '.join(sorted(permissions))}))" for kind, permissions in classes.items()),
            f"(classorder ({' '.join(classes)}))",
            "(sid kernel) (sidorder (kernel)) (sidcontext kernel (system_u system_r base_t ((s0) (s0))))",
            "(sensitivity s0) (sensitivity s15) (sensitivityorder (s0 s15))",
            *(f"(category c{number})" for number in range(1024)),
            f"(categoryorder ({' '.join(f'c{number}' for number in range(1024))}))",
            "(sensitivitycategory s0 (range c0 c1023)) (sensitivitycategory s15 (range c0 c1023))",
            "(user system_u) (userrole system_u system_r) (userrole system_u object_r) (userlevel system_u (s0))",
            "(userrange system_u ((s0) (s15 (range c0 c1023)))) (type base_t) (roletype system_r base_t)",
            "(allow base_t base_t (process (transition)))",
            *(f"(role {role})" for role in sorted(roles)),
            *(f"(typeattribute {name})" for name in sorted(attributes - declared)),
            *(f"(type {name})" for name in sorted(types - attributes - declared - {"base_t"})),
            *(f"(boolean {name} false)" for name in sorted(booleans - declared)),
            "",
        )
    )


def compiled(folder: Path, text: str, least: str | None = None) -> subprocess.CompletedProcess[str]:
    (folder / "base.cil").write_text(base(text) if least is None else least)
    (folder / "module.cil").write_text(text)
    command = ["secilc", "-M", "1", "-o", "policy", "-f", "contexts", "base.cil", "module.cil"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("levels", PolicyLevels)
def test_the_module_compiles(tmp_path: Path, levels: PolicyLevels) -> None:
    done = compiled(tmp_path, module.text(levels))
    assert done.returncode == 0, done.stderr
    assert "confined_qemu_exec_t" in (tmp_path / "contexts").read_text()


@pytest.mark.parametrize(
    "wrong", ["(allow confined_qemu_t svirt_t (file (reed)))", "(typeattributeset x", "(alow a b (file (read)))"]
)
def test_a_mistake_in_it_would_be_seen(tmp_path: Path, wrong: str) -> None:
    good = module.text(PolicyLevels.MCS)
    assert compiled(tmp_path, good + wrong + "\n", base(good)).returncode != 0
