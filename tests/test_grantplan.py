"""A file for a VM that runs already: the launch's rules, and what the VM has got before."""

from __future__ import annotations

import pytest

from confined_qemu.model import hostpaths
from confined_qemu.model.context import Context
from confined_qemu.model.facts import FileKind, Identity
from confined_qemu.model.invocation import Invocation
from confined_qemu.model.lean import replace
from confined_qemu.model.plan import Plan
from confined_qemu.model.resource import Access, Resource, Role
from confined_qemu.model.steps import Create, JournalStep, LabelTree, Relabel
from confined_qemu.plan import grants
from tests.fakes import VIRT_IMAGE
from tests.worlds import World

PROCESS = Context.parse("system_u:system_r:svirt_t:s0:c101,c202")
MINE = Context.parse("system_u:object_r:svirt_image_t:s0:c101,c202")
CONTENT = Context.parse("system_u:object_r:virt_content_t:s0")
PATH = "/srv/vm/x.img"
NO_CONTENT = ["svirt_t", "virt_content_t", "file", "write"]
"""What a VM may not do with content, in every policy."""


def wanted(*, readonly: bool = False, path: str = PATH) -> Resource:
    found = hostpaths.resource(path, Role.EXTRA, Access.READ if readonly else Access.READ_WRITE, "allow", format="raw")
    assert found is not None
    return found


def planned(
    world: World, resource: Resource, launched: tuple[JournalStep, ...] = (), granted: tuple[JournalStep, ...] = ()
) -> Plan:
    invocation = Invocation("vm 1", "", (), (resource,))
    world.denied.append(NO_CONTENT)
    policy = world.rules()
    running = grants.Running("vm 1", PROCESS, launched, granted)
    return grants.plan(invocation, world.facts(invocation), running, policy)


def given(world: World, after: Context, *, exclusive: bool) -> Relabel:
    """Return the step that gave the file of this world its label."""
    invocation = Invocation("vm 1", "", (), (wanted(),))
    identity = world.facts(invocation).files[PATH].identity
    assert isinstance(identity, Identity)
    return Relabel(PATH, identity, FileKind.REGULAR, 1, VIRT_IMAGE, after, VIRT_IMAGE, exclusive=exclusive)


def test_a_file_that_nobody_has_gets_the_vms_label_and_gives_it_back() -> None:
    (step,) = planned(World(), wanted()).steps
    assert isinstance(step, Relabel)
    assert (step.before, step.after, step.restore, step.exclusive) == (VIRT_IMAGE, MINE, VIRT_IMAGE, True)


def test_one_that_is_missing_is_made_and_one_to_be_read_is_not() -> None:
    world = World(files={PATH: {"kind": "missing"}})
    (step,) = planned(world, wanted()).steps
    assert step == Create(PATH, MINE, VIRT_IMAGE, remove=False, remove_empty=True)
    assert planned(world, wanted(readonly=True)).refusals == (f"{PATH} (allow): no such file",)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("at_start", [False, True])
def test_what_the_vm_has_already_needs_nothing(*, readonly: bool, at_start: bool) -> None:
    world = World(files={PATH: {"label": str(MINE)}})
    step = (given(world, MINE, exclusive=True),)
    made = planned(world, wanted(readonly=readonly), *((step, ()) if at_start else ((), step)))
    assert (made.steps, made.refusals) == ((), ())


def test_what_it_was_made_for_needs_nothing() -> None:
    world = World(files={PATH: {"label": str(MINE)}})
    made = planned(world, wanted(), granted=(Create(PATH, MINE, VIRT_IMAGE, remove=False, remove_empty=True),))
    assert (made.steps, made.refusals) == ((), ())


def test_what_lies_in_a_tree_of_its_own_needs_nothing() -> None:
    """Its label goes back with the tree, which knows what it had."""
    world = World(files={PATH: {"label": str(MINE)}})
    tree = LabelTree("/srv/vm", Identity(1, 1), VIRT_IMAGE, MINE, exclusive=True, number=0, count=2)
    made = planned(world, wanted(), (tree,))
    assert (made.steps, made.refusals) == ((), ())
    (step,) = planned(World(), wanted(), (tree,)).steps
    assert isinstance(step, Relabel)


def test_what_was_done_to_other_files_says_nothing_of_this_one() -> None:
    world = World(files={PATH: {"label": str(MINE)}})
    made = Create("/srv/vm/other.img", MINE, VIRT_IMAGE, remove=False)
    tree = LabelTree("/srv/v", Identity(1, 1), VIRT_IMAGE, MINE, exclusive=True, number=0, count=2)
    (step,) = planned(world, wanted(), (made, tree)).steps
    assert isinstance(step, Relabel)


def test_what_it_has_for_reading_is_not_made_its_own_under_it() -> None:
    world = World(files={PATH: {"label": str(CONTENT)}})
    step = (given(world, CONTENT, exclusive=False),)
    (line,) = planned(world, wanted(), granted=step).refusals
    assert line.endswith(
        f"for reading only, labelled {CONTENT}\n"
        f"  run: confined-qemu revoke 'vm 1' {PATH} && confined-qemu allow 'vm 1' {PATH}"
    )
    (line,) = planned(world, wanted(), launched=step).refusals
    assert "since its start" in line
    assert planned(world, wanted(readonly=True), launched=step).refusals == ()


def test_one_whose_label_was_changed_since_gets_it_again() -> None:
    world = World()
    (step,) = planned(world, wanted(), granted=(given(world, MINE, exclusive=True),)).steps
    assert isinstance(step, Relabel)
    assert step.after == MINE


def test_another_vms_file_is_refused_by_name_and_content_is_shared() -> None:
    world = World(holders={PATH: [["other", 4711, True, None]]})
    (line,) = planned(world, wanted()).refusals
    assert line == f"{PATH} (allow): in use by the VM other (pid 4711)\n  stop it first, or let both only read it"
    world = World(files={PATH: {"label": str(CONTENT)}}, holders={PATH: [["other", 4711, False, str(VIRT_IMAGE)]]})
    (step,) = planned(world, wanted(readonly=True)).steps
    assert isinstance(step, Relabel)
    assert (step.after, step.restore) == (CONTENT, VIRT_IMAGE)
    assert planned(world, wanted()).refusals != ()


def test_a_damaged_format_refuses_the_whole() -> None:
    world = World()
    invocation = Invocation("vm", "", (), (wanted(),), problems=("its header is bad",))
    policy = world.rules()
    running = grants.Running("vm", PROCESS, (), ())
    assert grants.plan(invocation, world.facts(invocation), running, policy).refusals == ("its header is bad",)


def test_permissive_says_it_and_goes_on() -> None:
    world = World(selinux="permissive", files={PATH: {"links": 2}})
    made = planned(world, wanted())
    assert made.refusals == ()
    assert "hard links" in made.warnings[0]


def test_a_devices_own_rules_hold() -> None:
    world = World(files={"/dev/null": {"kind": "chr_file", "label": "system_u:object_r:null_device_t:s0"}})
    made = planned(world, wanted(path="/dev/null"))
    assert (made.steps, made.refusals) == ((), ())
    refused = planned(World(files={PATH: {"kind": "dir"}}), wanted())
    assert "a folder cannot be used as extra\n  name the files in it" in refused.refusals[0]
    assert replace(refused, refusals=()).process == PROCESS
