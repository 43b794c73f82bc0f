"""Which control group a VM may have, and what of it is decided without a kernel; the suite has real ones."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from confined_qemu.host import cgroups, lsm, processes
from confined_qemu.labels import restore
from confined_qemu.launch import inputs
from confined_qemu.model import record
from confined_qemu.model.context import Context
from confined_qemu.model.errors import HostError
from confined_qemu.model.lean import replace
from confined_qemu.model.steps import OwnGroup
from confined_qemu.plan.planner import plan
from tests.worlds import World

if TYPE_CHECKING:
    from pathlib import Path

    from confined_qemu.model.plan import Plan

VM = "system_u:system_r:svirt_t:s0:c1,c2"
NAME = "/user.slice/x.scope"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand for what is mounted: this process's group, a folder with plain files."""
    monkeypatch.setattr(cgroups, "GROUPS", str(tmp_path))
    monkeypatch.setattr(cgroups, "_OWN", str(tmp_path / "own"))
    (tmp_path / "own").write_text(f"0::{NAME}\n")
    group = tmp_path / NAME[1:]
    group.mkdir(parents=True)
    (group / "cgroup.type").write_text("domain\n")
    (group / "cgroup.kill").write_text("")
    (group / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    return group


def test_it_lies_within_this_processs_own(tree: Path) -> None:
    found = [cgroups.possible() for _ in range(2)]
    for group in found:
        assert group is not None
        assert group.startswith(f"{tree}/confined-qemu-{os.getpid()}.")
    assert found[0] != found[1], "a pid comes again"


def test_a_namespaces_root_is_a_group_like_any_other(tree: Path) -> None:
    for name in ("cgroup.type", "cgroup.kill", "cgroup.procs"):
        (tree / name).rename(tree.parent.parent / name)
    (tree.parent.parent / "own").write_text("0::/\n")
    group = cgroups.possible()
    assert group is not None
    assert os.path.dirname(group) == str(tree.parent.parent)
    os.mkdir(group)
    cgroups.remove(group)
    assert not os.path.exists(group)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cgroup.type", "domain threaded\n"),
        ("cgroup.type", "threaded\n"),
        ("cgroup.type", "domain invalid\n"),
        ("cgroup.type", None),
        ("cgroup.kill", None),
        ("cgroup.procs", "1\n2\n"),
        ("cgroup.procs", None),
        ("../../own", "1:name=systemd:/\n0::/user.slice/x.scope\n"),
        ("../../own", "1:cpu:/user.slice/x.scope\n"),
        ("../../own", "0::/user.slice/gone.scope (deleted)\n"),
        ("../../own", ""),
        ("../../own", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_there_is_none_where_the_kernel_or_another_namespace_takes_none(
    tree: Path, file: str, text: str | None
) -> None:
    (tree / file).unlink()
    if text is not None:
        (tree / file).write_text(text)
    assert cgroups.possible() is None


def test_there_is_none_where_the_caller_may_make_none(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for closed in (str(tree), f"{tree}/cgroup.procs"):
        monkeypatch.setattr(os, "access", lambda path, _, closed=closed: path != closed)
        assert cgroups.possible() is None


def test_a_group_that_cannot_be_entered_is_not_left(tree: Path) -> None:
    """A folder of plain files takes no process, as a kernel that refuses."""
    group = str(tree / "confined-qemu-1")
    assert not cgroups.enter(f"{group}/no/parent")
    assert not cgroups.enter(group)
    assert not os.path.exists(group)


def test_who_cannot_be_seen_is_anothers_while_it_lives(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> bool:
        cgroups.end(str(tree), VM)
        return (tree / "cgroup.kill").read_text() == "1"

    known: dict[int, Context | None] = {1: Context.parse(VM), os.getpid(): None}
    monkeypatch.setattr(lsm, "process_context", known.get)
    assert not killed()
    known[os.getpid()] = replace(Context.parse(VM), type="svirt_tcg_t")
    assert not killed()
    known[os.getpid()] = Context.parse(VM)
    assert killed()


def test_who_has_ended_is_nobodys(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsm, "process_context", lambda _: None)
    (tree / "cgroup.procs").write_text("4194304\n")  # above the highest pid
    cgroups.end(str(tree), VM)
    assert (tree / "cgroup.kill").read_text() == "1"


def test_what_is_not_there_is_ended_empty_and_gone(tree: Path) -> None:
    cgroups.end(str(tree / "none"), VM)
    cgroups.await_end(str(tree / "none"), VM, pytest.fail)
    cgroups.remove(str(tree / "confined-qemu-7"))


@pytest.mark.touches_host
def test_who_runs_in_the_vms_context_is_waited_for_and_nobody_else(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tree / "threads/more"
    below.mkdir(parents=True)
    children = [subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) for _ in range(2)]
    mine, stranger = children
    (tree / "cgroup.procs").write_text(f"0\n{stranger.pid}\n")
    (below.parent / "cgroup.procs").write_text("")
    (below / "cgroup.procs").write_text(f"{mine.pid}\n")
    monkeypatch.setattr(lsm, "process_context", {mine.pid: Context.parse(VM)}.get)
    told = []

    def tell() -> None:
        told.append(mine.poll())
        mine.kill()

    cgroups.await_end(str(tree), VM, tell)
    assert told == [None]
    assert stranger.poll() is None
    for child in children:
        child.communicate()
    assert (mine.returncode, stranger.returncode) == (-signal.SIGKILL, 0)


def test_an_empty_group_is_not_waited_for_and_a_full_one_for_a_while(tree: Path) -> None:
    (tree / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    cgroups._await_empty(str(tree), 1e9)
    (tree / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    cgroups._await_empty(str(tree), 0)


@pytest.mark.parametrize(("pid", "where"), [("0", ""), ("1", "below"), ("1", "below/that")])
def test_another_pid_namespaces_and_those_of_groups_below_are_others(
    tree: Path, monkeypatch: pytest.MonkeyPatch, pid: str, where: str
) -> None:
    monkeypatch.setattr(lsm, "process_context", lambda _: None)
    (tree / "below/that").mkdir(parents=True)
    for group in (tree, tree / "below", tree / "below/that"):
        (group / "cgroup.procs").write_text("")
    cgroups.end(str(tree), VM)
    assert (tree / "cgroup.kill").read_text() == "1"
    (tree / "cgroup.kill").write_text("")
    (tree / where / "cgroup.procs").write_text(f"{pid}\n")
    cgroups.end(str(tree), VM)
    assert (tree / "cgroup.kill").read_text() == ""


def test_the_kernels_own_threads_are_known() -> None:
    assert processes.is_kernels(2)  # kthreadd
    assert not processes.is_kernels(os.getpid())
    assert not processes.is_kernels(1 << 22)


def test_who_may_not_look_at_them_asks_for_their_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "injected")

    monkeypatch.setattr("builtins.open", denied)
    assert processes.is_kernels(2)
    assert not processes.is_kernels(os.getpid())
    monkeypatch.setattr(os, "getpgid", denied)
    assert not processes.is_kernels(2)


def test_only_a_vms_group_is_removed_whatever_a_journal_says(tree: Path) -> None:
    kept = [tree / "other", tree.parent.parent.parent / "confined-qemu-3", tree / "confined-qemu-2"]
    for path in kept:
        path.mkdir()
    for words in ("other", "confined-qemu-2/../../../other", "../../../confined-qemu-3", "confined-qemu-2/../other"):
        cgroups.remove(f"{tree}/{words}")
    assert [path for path in kept if not path.is_dir()] == []
    (kept[2] / "threads/one").mkdir(parents=True)
    cgroups.remove(str(kept[2]))
    assert not kept[2].exists()


def test_a_group_that_is_not_empty_says_what_to_do(tree: Path) -> None:
    (tree / "confined-qemu-1").mkdir()
    (tree / "confined-qemu-1/stays").write_text("")  # rmdir(2) as of a group that is not empty
    with pytest.raises(HostError, match="control group cannot be removed") as raised:
        cgroups.remove(str(tree / "confined-qemu-1"))
    assert "systemd-cgls" in (raised.value.hint or "")
    assert raised.value.where == str(tree / "confined-qemu-1")


# ---- in a plan, and in the journal


def made(*arguments: str, group: str | None = "/g/x", **world: object) -> Plan:
    """Return the plan of a VM that is to have a group."""
    invocation = replace(inputs.from_arguments("qemu-system-x86_64", arguments), group=True)
    host = World(**world)  # type: ignore[arg-type]  # the fields of World
    return plan(invocation, replace(host.facts(invocation), group=group), host.rules())


def groups(found: Plan) -> list[OwnGroup]:
    return [step for step in found.steps if isinstance(step, OwnGroup)]


@pytest.mark.parametrize(("arguments", "kills"), [((), True), (("-daemonize",), False)])
def test_a_plan_names_it_and_its_end(arguments: tuple[str, ...], *, kills: bool) -> None:
    found = made(*arguments)
    assert groups(found) == [OwnGroup("/g/x", kills)]
    end = "killed and removed" if kills else "removed"
    assert f"group    /g/x: {end} at the end" in found.describe()


def test_a_plan_has_none_where_there_is_none_to_be_had_or_nothing_is_confined() -> None:
    assert groups(made(group=None)) == []
    assert groups(made("-version")) == []
    assert groups(made(selinux="disabled", pair=None)) == []


def test_the_journal_knows_it(tree: Path) -> None:
    step = OwnGroup(str(tree / "confined-qemu-1"), kills=True)
    (tree / "confined-qemu-1").mkdir()
    entry = record.Record("vm", "boot", 7, 7, "kvm", Context.parse(VM), (step,))
    assert record.decode(record.encode(entry)) == entry
    for bad in ({"path": 7}, {"kills": "yes"}, {"more": 1}):
        value = record.encode(entry)
        value["steps"][0].update(bad)
        with pytest.raises(ValueError, match=r"path|kills|more"):
            record.decode(value)
    assert restore._remove_groups((step,)) == []
    assert not (tree / "confined-qemu-1").exists()
