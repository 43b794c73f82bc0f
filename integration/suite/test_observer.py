"""What watches the clients sees what it is to see: the shortest QEMU, each kind of it, and a label that is not back."""

from __future__ import annotations

import pytest

from integration.suite import harness, observer
from integration.suite.observer import Way

OF_A_VM = "system_u:object_r:svirt_image_t:s0:c1,c2"
LONG = 'a "b"\n' + "x" * 9000
"""A word that audit puts down in hexadecimal and in pieces."""


def _run(way: Way, *arguments: str) -> int:
    return harness.run(observer.NAME, *arguments, env=way.environment(), check=False).returncode


@pytest.mark.parametrize("way", list(Way))
def test_each_qemu_is_seen(image: harness.Image, folder: str, way: Way) -> None:
    """A query, a VM, and a VM that ends while it is made, with a path that no quotes hold."""
    with observer.watching(way, folder) as seen:
        assert _run(way, "-version") == 0
        assert _run(way, "-accel", "kvm", "-device", "no-such-device") == 1
        assert _run(way, *harness.raw_arguments(image.path), "-name", LONG, "-device", "none-such") == 1
    seen.check(vms=2, queries=1)
    assert seen.started[0].arguments == ("-version",)
    assert LONG in seen.started[2].arguments


def test_a_label_that_is_not_back(image: harness.Image, folder: str) -> None:
    with pytest.raises(AssertionError, match=r"a\.img"), observer.watching(Way.BARE, folder):
        harness.run("chcon", "-t", "svirt_image_t", image.path)


def test_a_file_that_stays_a_vms(folder: str) -> None:
    with pytest.raises(AssertionError, match=r"new\.log"), observer.watching(Way.BARE, folder):
        harness.run("sh", "-c", f": > {folder}/new.log; chcon {OF_A_VM} {folder}/new.log")
