"""The shape of the project: who may import whom, what is pure, how long things are, and what a start-up loads."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = "confined_qemu"
LAYERS = ("model", "read", "plan", "denials", "host", "labels", "launch", "install", "cli")
"""The folders of the package. Each imports itself and what stands to its left."""
PURE = ("model", "read", "plan", "denials")
"""Values in, values out."""
HOST = frozenset(
    """
    _socket ctypes fcntl glob io multiprocessing os pathlib psutil random secrets select selectors selinux shutil
    signal socket subprocess sys tempfile threading time
    """.split()  # noqa: SIM905 - a table
)
"""What a pure module does not import: through these a host is asked or changed, or chance comes in."""
HOST_ALLOWED = {"model.errors": {"os"}}
"""errors: os.strerror only, the system's words for a number."""
SPEAKS = frozenset({"cli.command", "cli.output", "cli.launchverbs"})
"""The modules that print."""
LONGEST_MODULE, LONGEST_FUNCTION = 600, 60


def file_of(name: str) -> str:
    path = os.path.join(ROOT, PACKAGE, *name.split("."))
    return os.path.join(path, "__init__.py") if os.path.isdir(path) else f"{path}.py"


@cache
def tree_of(name: str) -> ast.Module:
    with open(file_of(name), encoding="utf-8") as file:
        return ast.parse(file.read())


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def imports_of(name: str, *, types: bool = False) -> tuple[str, ...]:
    """Return what a module imports, late imports included; those for annotations only with `types`."""
    return tuple(imports(tree_of(name), types=types))


def imports(node: ast.AST, *, types: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if is_for_types(child) and not types:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            module = child.module or ""
            for alias in child.names:
                inner = f"{module}.{alias.name}"
                yield inner if module.startswith(PACKAGE) and os.path.exists(file_of(own(inner))) else module
        else:
            yield from imports(child, types=types)


def known_to(name: str) -> set[str]:
    """Return the modules of ours that a module names, be it in annotations only."""
    return {own(found) for found in imports_of(name, types=True) if found.startswith(f"{PACKAGE}.")} - {name}


def own(name: str) -> str:
    return name.removeprefix(PACKAGE).removeprefix(".") or "__init__"


def _modules() -> list[str]:
    found = []
    for folder, _, names in os.walk(os.path.join(ROOT, PACKAGE)):
        inner = os.path.relpath(folder, os.path.join(ROOT, PACKAGE)).replace(os.sep, ".").strip(".")
        files = [name[:-3] for name in names if name.endswith(".py") and (inner or name.startswith("__"))]
        assert inner or len(files) == sum(name.endswith(".py") for name in names), "nothing lies loose at the root"
        found += [inner if name == "__init__" else f"{inner}.{name}" for name in files if inner]
    return sorted(found)


MODULES = _modules()


def every_node() -> Iterator[tuple[str, ast.AST]]:
    """Yield each node of each module's tree."""
    return ((name, node) for name in MODULES for node in ast.walk(tree_of(name)))


def layer(name: str) -> str:
    return name.partition(".")[0]


def test_imports_go_one_way() -> None:
    for name in MODULES:
        below = LAYERS[: LAYERS.index(layer(name)) + 1]
        for imported in imports_of(name):
            if imported.startswith(f"{PACKAGE}."):
                assert layer(own(imported)) in below, f"{name} imports {own(imported)}, which stands above it"


def test_no_circle_of_modules_not_even_of_types() -> None:
    left = {name: known_to(name) for name in MODULES}
    while free := {name for name, known in left.items() if not known & left.keys()}:
        left = {name: known for name, known in left.items() if name not in free}
    assert not left


def test_the_pure_layers_ask_no_host() -> None:
    for name in [name for name in MODULES if layer(name) in PURE]:
        found = {imported.partition(".")[0] for imported in imports_of(name)}
        assert found & HOST <= HOST_ALLOWED.get(name, set()), name
        called = {
            node.func.id
            for node in ast.walk(tree_of(name))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert called.isdisjoint({"open", "input", "exec", "eval", "__import__"}), name


def test_one_module_speaks_to_selinux() -> None:
    assert [name for name in MODULES if "selinux" in set(imports_of(name))] == ["host.lsm"]
    called = [name for name in MODULES if "libselinux" in {part.split(".")[-1] for part in imports_of(name)}]
    assert called == ["host.lsm"]  # the same by ctypes, behind the same door


def test_what_is_imported_is_declared_and_needs_no_compiler() -> None:
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)["project"]
    known = {"yaml": "pyyaml", "_prctl": "python-prctl"}
    tops = {name.partition(".")[0] for module in MODULES for name in imports_of(module)}
    foreign = tops - sys.stdlib_module_names - {PACKAGE, "hatchling"}  # the last builds the wheel
    optional = project["optional-dependencies"]["prctl"]
    assert {known.get(name, name) for name in foreign} == {*project["dependencies"], *optional}
    assert optional == ["python-prctl"]  # PyPI has its source only; libc does the same


def test_selinux_has_one_door() -> None:
    files = re.compile(
        r"/sys/fs/selinux|/etc/selinux/|/attr/(current|prev|exec|fscreate|sockcreate)?$|^security\.selinux$"
    )

    def opens(name: str) -> bool:
        texts = (node.value for node in ast.walk(tree_of(name)) if isinstance(node, ast.Constant))
        return any(isinstance(text, str) and " " not in text and files.search(text) for text in texts)

    # these are executed by path beside a VM and import nothing of ours: they read /proc/PID/attr/current
    beside = {f"launch.companions.{name}" for name in ("watch", "relay", "survivors")}
    assert {name for name in MODULES if opens(name)} == {"host.selinuxfs", *beside}


def test_one_module_names_our_types_and_booleans() -> None:
    ours = re.compile(r"(confined_qemu|virt_use)(_[a-z]+)+")

    def spelled(name: str) -> bool:
        texts = (node.value for node in ast.walk(tree_of(name)) if isinstance(node, ast.Constant))
        return any(isinstance(text, str) and ours.fullmatch(text) for text in texts)

    assert [name for name in MODULES if spelled(name)] == ["model.policynames"]


def test_no_two_modules_give_one_name_to_two_classes() -> None:
    names = [node.name for module in MODULES for node in tree_of(module).body if isinstance(node, ast.ClassDef)]
    assert sorted(names) == sorted(set(names))


def test_yaml_and_psutil_have_one_place_each() -> None:
    for module, place in (("yaml", "read.spec.yamlnodes"), ("psutil", "cli.ps")):
        assert [name for name in MODULES if module in set(imports_of(name))] == [place]


def test_only_the_command_line_prints() -> None:
    for name, node in every_node():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name}, line {node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr"} and name not in SPEAKS:
            assert not (isinstance(node.value, ast.Name) and node.value.id == "sys"), f"{name}, line {node.lineno}"


def test_nothing_is_too_long_to_be_read() -> None:
    for name in MODULES:
        with open(file_of(name), encoding="utf-8") as file:
            assert len(file.readlines()) <= LONGEST_MODULE, name
    for name, node in every_node():
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{name}.{node.name}"


def test_no_module_does_anything_when_it_is_imported() -> None:
    allowed = (
        ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If,
    )  # fmt: skip
    for name in MODULES:
        for node in tree_of(name).body:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert text or isinstance(node, allowed), f"{name}, line {node.lineno}"
            if isinstance(node, ast.If):
                test = ast.unparse(node.test)
                types = is_for_types(node) or test == "not TYPE_CHECKING"
                assert types or "__name__" in test, f"{name}, line {node.lineno}"


# ---- start-up: sets of modules, as they stand at the exec that ends each start-up

PYTHON = "/usr/bin/python3"
PACKAGES = "/usr/lib/python3/dist-packages"
_END = """
import os, sys
sys.path += {path!r}
def end(*_):
    os.write(1, " ".join(sys.modules).encode())
    os._exit(0)
os.execve = os.execv = end
sys.argv = {argv!r}
"""


def loaded(code: str, argv: list[str], cwd: Path) -> set[str]:
    """Return the modules that are there when `code`, as a program with these arguments, executes another."""
    return _all_loaded(code, argv, str(cwd)) - _at_first()


@cache
def _at_first() -> set[str]:
    return _all_loaded("end()", [], "/")


def _all_loaded(code: str, argv: list[str], cwd: str) -> set[str]:
    done = subprocess.run(
        [PYTHON, "-IS", "-c", (_END + code).format(path=[PACKAGES, ROOT], argv=argv)],
        env={"PATH": os.environ["PATH"], "CONFINED_QEMU_CONFINEMENT": "none"},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout, done.stderr
    return set(done.stdout.split())


def short(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


LAUNCH = "from confined_qemu.cli.launchscript import main; main()"
HEAVY = {"yaml", "psutil", "subprocess", "asyncio", "logging", "tempfile", "threading", "random", "secrets"}
HEAVY |= {"dataclasses", "inspect"}  # our own stand in confined_qemu.model.lean
LIGHT = {PACKAGE, "__future__", "_operator", "errno", "fcntl", "gc"}
"""All that a plain VM's drop-in loads: of these, what is not Python's own from the start is built into it."""
MOST = 55
"""Modules of a plain VM's drop-in where nothing confines it; it was 120."""


def _programs_in_text() -> list[tuple[str, str, str]]:
    """Return what programs import of ours that stand as text in the tests of guests: (file, module, name)."""
    found = []
    statement = re.compile(rf"from ({PACKAGE}[\w.]*) import ([\w, ]+)")
    for folder, _, names in os.walk(os.path.join(ROOT, "integration")):
        for path in [os.path.join(folder, name) for name in names if name.endswith(".py")]:
            with open(path, encoding="utf-8") as file:
                texts = [node.value for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.Constant)]
            for module, imported in statement.findall("\n".join(text for text in texts if isinstance(text, str))):
                wanted = [name.split(" as ")[0].strip() for name in imported.split(",")]
                found += [(os.path.relpath(path, ROOT), module, name) for name in wanted]
    return found


def test_programs_that_stand_as_text_import_what_there_is() -> None:
    programs = _programs_in_text()
    assert programs
    for path, module, name in programs:
        there = importlib.import_module(module)
        inner = f"{own(module)}.{name}".removeprefix("__init__.")
        assert hasattr(there, name) or os.path.exists(file_of(inner)), f"{path}: {module} has no {name}"


@pytest.mark.touches_host
def test_handing_over_to_the_launch_script_loads_next_to_nothing(tmp_path: Path) -> None:
    code = "import confined_qemu.model.paths as p; p.LAUNCH_SCRIPT = '/bin/true'\n"
    code += "from confined_qemu.__main__ import main; main()"
    found = loaded(code, ["confined-qemu", "run", "x.yaml"], tmp_path)
    assert {name for name in found if name.startswith(PACKAGE)} == {
        PACKAGE, *(f"{PACKAGE}.{name}" for name in ("__main__", "cli", "cli.unconfined", "model", "model.paths", "host",
        "host.inherited")),
    }  # fmt: skip
    assert short(found).isdisjoint({"argparse", "yaml", "dataclasses", "re", "json", "enum", "typing"})


@pytest.mark.touches_host
@pytest.mark.parametrize("words", ["-version", "--help", "-device help", "-M none -accel help", "-netdev help"])
def test_a_query_loads_next_to_nothing(tmp_path: Path, words: str) -> None:
    found = loaded(LAUNCH, ["qemu-system-x86_64", *words.split()], tmp_path)
    assert {name for name in found if name.startswith(PACKAGE)} == {PACKAGE} | {
        f"{PACKAGE}.{name}"
        for name in (
            "cli", "cli.launchscript", "model", "model.commas", "model.policynames", "read", "read.qemu",
            "read.qemu.queries", "host", "host.emulator", "host.inherited", "host.selinuxfs",
        )
    }  # fmt: skip
    assert {name for name in found if not name.startswith(PACKAGE)} <= {"__future__", "fcntl"}


@pytest.mark.touches_host
@pytest.mark.parametrize(
    "argv", [["qemu-system-x86_64", "-M", "none"], ["x", "exec", "--confinement", "none", "--", "-M", "none"]]
)
def test_a_raw_command_line_loads_no_yaml(tmp_path: Path, argv: list[str]) -> None:
    found = loaded(LAUNCH, argv, tmp_path)
    assert short(found).isdisjoint(HEAVY)
    if "exec" not in argv:
        assert short(found) <= LIGHT
        assert len(found) <= MOST
    assert not found & {f"{PACKAGE}.{name}" for name in ("read.spec", "install", "cli.check", "cli.ps", "cli.command")}


@pytest.mark.touches_host
def test_a_spec_loads_yaml_and_no_psutil(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: x\nconfinement: none\n")
    # `run` forks: what its child becomes is looked at
    code = "import confined_qemu.launch.run as r; r.supervise = lambda become, *_: become(-1)\n" + LAUNCH
    found = loaded(code, ["x", "run", "x.yaml"], tmp_path)
    assert "yaml" in found
    assert short(found).isdisjoint({*HEAVY, "argparse"} - {"yaml"})


@pytest.mark.touches_host
def test_yaml_is_loaded_without_compiling_its_patterns() -> None:
    code = "from confined_qemu.read.spec import yamlnodes\nyaml = yamlnodes._library()\n"
    code += (
        "pattern = yaml.reader.Reader.NON_PRINTABLE\nprint(type(pattern).__name__, pattern.search('a\\x01').start())\n"
    )
    code += "import re; print(type(re.compile('a')).__name__, yaml.load('2001-01-01', yaml.SafeLoader))"
    done = subprocess.run([PYTHON, "-ISc", f"import sys; sys.path += {[PACKAGES, ROOT]}\n{code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "_Pattern 1\nPattern 2001-01-01\n"


@pytest.mark.touches_host
def test_what_labels_a_vm_loads_no_more_than_what_does_not(tmp_path: Path) -> None:
    needed = "launch.labelled plan.labelling host.libselinux host.landlock launch.walls labels.restore"
    code = "".join(f"import {PACKAGE}.{name}\n" for name in needed.split()) + "end()"
    found = short(loaded(code, [], tmp_path))
    assert found.isdisjoint(
        HEAVY | {"selinux", "contextlib", "collections", "functools", "re", "enum", "json", "typing"}
    )


@pytest.mark.touches_host
def test_a_libvirt_domain_loads_expat_and_no_yaml(tmp_path: Path) -> None:
    head = "<domain type='qemu'><name>x</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    (tmp_path / "x.xml").write_text(head)
    code = "import confined_qemu.launch.run as r; r.supervise = lambda become, *_: become(-1)\n" + LAUNCH
    found = loaded(code, ["x", "run", "--confinement", "none", "x.xml"], tmp_path)
    assert "pyexpat" in found
    assert short(found).isdisjoint(HEAVY)


@pytest.mark.touches_host
@pytest.mark.parametrize(("form", "looked"), [("raw", False), ("qcow2", True)])
def test_a_raw_disk_costs_nothing_of_what_reads_headers(tmp_path: Path, form: str, *, looked: bool) -> None:
    code = (
        "from confined_qemu.launch import collect\n"
        "from confined_qemu.model.invocation import Invocation\n"
        "from confined_qemu.model.resource import Access, Resource, Role, Sharing\n"
        f"disk = Resource('/nowhere', Role.DISK, Access.READ, Sharing.CONTENT, 'disk', {form!r})\n"
        "collect.followed(Invocation('x', 'qemu', (), (disk,)), confined=False)\nend()"
    )
    found = loaded(code, ["x"], tmp_path)
    assert ({f"{PACKAGE}.read.headers", f"{PACKAGE}.host.probe"} <= found) is looked
    assert short(found).isdisjoint(HEAVY)


@pytest.mark.touches_host
@pytest.mark.parametrize(
    ("program", "allowed"),
    [
        ("watch", {"select", "_signal"}),
        ("tidy", {"select", "_signal", "fcntl", "stat"}),
        ("relay", {"selectors", "socket", "stat"}),
    ],
)
def test_what_stays_beside_a_vm_is_small(tmp_path: Path, program: str, allowed: set[str]) -> None:
    tree = tree_of(f"launch.companions.{program}")
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert top <= {"os", "sys", *allowed}
    assert not any(isinstance(node, ast.ImportFrom) for node in tree.body)
    path = file_of(f"launch.companions.{program}")
    found = loaded(f"exec(open({path!r}).read(), dict(__name__='imported')); end()", [program], tmp_path)
    stated = loaded(f"import {', '.join(top)}; end()", [program], tmp_path)
    assert found == stated


def test_what_companions_have_in_common_is_one_text() -> None:
    """They import nothing while a VM runs, so each has its own."""
    seen: dict[str, set[str]] = {}
    count = 0
    for program in ("watch", "tidy", "survivors"):
        for node in tree_of(f"launch.companions.{program}").body:
            if isinstance(node, ast.FunctionDef) and node.name != "main":
                seen.setdefault(node.name, set()).add(ast.unparse(node))
                count += 1
    assert {name for name, texts in seen.items() if len(texts) > 1} == set()
    assert count - len(seen) == len({"kill", "ended", "_context", "_tell", "_await_end"}) + 1  # kill is in all three
