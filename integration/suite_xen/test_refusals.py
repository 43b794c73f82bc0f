"""What Xen or its Flask does not take is refused before anything is labelled, or undone at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from integration.suite_xen import dom0
from integration.suite_xen.dom0 import Spec

if TYPE_CHECKING:
    from collections.abc import Iterator


def static(folder: str, label: str) -> Spec:
    """Return the spec of a domain with a label of its own."""
    return Spec(folder, "static", "poweroff", dom0.static(label))


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("system_u:system_r:nosuch_t:s0", "Flask's loaded policy knows no context system_u:system_r:nosuch_t:s0"),
        ("system_u:system_r:domU_t:s0:c3,c400", "its policy has 256 categories, c0.c255"),
        ("system_u:system_r:domU_t", "its policy has levels, so write system_u:system_r:domU_t:s0"),
        ("system_u:object_r:domU_t:s0", "write system_u:system_r:domU_t"),
    ],
)
def test_a_label_that_is_none_of_a_domains(folder: str, label: str, why: str) -> None:
    spec = static(folder, label)
    assert why in dom0.refused("run", spec.write())
    assert dom0.label(spec.image) == dom0.UNUSED


def test_a_label_that_flask_knows_and_forbids(folder: str) -> None:
    spec = static(folder, "system_u:system_r:xen_t:s0")
    said = dom0.refused("run", spec.write())
    assert "Flask does not let the domain static be system_u:system_r:xen_t:s0" in said
    assert "avc:  denied  { create }" in said
    assert dom0.label(spec.image) == dom0.UNUSED


def test_a_domain_that_gets_another_label_than_was_asked_for_never_runs(folder: str) -> None:
    # Flask knows the name, and reads another one back: a type has the first of its names
    spec = static(folder, "system_u:system_r:guest_t:s0:c5")
    said = dom0.refused("run", spec.write())
    assert (
        "the domain's label is system_u:system_r:domU_t:s0:c5, and system_u:system_r:guest_t:s0:c5 was asked for; "
        "it was destroyed before it ran" in said
    )
    assert dom0.domains() == {}
    assert dom0.label(spec.image) == dom0.UNUSED


def test_a_boolean_of_flasks_locks_a_type(folder: str) -> None:
    spec = static(folder, "system_u:system_r:prot_domU_t:s0:c1,c2")
    started = spec.start()
    assert started.end() == 0, started.said
    with dom0.switched("prot_doms_locked"):
        assert "Flask does not let the domain static be" in dom0.refused("run", spec.write())
    assert dom0.label(spec.image) == dom0.UNUSED


def test_a_permissive_flask_is_told_and_refused_unless_asked_for(folder: str) -> None:
    spec = Spec(folder, "watched", "poweroff")
    path = spec.write()
    done = dom0.confined("check")
    assert done.returncode == 0, done.stdout
    assert "ok    flask: enforcing" in done.stdout
    dom0.run("xl", "setenforce", "0")
    try:
        assert "warn  flask: Flask is permissive" in dom0.confined("check").stdout
        assert "Flask is permissive" in dom0.refused("run", path)
        spec.keys["confinement"] = "auto"
        started = spec.start()
        assert started.end() == 0
        assert "warning: Flask is permissive" in started.said
    finally:
        dom0.run("xl", "setenforce", "1")


def test_memory_is_granted_inside_a_pair_only() -> None:
    first, second = (f"system_u:system_r:domU_t:s0:{pair}" for pair in ("c1,c2", "c3,c4"))
    shared = dom0.GRANT_MAP_READ | dom0.GRANT_MAP_WRITE
    assert dom0.may_grant(first, first) & shared == shared
    assert dom0.may_grant(first, second) & (shared | dom0.GRANT_COPY) == 0


def test_xl_reads_every_text_as_it_was_written(folder: str) -> None:
    words = "console=hvc0 a=\"b c\" d='e' \\n \\x41 #f , ] { } $(g) `h` ; %s é"
    spec = Spec(folder, "texts", keys={"cmdline": words})
    text = json.loads(dom0.confined("plan", "--json", spec.write()).stdout)["config"]
    path = os.path.join(folder, "texts.cfg")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    read = json.loads(dom0.run("xl", "create", "-n", "-q", path).stdout)
    assert read["b_info"]["cmdline"] == words
    assert read["c_info"]["name"] == "texts"
    assert [disk["pdev_path"] for disk in read["disks"]] == [spec.image]


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Let a process do nothing inside the block."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_without_an_answer_of_xenstored_nothing_hangs_or_starts(folder: str) -> None:
    spec = Spec(folder, "unanswered")
    path = spec.write()
    found = subprocess.run(["pidof", "oxenstored"], capture_output=True, text=True, check=True).stdout
    with stopped(int(found)):
        assert "did not answer" in dom0.refused("run", path)
    assert dom0.label(spec.image) == dom0.UNUSED


@contextmanager
def given_away(device: str) -> Iterator[None]:
    """Have a PCI device ready for a domain inside the block."""
    drivers = "/sys/bus/pci/drivers"
    dom0.run("modprobe", "xen-pciback")
    # it gives the device to pciback, and then misses the IOMMU of this emulated machine
    assert "failed to quarantine" in dom0.run("xl", "pci-assignable-add", device, check=False).stderr
    try:
        yield
    finally:
        for file in ("pciback/unbind", "pciback/remove_slot", "virtio-pci/bind"):
            with open(f"{drivers}/{file}", "w", encoding="ascii") as control:
                control.write(device)


def test_check_names_what_a_device_lacks() -> None:
    driver = "/sys/bus/virtio/drivers/virtio_rng"  # nothing in dom0 misses it
    (name,) = [name for name in os.listdir(driver) if name.startswith("virtio")]
    device = os.path.basename(os.path.dirname(os.path.realpath(f"{driver}/{name}")))
    with given_away(device):
        said = dom0.confined("check").stdout
        assert f"fail  {device}: Xen has no IOMMU, so a domain could write all memory through it" in said
        command = f"flask-label-pci {device} system_u:object_r:nic_dev_t:s0"
        assert f"run: {command}\n" in said
        dom0.run(*f"{dom0.FLASK_TOOLS}/{command}".split())
    assert device not in dom0.confined("check").stdout
