"""The sVirt rules: which context a process and its files get."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confined_qemu.model.context import Context, PolicyContexts
from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.invocation import Seclabel, SeclabelType
from confined_qemu.model.mcs import Pair
from confined_qemu.model.resource import Sharing
from confined_qemu.plan import svirt
from tests import strategies
from tests.fakes import DEBIAN, FEDORA

PAIR = Pair(1, 2)
DYNAMIC = Seclabel()


def test_the_policys_files() -> None:
    assert DEBIAN.tcg is None
    assert str(FEDORA.tcg) == "system_u:system_r:svirt_tcg_t:s0"
    assert str(FEDORA.content) == "system_u:object_r:virt_content_t:s0"


def test_comments_and_empty_lines_are_no_contexts() -> None:
    found = PolicyContexts.parse("\n# x:y:z\na_u:b_r:c_t:s0\n\n", "#\na_u:b_r:d_t:s0\n\n a_u:b_r:e_t:s0 \n")
    assert (found.kvm.type, found.tcg, found.image.type, found.content.type) == ("c_t", None, "d_t", "e_t")


@pytest.mark.parametrize(
    ("domain", "image", "words"),
    [
        ("", "a:b:c:s0\na:b:d:s0", "virtual_domain_context has 0 of 1"),
        ("a:b:c:s0", "a:b:c:s0", "virtual_image_context has 1 of 2"),
        ("a:b", "a:b:c:s0\na:b:d:s0", "not an SELinux context"),
        ("a:b:c:s0:x", "a:b:c:s0\na:b:d:s0", "not an SELinux level"),
    ],
)
def test_what_is_no_policys_file(domain: str, image: str, words: str) -> None:
    with pytest.raises(ValueProblem, match=words):
        PolicyContexts.parse(domain, image)


@pytest.mark.parametrize("tcg", [True, False])
def test_a_dynamic_vm_gets_the_policys_domain_at_its_pair(tcg: bool) -> None:
    domain = "svirt_tcg_t" if tcg else "svirt_t"
    found = svirt.process_context(FEDORA, DYNAMIC, PAIR, tcg=tcg)
    assert str(found) == f"system_u:system_r:{domain}:s0:c1,c2"
    assert str(svirt.process_context(DEBIAN, DYNAMIC, PAIR, tcg=tcg)) == "system_u:system_r:svirt_t:s0:c1,c2"


def test_a_query_gets_no_pair() -> None:
    assert str(svirt.process_context(FEDORA, DYNAMIC, None, tcg=False)) == "system_u:system_r:svirt_t:s0"


def test_a_baselabel_gives_its_type_and_nothing_else() -> None:
    base = Seclabel(baselabel=Context.parse("x_u:x_r:svirt_kvm_net_t:s5:c9"))
    assert str(svirt.process_context(FEDORA, base, PAIR, tcg=True)) == "system_u:system_r:svirt_kvm_net_t:s0:c1,c2"


def test_the_policys_sensitivity_stays() -> None:
    mls = PolicyContexts.parse("u:r:svirt_t:s3", "u:o:i_t:s3\nu:o:c_t:s3")
    assert str(svirt.process_context(mls, DYNAMIC, PAIR, tcg=False)) == "u:r:svirt_t:s3:c1,c2"


@given(strategies.contexts)
def test_a_static_label_is_taken_whole(label: Context) -> None:
    assert svirt.process_context(FEDORA, Seclabel(SeclabelType.STATIC, label=label), PAIR, tcg=True) == label


def test_no_seclabel_no_context() -> None:
    assert svirt.process_context(FEDORA, Seclabel(SeclabelType.NONE), PAIR, tcg=True) is None


@given(strategies.contexts, st.sampled_from(list(Sharing)))
def test_files(process: Context, sharing: Sharing) -> None:
    label = svirt.file_context(FEDORA, process, sharing)
    match sharing:
        case Sharing.PRIVATE:
            assert label is not None
            assert (label.type, label.range) == ("svirt_image_t", process.range)
        case Sharing.SHARED:
            assert str(label) == "system_u:object_r:svirt_image_t:s0"
        case Sharing.CONTENT:
            assert str(label) == "system_u:object_r:virt_content_t:s0"
        case Sharing.UNLABELLED:
            assert label is None


@given(strategies.pairs(), strategies.pairs())
def test_two_vms_are_apart(one: Pair, other: Pair) -> None:
    """What one VM's image carries, another VM dominates only where both have the same pair."""
    first = svirt.process_context(DEBIAN, DYNAMIC, one, tcg=False)
    second = svirt.process_context(DEBIAN, DYNAMIC, other, tcg=False)
    assert first is not None
    assert second is not None
    image = svirt.file_context(DEBIAN, first, Sharing.PRIVATE)
    assert image is not None
    assert image.range is not None
    assert second.range is not None
    assert second.range.high.dominates(image.range.low) == (one == other)


def test_what_a_vm_leaves_is_an_image_without_categories() -> None:
    assert str(DEBIAN.restored()) == "system_u:object_r:virt_image_t:s0"
    for type_name, given_by_us in (("svirt_image_t", True), ("virt_content_t", True), ("virt_image_t", False)):
        assert DEBIAN.is_given(Context.parse(f"system_u:object_r:{type_name}:s0")) is given_by_us
