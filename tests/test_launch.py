"""A launch from the invocation to the exec, with a fault at each step: what was labelled is as it was afterwards."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from confined_qemu.cli import ps
from confined_qemu.host import capabilities, cgroups, landlock, lsm, processcontrol
from confined_qemu.labels import journal
from confined_qemu.launch import conflicts, inputs, spawn, walls
from confined_qemu.launch.companions import watch
from confined_qemu.model.context import Context
from confined_qemu.model.errors import ConfinedQemuError, EmulatorNotExecutable, HostError, LsmError, Refused
from confined_qemu.model.facts import SelinuxMode
from confined_qemu.model.lean import replace
from confined_qemu.model.mcs import Level
from tests.fakes import DEBIAN, VIRT_IMAGE, Crash
from tests.launches import Companion, Executed, Host
from tests.worlds import CALLER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.ruleset import Ruleset

    Ask = Callable[[Host], Invocation]

STATIC = "system_u:system_r:svirt_t:s0:c7,c8"
HOME = Context.parse("unconfined_u:object_r:user_home_t:s0")
TMP = Context.parse("system_u:object_r:tmp_t:s0")


class Watched(Host):
    """A host whose failed launchers are looked at before their process ends and before a watcher does anything."""

    is_looked_at = True

    def __init__(self, folder: str, patch: pytest.MonkeyPatch) -> None:
        """Make a host with two images, a TPM's folder, and a folder to share whose entries have three labels."""
        super().__init__(folder, patch)
        for name in ("disk.img", "cd.iso"):
            self.file(name)
        os.mkdir(self.at("tpm"), 0o700)
        os.makedirs(self.at("share/deep"))
        for name, label in (("share/mine", HOME), ("share/deep/its", TMP), ("share/deep/plain", VIRT_IMAGE)):
            self.labels.give(self.file(name), label)
        entries = (
            "disk.img",
            "cd.iso",
            "tpm",
            "share",
            "share/deep",
            "share/mine",
            "share/deep/its",
            "share/deep/plain",
        )
        self.originals = {self.at(name): self.labels.of(self.at(name)) for name in entries}

    def before_exit(self, error: BaseException) -> None:
        """Hold the launcher to its word: nothing was started, and what had been labelled is as it was."""
        if not self.is_looked_at:
            return
        if not isinstance(error, ConfinedQemuError) and any("set_exec" in call for call in self.labels.log[-1:]):
            return  # interrupted as it was about to become QEMU: its watcher, who watches by then, does it
        if self.walls and os.geteuid() == 0:
            return  # it has given up what that takes: the same
        self.undone()
        assert all(helper.ended for helper in self.helpers)
        assert not any(watcher.is_told() for watcher in self.watchers()), "the labels are not its business yet"

    def watchers(self) -> list[Companion]:
        """Return the last launch's watcher, if it lives."""
        return [companion for companion in self.companions if companion.name == "watch" and companion.kept]

    def undone(self) -> None:
        """Hold the host to what it was before."""
        assert self.left() == []
        assert {path: self.labels.of(path) for path in self.originals} == self.originals
        assert not os.path.lexists(self.at("qmp"))
        assert not os.path.lexists(self.at("pid"))
        assert not os.path.exists(self.at("runtime")) or os.listdir(self.at("runtime")) == []
        assert not os.path.lexists(self.at("log")) or self.labels.of(self.at("log")) == VIRT_IMAGE


def prepared(folder: Path, patch: pytest.MonkeyPatch) -> Watched:
    folder.mkdir(exist_ok=True)
    return Watched(str(folder), patch)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return prepared(tmp_path, monkeypatch)


# ---- what is launched


def raw(host: Host, confinement: str = "selinux") -> Invocation:
    """Return a command line with all that the launcher labels, makes, binds and relays."""
    return inputs.from_arguments(
        host.emulator,
        [
            *("-drive", f"file={host.at('disk.img')},format=raw,if=virtio"),
            *("-drive", f"file={host.at('cd.iso')},format=raw,media=cdrom,readonly=on"),
            *("-qmp", f"unix:{host.at('qmp')},server=on,wait=off"),
            *("-serial", f"file:{host.at('log')}", "-pidfile", host.at("pid")),
        ],
        confinement=confinement,
    )


def described(host: Host, more: str) -> Invocation:
    spec = host.at("vm.yaml")
    with open(spec, "w", encoding="utf-8") as file:
        file.write(
            f"name: vm\nemulator: {host.emulator}\ndisks:\n- file: {host.at('disk.img')}\n  format: raw\n{more}\n"
        )
    return inputs.from_spec(spec)


def static(host: Host) -> Invocation:
    """Return a VM whose label was chosen by hand: others may share its context, so it has a live file."""
    return described(host, f"seclabel:\n  type: static\n  label: {STATIC}\n  relabel: true")


def helped(host: Host) -> Invocation:
    """Return a VM with a helper."""
    return described(host, f"tpm:\n  state: {host.at('tpm')}")


def shared(host: Host) -> Invocation:
    """Return a VM whose two shares are labelled with all that is in them, one by QEMU and one by a helper."""
    os.makedirs(host.at("other"), exist_ok=True)
    return described(
        host,
        "memory: 64M\nshares:\n"
        f"- {{dir: {host.at('share')}, tag: a, driver: 9p, relabel: yes}}\n"
        f"- {{dir: {host.at('other')}, tag: b, driver: virtiofs, relabel: yes}}",
    )


def handed(host: Host) -> Invocation:
    """Return a VM that gets a pipe and two ends of sockets of a login shell's, at levels that no VM may use."""
    sockets = socket.socketpair()
    host.handed = [*os.pipe(), *(end.detach() for end in sockets)]
    for number in host.handed:
        host.labels.give(number, CALLER)
    return described(host, "")


KINDS = pytest.mark.parametrize("ask", [raw, static, helped, shared, handed])


# ---- a launch that succeeds


def test_it_becomes_qemu_with_its_labels(host: Watched) -> None:
    vm = host.start(raw(host))
    assert vm.context.type == "svirt_t"
    assert vm.arguments[0] == "qemu"
    assert vm.environment == {b"PATH": b"/nowhere", b"HOME": b"/x"}
    assert f"fd={vm.descriptors[0]}" in vm.arguments[6]
    assert host.labels.of(host.at("disk.img")) == Context.parse(
        str(vm.context).replace("system_r:svirt_t", "object_r:svirt_image_t")
    )
    assert host.labels.of(host.at("cd.iso")) == DEBIAN.content
    assert host.left() == [f"{vm.pid}.1.this-boot.vm.json"]
    assert not host.is_free(vm.context)
    assert [companion.name for companion in vm.companions] == ["watch", "relay"]
    assert vm.companions[0].is_told()
    assert vm.companions[0].arguments[8] == "-1", "nobody else may have its context: it has no live file"
    host.end(vm)
    host.undone()
    assert host.is_free(vm.context)


def test_the_journal_and_the_watcher_come_before_the_first_label(host: Watched) -> None:
    host.start(raw(host))
    log = host.labels.log
    first = next(number for number, call in enumerate(log) if call.startswith(("set_context", "creating")))
    assert "program watch" in log[:first]
    doors = host.doors.log
    assert doors.index("fsync") < doors.index("rename") < doors.index("fork watch")


@KINDS
def test_a_specs_vm_enters_its_group_when_all_beside_it_has_started(
    host: Watched, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    host.group = host.at("group")
    monkeypatch.setattr(cgroups, "enter", lambda group: host.labels.log.append(f"enter {group}"))
    vm = host.start(ask(host))
    group = "" if ask is raw else host.group
    assert vm.companions[0].arguments[2] == group
    entered = [number for number, call in enumerate(host.labels.log) if call == f"enter {group}"]
    assert len(entered) == (1 if group else 0)
    assert not any(call.startswith("program") for number in entered for call in host.labels.log[number:])
    host.end(vm)
    host.undone()


@pytest.mark.parametrize("ask", [raw, static])
def test_only_who_is_told_to_daemonize_may_leave_a_process(host: Watched, ask: Ask) -> None:
    invocation = ask(host)
    for daemonize, leaves in ((False, "0"), (True, "1")):
        vm = host.start(replace(invocation, daemonize=daemonize))
        assert vm.companions[0].arguments[9] == leaves
        host.end(vm)


def test_a_killed_watchers_work_is_done_by_the_next_launch(host: Watched) -> None:
    first = host.start(raw(host))
    host.end(first, watched=False)
    assert host.labels.of(host.at("disk.img")) != VIRT_IMAGE
    second = host.start(raw(host))
    assert host.left() == [f"{second.pid}.1.this-boot.vm.json"]
    host.end(second)
    host.undone()


def test_the_pair_of_what_is_still_to_be_put_back_is_nobody_elses(
    host: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter((0, 0, 1, 0))
    monkeypatch.setattr(conflicts, "_any_below", lambda _: next(drawn))
    alone = ("-drive", f"file={host.file('other.img')},format=raw")
    dead = host.start(raw(host))
    host.end(dead, watched=False)
    # no process runs at it and nobody holds it locked: the journal alone tells of the labels
    assert host.is_free(dead.context)
    other = host.launch(*alone)
    assert other.context != dead.context
    host.end(other)
    host.recover()
    again = host.launch(*alone)
    assert again.context == dead.context
    host.end(again)


def test_a_file_in_use_is_refused_and_its_vm_keeps_it(host: Watched) -> None:
    vm = host.start(raw(host))
    given = host.labels.of(host.at("disk.img"))
    host.is_looked_at = False  # the other VM's labels are there
    with pytest.raises(Refused, match="in use by"):
        host.start(raw(host))
    assert host.companions == []
    assert host.labels.of(host.at("disk.img")) == given
    assert host.left() == [f"{vm.pid}.1.this-boot.vm.json"]
    host.end(vm)
    host.undone()


def test_one_in_a_static_context_holds_its_level_and_its_live_file(host: Watched) -> None:
    vm = host.start(static(host))
    assert str(vm.context) == STATIC
    assert host.left() == [f"{vm.pid}.1.this-boot.vm.json", f"{vm.pid}.1.this-boot.vm.live"]
    path = os.path.join(host.journals, host.left()[0])
    assert journal.is_held(path)
    assert not host.is_free(vm.context)
    host.end(vm)
    host.undone()


def test_without_selinux_nothing_is_labelled(host: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
    with pytest.raises(Executed):
        host.start(raw(host, "none"))
    assert host.program[0] == host.emulator
    assert [name for name in host.labels.log if name.startswith("set_")] == []
    assert host.companions == []


def test_without_selinux_and_landlock_nothing_starts(host: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
    with pytest.raises(Refused, match="has no Landlock"):
        host.start(raw(host, "auto"))
    assert host.program == []
    host.undone()


def test_landlock_is_laid_on_last_and_what_was_made_is_named_to_a_companion(
    host: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[str] = []
    rules: list[Ruleset] = []
    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
    monkeypatch.setattr(landlock, "abi", lambda: 7)

    def made_of(ruleset: Ruleset) -> int:
        rules.append(ruleset)
        acts.append("made")
        return 99

    monkeypatch.setattr(landlock, "made", made_of)
    monkeypatch.setattr(landlock, "enforce", lambda number, _: acts.append(f"enforce {number}"))
    monkeypatch.setattr(capabilities, "keep", lambda names: acts.append(f"keep {sorted(names)}"))
    monkeypatch.setattr(processcontrol, "set_no_new_privs", lambda: acts.append("no_new_privs"))
    with pytest.raises(Executed):
        host.start(raw(host, "auto"))
    assert acts == ["made", "keep []", "no_new_privs", "enforce 99"]
    assert [companion.name for companion in host.companions] == ["tidy"]
    made = {path.rpartition(":")[2] for path in host.companions[0].arguments[3:]}
    assert made == {host.at(name) for name in ("qmp", "pid")}
    assert all(os.path.lexists(path) for path in made)
    allowed = {rule.path for rule in rules[0].rules}
    assert {host.at(name) for name in ("disk.img", "cd.iso", "pid")} <= allowed
    assert not {"/", host.folder, "/home", "/root", "/etc", "/tmp", "/var"} & allowed  # noqa: S108 - named only
    assert [name for name in host.labels.log if name.startswith("set_")] == []


@pytest.mark.parametrize("fault", ["landlock_create_ruleset", "landlock_restrict_self"])
def test_where_landlock_cannot_hold_it_nothing_becomes_qemu(
    host: Watched, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def fail(*_: object) -> int:
        raise HostError(f"{fault} failed: Operation not permitted")

    monkeypatch.setattr(lsm, "mode", lambda: SelinuxMode.DISABLED)
    monkeypatch.setattr(landlock, "abi", lambda: 7)
    monkeypatch.setattr(landlock, "made", fail if "create" in fault else lambda _: 99)
    monkeypatch.setattr(landlock, "enforce", fail)
    monkeypatch.setattr(capabilities, "keep", lambda _: None)
    monkeypatch.setattr(processcontrol, "set_no_new_privs", lambda: None)
    host.is_looked_at = False  # what was made is the companion's
    with pytest.raises(HostError, match=fault):
        host.start(raw(host, "auto"))
    assert host.program == []


def test_a_tree_and_its_helper_are_the_vms_until_it_ends(host: Watched) -> None:
    vm = host.start(shared(host))
    assert vm.context.range is not None
    mine = Context("system_u", "object_r", "svirt_image_t", vm.context.range)
    for name in ("share", "share/deep", "share/mine", "share/deep/its", "share/deep/plain", "other"):
        assert host.labels.of(host.at(name)) == mine
    assert host.left() == [f"{vm.pid}.1.this-boot.vm.{end}" for end in ("json", "tree0", "tree1")]
    assert [helper.ended for helper in host.helpers] == [False]
    assert any(f"fd={vm.descriptors[0]}" in word for word in vm.arguments)
    host.end(vm)
    host.undone()


def one_in_the_share(host: Host) -> Invocation:
    return inputs.from_arguments(host.emulator, ["-drive", f"file={host.at('share/deep/plain')},format=raw"])


@pytest.mark.parametrize(("first", "second"), [(shared, one_in_the_share), (one_in_the_share, shared)])
def test_a_dead_vms_tree_and_a_file_in_it_are_in_each_others_way(host: Watched, first: Ask, second: Ask) -> None:
    host.end(host.start(first(host)), watched=False)
    vm = host.start(second(host))
    assert [name for name in host.left() if name.endswith(".json")] == [f"{vm.pid}.1.this-boot.vm.json"]
    host.end(vm)
    host.undone()


def test_what_is_made_in_a_tree_meanwhile_gets_its_folders_label(host: Watched) -> None:
    vm = host.start(shared(host))
    new = host.file("share/deep/new")
    host.labels.give(new, host.labels.of(host.at("share")))
    host.end(vm)
    host.undone()
    assert host.labels.of(new) == VIRT_IMAGE


def test_what_the_caller_hands_over_reaches_the_vm(host: Watched) -> None:
    """A pipe by its label; a socket, whose label stays, through a relay that holds it."""
    invocation = handed(host)
    pipe, _, first, second = host.handed
    before = os.fstat(first)
    vm = host.start(invocation)
    assert host.labels.of(pipe) == CALLER.at(Level(0))
    watcher, relay = vm.companions
    assert (watcher.name, relay.name) == ("watch", "relay")
    pairs = [word.split(":") for word in relay.arguments if word.startswith("pair:")]
    assert len(pairs) == 2
    assert os.path.samestat(os.fstat(relay.kept[int(pairs[0][1])]), before)
    for number, (_, _, inner) in zip((first, second), pairs, strict=True):
        assert not os.path.samestat(os.fstat(number), before)
        with socket.socket(fileno=os.dup(number)) as mine, socket.socket(fileno=os.dup(relay.kept[int(inner)])) as its:
            its.send(b"x")
            assert mine.recv(9) == b"x"
    host.end(vm)
    host.undone()
    host.close(host.handed)


@pytest.mark.parametrize("written", [b"", b"x"])
def test_what_is_made_for_a_command_stays_if_it_was_written(host: Watched, written: bytes) -> None:
    vm = host.start(described(host, f"extra_files:\n- file: {host.at('shot')}"))
    assert host.labels.of(host.at("shot")).range == vm.context.range
    with open(host.at("shot"), "wb") as file:
        file.write(written)
    host.end(vm)
    host.undone()
    assert os.path.exists(host.at("shot")) is bool(written)
    assert not written or host.labels.of(host.at("shot")) == VIRT_IMAGE


# ---- and one that fails


def ended(host: Watched) -> None:
    """End what a failed launch left behind; its watcher finds nothing to do, and says so."""
    assert all(watcher.is_told() for watcher in host.watchers())
    contexts = [watcher.arguments[1] for watcher in host.watchers()]
    host.end_companions()
    host.undone()
    for text in contexts:
        assert host.is_free(Context.parse(text))


def every_fault(
    tmp_path: Path, ask: Ask, inject: Callable[[Watched, int], object], expected: tuple[type[BaseException], ...]
) -> int:
    """Launch again and again, each time with the next call failing, until none does; return how many there were."""
    call = 0
    while True:
        call += 1
        assert call < 200
        with pytest.MonkeyPatch.context() as patch:
            host = prepared(tmp_path / str(call), patch)
            invocation = ask(host)
            inject(host, call)
            failed = _started(host, invocation, expected)
            host.close(host.handed)
            if not failed and (host.labels.faults or host.doors.faults):
                return call - 1


def _started(host: Watched, invocation: Invocation, expected: tuple[type[BaseException], ...]) -> bool:
    """Launch, end what came of it, and look whether all is as it was; tell whether the launch failed."""
    try:
        vm = host.start(invocation)
    except Crash:
        host.labels.faults.clear()
        host.labels.creating_now = None
        host.end_companions()
        host.recover()
        host.undone()
        return True
    except expected:
        ended(host)
        return True
    left = dict(host.labels.faults), dict(host.doors.faults)
    host.labels.faults.clear()
    host.doors.faults.clear()
    host.end(vm)
    host.undone()
    host.labels.faults, host.doors.faults = left
    return False


@KINDS
@pytest.mark.parametrize("fault", [LsmError("injected"), KeyboardInterrupt(), Crash()], ids=lambda f: type(f).__name__)
def test_a_fault_at_any_call_to_selinux(tmp_path: Path, ask: Ask, fault: BaseException) -> None:
    def inject(host: Watched, call: int) -> None:
        host.labels.at(call, type(fault)(*fault.args))

    assert every_fault(tmp_path, ask, inject, (ConfinedQemuError, type(fault))) > 5


@KINDS
@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "injected"), Crash()], ids=lambda f: type(f).__name__)
def test_a_fault_at_any_call_to_the_kernel(tmp_path: Path, ask: Ask, fault: BaseException) -> None:
    def inject(host: Watched, call: int) -> None:
        host.doors.at(call, type(fault)(*fault.args))

    assert (
        every_fault(
            tmp_path,
            ask,
            inject,
            (ConfinedQemuError, type(fault)) if isinstance(fault, Crash) else (ConfinedQemuError,),
        )
        > 15
    )


@KINDS
def test_a_watcher_that_says_nothing(host: Watched, ask: Ask) -> None:
    """It has ended before it watched: nobody would put the labels back."""
    host.silent.add("watch")
    with pytest.raises(HostError, match="the watcher could not be started"):
        host.start(ask(host))
    assert host.program == []
    ended(host)


def test_a_file_that_was_relabelled_meanwhile(host: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Context.parse("system_u:object_r:user_home_t:s0")
    denied = lsm.denied

    def meanwhile(*arguments: object) -> tuple[str, ...]:
        host.labels.give(host.at("cd.iso"), other)
        return denied(*arguments)  # type: ignore[arg-type]

    host.is_looked_at = False  # the other label stays
    monkeypatch.setattr(lsm, "denied", meanwhile)
    with pytest.raises(ConfinedQemuError, match="changed during launch"):
        host.start(raw(host))
    assert host.labels.of(host.at("cd.iso")) == other
    assert host.labels.of(host.at("disk.img")) == VIRT_IMAGE
    assert host.left() == []


def test_an_emulator_that_cannot_be_executed(host: Watched) -> None:
    """The last step of all: the watcher is there, labels are set, helpers serve."""
    invocation = replace(helped(host), harden=False, core=True)

    def execve(*_: object) -> None:
        raise PermissionError(errno.EACCES, "injected")

    host.patch.setattr(os, "execve", execve)
    with pytest.raises(EmulatorNotExecutable, match="cannot be executed as system_u:system_r:svirt_t"):
        host.start(invocation)
    assert [helper.ended for helper in host.helpers] == [True]
    assert host.chosen is None
    ended(host)


def test_root_without_its_capabilities_puts_nothing_back(host: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def execve(*_: object) -> None:
        raise PermissionError(errno.EACCES, "injected")

    host.patch.setattr(os, "execve", execve)
    monkeypatch.setattr(walls, "may_undo", lambda _: False)
    host.is_looked_at = False  # the labels are there still
    with pytest.raises(EmulatorNotExecutable, match="cannot be executed as system_u:system_r:svirt_t"):
        host.start(raw(host))
    assert host.labels.of(host.at("disk.img")) != VIRT_IMAGE
    ended(host)


def test_what_a_vm_does_not_need_is_given_up_after_its_context_is_chosen(host: Watched) -> None:
    vm = host.start(described(host, "network: {type: tap, ifname: t0}"))
    assert host.walls == ["setrlimit 4 (0, 0)", "keep ['net_admin']", "set_no_new_privs"]
    assert host.doors.log[-4:] == ["setrlimit", "keep", "set_no_new_privs", "execve"]
    host.end(vm)
    vm = host.start(described(host, "harden: no\ncore: yes"))
    assert host.walls == []
    host.end(vm)
    host.undone()


def test_a_second_wall_is_laid_on_last_and_a_monitor_leaves_it_out(
    host: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 2)
    rules: list[Ruleset] = []

    def made_of(ruleset: Ruleset) -> int:
        rules.append(ruleset)
        assert host.chosen is None, "this process still reaches every path"
        return 99

    monkeypatch.setattr(landlock, "made", made_of)
    monkeypatch.setattr(landlock, "enforce", lambda *_: host.walls.append(f"enforce for {host.chosen}"))
    vm = host.start(described(host, "serial: file:log"))
    assert host.walls[-2:] == ["set_no_new_privs", f"enforce for {vm.context}"]
    allowed = {rule.path: rule.words for rule in rules[0].rules}
    assert allowed[host.at("disk.img")] == allowed[host.at("log")] == "read write"
    assert not {"/", host.folder, "/home", "/etc"} & set(allowed)
    monkeypatch.setattr(ps, "_memory", lambda _: 1)
    assert [row.wall for row in ps.live()] == ["selinux+landlock"]
    host.end(vm)
    vm = host.start(raw(host))
    assert [row.wall for row in ps.live()] == ["selinux"]
    host.end(vm)
    assert len(rules) == 1
    host.undone()


def test_a_vms_user_who_cannot_execute_qemu_puts_nothing_back(host: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher is that user by then, who may not: its watcher does it, and the cause is what is told."""
    real = os.geteuid

    def execve(*_: object) -> None:
        raise PermissionError(errno.EACCES, "injected")

    host.patch.setattr(os, "execve", execve)
    monkeypatch.setattr(spawn, "become_user", lambda _: host.patch.setattr(os, "geteuid", lambda: real() + 1))
    host.is_looked_at = False  # the labels are there still
    with pytest.raises(EmulatorNotExecutable, match="cannot be executed as system_u:system_r:svirt_t"):
        host.start(described(host, f"user: {os.getuid()}"))
    host.patch.setattr(os, "geteuid", real)
    assert host.labels.of(host.at("disk.img")) != VIRT_IMAGE
    ended(host)


def test_who_waits_for_the_watcher_hears_of_a_failed_launch(host: Watched) -> None:
    reading, report = os.pipe()

    def execve(*_: object) -> None:
        raise PermissionError(errno.EACCES, "injected")

    host.patch.setattr(os, "execve", execve)
    with pytest.raises(EmulatorNotExecutable):
        host.start(replace(raw(host), harden=False), report=report)
    ended(host)
    assert os.read(reading, 10) == watch.RESTORED
    os.close(reading)
