"""The policy module and the launch script as texts: they assemble, compile, and run nothing that others may write."""

from __future__ import annotations

import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest

from confined_qemu.host import interpreter, lsm
from confined_qemu.install import install, module, script
from confined_qemu.install.module import PolicyLevels
from confined_qemu.model import paths, policynames
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError
from confined_qemu.model.facts import SelinuxMode
from integration.guestlib import readme

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# ---- the module


def statements(text: str) -> list[Any]:
    """Return the s-expressions of a CIL text."""
    plain = re.sub(r";.*", "", text)
    stack: list[list[Any]] = [[]]
    for word in re.findall(r'"[^"]*"|[()]|[^\s()"]+', plain):
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            assert stack, "a bracket too many"
            stack[-1].append(done)
        else:
            stack[-1].append(word)
    assert len(stack) == 1, "a bracket is missing"
    return stack[0]


def walk(found: list[Any]) -> Iterator[list[Any]]:
    """Yield every statement, those inside `optional` and `booleanif` too."""
    for statement in found:
        if isinstance(statement, list) and statement:
            yield statement
            yield from walk(statement)


@pytest.mark.parametrize("levels", PolicyLevels)
def test_the_module_assembles(levels: PolicyLevels) -> None:
    text = module.text(levels)
    found = list(walk(statements(text)))
    assert ["typealias", f"confined_qemu_version_{module.VERSION}"] in found
    ranges = [words for words in found if words[0] == "rangetransition" and "process" in words]
    # on MLS the launcher keeps its caller's range, and so stays below the caller's clearance
    assert len(ranges) == (levels is PolicyLevels.MCS)
    assert (["typeattributeset", "privrangetrans", ["confined_qemu_t"]] in found) is (levels is PolicyLevels.MLS)


def test_the_launcher_relabels_images_only() -> None:
    """Issue of trust: what is not named here, a bug in the launcher cannot relabel."""
    may = set()
    for words in walk(statements(module.text(PolicyLevels.MCS))):
        match words:
            case ["allow", "confined_qemu_t", str(target), [str(kind), [*permissions]]] if "relabelfrom" in permissions:
                may.add((target, kind))
    assert may <= {
        ("confined_qemu_image", "file"),
        ("confined_qemu_image", "blk_file"),
        ("confined_qemu_image", "chr_file"),
        ("confined_qemu_image", "fifo_file"),
        ("confined_qemu_block_device", "blk_file"),
        ("confined_qemu_host_device", "chr_file"),
        ("svirt_image_t", "blk_file"),
        ("svirt_image_t", "chr_file"),
        ("virt_content_t", "blk_file"),
        ("confined_qemu_caller", "fifo_file"),
        ("svirt_image_t", "dir"),
        # the folder of a TPM's state, and what a VM made in a folder that it shares
        ("confined_qemu_image", "dir"),
        ("svirt_image_t", "lnk_file"),
        # the links in a tree that is labelled
        ("confined_qemu_image", "lnk_file"),
        ("svirt_image_t", "fifo_file"),
        ("svirt_image_t", "sock_file"),
        # a network's interface, which attaching brings into the launcher's domain
        ("domain", "tun_socket"),
    }
    assert ("confined_qemu_image", "file") in may


# ---- the launch script


@pytest.fixture
def binding(monkeypatch: pytest.MonkeyPatch) -> None:
    python = interpreter.Interpreter("/usr/bin/python3", "3.11", "/usr/lib/python3/dist-packages")
    monkeypatch.setattr(interpreter, "find", lambda: python)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a package's folder of which root owns every parent, as far as `stat` tells."""
    folder = tmp_path / "opt"
    (folder / "confined_qemu").mkdir(parents=True)
    monkeypatch.setattr(script, "package_folder", lambda: str(folder))
    return folder


@pytest.mark.usefixtures("binding")
def test_the_script_is_isolated(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_require_trusted", lambda _: None)
    lines = script.text(script.Script.LAUNCH).splitlines()
    assert lines[0] == "#!/usr/bin/python3 -IS"
    assert lines[3] == f"sys.path += ['/usr/lib/python3/dist-packages', {str(package)!r}]"
    assert lines[-2:] == ["from confined_qemu.cli.launchscript import main", "main()"]
    compile(script.text(script.Script.LAUNCH), "launch", "exec")


def test_without_a_binding_nothing_is_loaded_in_its_place(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "find", lambda: interpreter.Interpreter("/usr/bin/python3.12", "3.12", None))
    monkeypatch.setattr(script, "_require_trusted", lambda _: None)
    lines = script.text(script.Script.LAUNCH).splitlines()
    assert lines[0] == "#!/usr/bin/python3.12 -IS"
    assert lines[3:5] == [f"sys.path += [{str(package)!r}]", "sys.modules['selinux'] = None"]


@pytest.mark.usefixtures("binding")
@pytest.mark.parametrize(("mode", "owner"), [(0o775, 0), (0o757, 0), (0o755, 1000), (0o1775, 1000)])
@pytest.mark.parametrize("where", ["confined_qemu", "", "/"])
def test_a_folder_that_others_write_is_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int, where: str
) -> None:
    spoilt = where if where == "/" else str(package / where)
    fake_stat(monkeypatch, {spoilt: (mode, owner)})
    with pytest.raises(HostError, match="the launcher's domain cannot run code from it") as raised:
        script.text(script.Script.LAUNCH)
    assert raised.value.where == spoilt


@pytest.mark.usefixtures("binding", "package")
@pytest.mark.parametrize("tmp_mode", [0o755, 0o1777])
def test_roots_own_folder_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_mode: int) -> None:
    fake_stat(monkeypatch, {str(tmp_path): (tmp_mode, 0)})
    assert "launchscript import main" in script.text(script.Script.LAUNCH)


def fake_stat(monkeypatch: pytest.MonkeyPatch, said: dict[str, tuple[int, int]]) -> None:
    def answer(path: str, **_: object) -> os.stat_result:
        mode, owner = said.get(path, (0o755, 0))
        return os.stat_result((stat.S_IFDIR | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))

    monkeypatch.setattr(os, "stat", answer)


@pytest.mark.touches_host
def test_the_binding_is_the_distributions() -> None:
    found = interpreter.find().binding
    assert found is not None
    assert os.path.isdir(os.path.join(found, "selinux"))
    assert not found.startswith(sys.prefix) or sys.prefix == "/usr"


# ---- status


def _label_of(path: str) -> Context:
    kind = "confined_qemu_denials_exec_t" if path.endswith("denials") else policynames.SCRIPT
    return Context.parse(f"system_u:object_r:{kind}:s0")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the launch script of a host on which all is well."""
    path = tmp_path / "launch"
    path.write_text("")
    monkeypatch.setattr(paths, "LAUNCH_SCRIPT", str(path))
    other = tmp_path / "denials"
    other.write_text("")
    monkeypatch.setattr(paths, "DENIALS_SCRIPT", str(other))
    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.ENFORCING)
    known = module.version_type(module.VERSION)
    monkeypatch.setattr(lsm, "is_valid", lambda context: context.type == known)
    monkeypatch.setattr(lsm, "context_of", _label_of)
    return path


@pytest.mark.usefixtures("installed")
def test_all_is_well() -> None:
    found = install.status()
    assert (found.loaded, found.script, found.advice) == (module.VERSION, True, None)


@pytest.mark.parametrize(
    ("what", "advice"),
    [
        ("disabled", "nothing to install"),
        ("not loaded", "run: confined-qemu policy install"),
        ("another version", "run: confined-qemu policy install"),
        ("no script", "run: confined-qemu policy install"),
        ("label", "run: restorecon -F"),
        ("no label", "run: restorecon -F"),
    ],
)
def test_what_is_missing(installed: Path, monkeypatch: pytest.MonkeyPatch, what: str, advice: str) -> None:
    match what:
        case "disabled":
            monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
        case "not loaded":
            monkeypatch.setattr(lsm, "is_valid", lambda _: False)
        case "another version":
            other = module.version_type(module.VERSION + 1)
            monkeypatch.setattr(lsm, "is_valid", lambda context: context.type == other)
        case "no script":
            installed.unlink()
        case "label":
            monkeypatch.setattr(lsm, "context_of", lambda _: Context.parse("system_u:object_r:bin_t:s0"))
        case _:
            monkeypatch.setattr(lsm, "context_of", lambda _: None)
    assert advice in (install.status().advice or "")


def test_the_module_declares_every_name_that_the_launcher_uses() -> None:
    declared = set(
        re.findall(r"\((?:type|boolean) (\w+)", module.text(PolicyLevels.MCS) + module.text(PolicyLevels.MLS))
    )
    used = {name for key, name in vars(policynames).items() if key.isupper() and isinstance(name, str)}
    assert {name for name in used if name.startswith(f"{policynames.OURS}_")} <= declared


def test_each_boolean_of_ours_is_off_named_once_and_in_the_help() -> None:
    text = module.text(PolicyLevels.MCS) + module.text(PolicyLevels.MLS)
    declared = {(words[1], words[2]) for words in walk(statements(text)) if words[0] == "boolean"}
    table = readme.read("confined_qemu/help/security.md").partition("## Booleans")[2].partition("All are off")[0]
    named = re.findall(r"^\| `(confined_qemu_\w+)` \|", table, re.MULTILINE)
    assert {state for _, state in declared} == {"false"}
    assert sorted(str(name) for name, _ in declared) == sorted(named)
    assert set(named) <= {name for key, name in vars(policynames).items() if key.isupper() and isinstance(name, str)}
