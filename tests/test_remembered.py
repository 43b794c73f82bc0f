"""libvirt's notes on files: read whole or refused, and what becomes of a file with one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.model.context import Context
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.facts import LiveProcess
from confined_qemu.model.lean import replace
from confined_qemu.plan import remembered
from confined_qemu.plan.remembered import BOOTED, COUNT, LABEL, Action, Memory, Noted, decide, parse
from confined_qemu.read.libvirt import xmltree
from confined_qemu.read.spec.yamlnodes import Problems
from tests import strategies
from tests.fakes import DEBIAN, VIRT_IMAGE

OWN = Context.parse("unconfined_u:object_r:virt_image_t:s0")
DEAD = Context.parse("system_u:object_r:svirt_image_t:s0:c1,c2")
VM = LiveProcess(7, Context.parse("system_u:system_r:svirt_t:s0:c1,c2"))
OTHER = LiveProcess(8, Context.parse("system_u:system_r:svirt_t:s0:c3,c4"))


NOTED = Noted(DEAD, Memory(OWN, 1, 1000), (), (), None, valid=True)
"""A dead VM's image, noted once in this boot."""


def noted(**changes: Any) -> Noted:
    """Return the same with changes."""
    return replace(NOTED, **changes)


def test_a_note_as_libvirt_writes_it() -> None:
    values = {LABEL: b"unconfined_u:object_r:virt_image_t:s0", COUNT: b"2", BOOTED: b"1795532369"}
    assert parse(values) == Memory(OWN, 2, 1795532369)
    assert parse({}) is None
    del values[BOOTED]
    assert parse(values) == Memory(OWN, 2, None)


@pytest.mark.parametrize(
    "change", [{COUNT: b""}, {COUNT: b"0"}, {COUNT: b"-1"}, {COUNT: b"1 "}, {COUNT: "\u0661".encode()},
               {COUNT: b"9" * 40}, {BOOTED: b"today"}, {LABEL: b""}, {LABEL: b"virt_image_t"}, {LABEL: b"\xff:a:b:s0"}],
)  # fmt: skip
def test_what_is_no_note(change: dict[str, bytes]) -> None:
    with pytest.raises(ValueProblem):
        parse({LABEL: b"a:b:c:s0", COUNT: b"1", BOOTED: b"1"} | change)


@pytest.mark.parametrize("missing", [LABEL, COUNT])
def test_a_part_of_a_note_is_none(missing: str) -> None:
    values = {LABEL: b"a:b:c:s0", COUNT: b"1", BOOTED: b"1"}
    del values[missing]
    with pytest.raises(ValueProblem, match="missing"):
        parse(values)


@given(st.dictionaries(st.sampled_from(remembered.ATTRIBUTES), st.binary(max_size=40)))
def test_no_bytes_are_a_traceback(values: dict[str, bytes]) -> None:
    try:
        memory = parse(values)
    except ValueProblem:
        assert values
    else:
        assert (memory is None) == (not values)


@pytest.mark.parametrize(
    ("booted", "same"), [(1000, True), (1060, True), (940, True), (1061, False), (0, False), (None, False)]
)
def test_one_boot_is_read_a_little_differently_each_time(booted: int | None, same: bool) -> None:
    assert remembered.is_of_boot(Memory(OWN, 1, booted), (5000, 1000)) is same


@pytest.mark.parametrize(
    ("found", "action", "label", "count"),
    [
        (noted(), Action.RESTORED, OWN, None),
        (noted(memory=Memory(OWN, 2, None)), Action.RESTORED, OWN, None),
        (noted(label=DEBIAN.content), Action.RESTORED, OWN, None),
        (noted(label=OWN), Action.FORGOTTEN, None, None),
        (noted(label=None), Action.FORGOTTEN, None, None),
        (noted(memory=Memory(DEAD, 1, 5)), Action.RESTORED, VIRT_IMAGE, None),
        (noted(memory=Memory(DEAD, 1, 5), default=OWN), Action.RESTORED, OWN, None),
        (noted(valid=False, default=DEBIAN.content), Action.RESTORED, VIRT_IMAGE, None),
        (noted(holders=(VM,)), Action.LEFT, None, 1),
        (noted(memory=Memory(OWN, 1, 5), holders=(VM,)), Action.LEFT, None, 1),
        (noted(memory=Memory(OWN, 3, 1000), holders=(VM, OTHER)), Action.LOWERED, None, 2),
        (noted(memory=Memory(OWN, 1, 1000), holders=(VM, OTHER)), Action.LEFT, None, 1),
        (noted(memory=Memory(OWN, 3, 1000), ours=(VM,)), Action.LEFT, None, 3),
    ],
)
def test_what_becomes_of_a_file(found: Noted, action: Action, label: Context | None, count: int | None) -> None:
    decision = decide(found, DEBIAN, (1000,))
    assert (decision.action, decision.label, decision.count) == (action, label, count)


@given(
    st.none() | st.sampled_from([OWN, DEAD, DEBIAN.content, DEBIAN.image]) | strategies.contexts,
    strategies.contexts | st.just(DEAD),
    st.integers(1, 5),
    st.lists(st.sampled_from([VM, OTHER]), unique=True).map(tuple),
    st.booleans(),
)
def test_no_used_file_is_labelled_and_none_ends_with_a_dead_vms_label(
    given_label: Context | None, kept: Context, count: int, users: tuple[LiveProcess, ...], ours: bool
) -> None:
    holders, mine = ((), users) if ours else (users, ())
    decision = decide(Noted(given_label, Memory(kept, count, None), holders, mine, None, valid=True), DEBIAN, (1,))
    if users:
        assert decision.label is None
        assert decision.count is not None
        assert 1 <= decision.count <= count
    else:
        assert decision.count is None
    if decision.label is not None:
        level = decision.label.range
        assert not (DEBIAN.is_given(decision.label) and level is not None and level.low.categories)


def test_every_path_that_a_domain_names() -> None:
    text = (
        "<domstatus pid='5'><domain><os><kernel> /k\n</kernel></os><devices><disk><source file='/a b'/>"
        "<backingStore><source dev='/dev/x' name='rel'/></backingStore></disk></devices></domain></domstatus>"
    )
    root = xmltree.parse(text, Problems("f"), {})
    assert root is not None
    assert set(remembered.paths_in(root)) == {"/k", "/a b", "/dev/x"}
