"""Images where the policy means nothing: refused with the command that makes the folder a place for them, and back."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "/builds/a project+1 [x]"
"""A CI's own folder; every character means something to a regular expression, a shell or file_contexts."""
QUOTED = "'/builds/a project+1 [x]'"
PATTERN = r"/builds/a[\x20]project\+1[\x20]\[x[\x5d](/.*)?"
SRV = "/srv/vms"


@pytest.fixture
def emptied() -> Iterator[None]:
    """The folders are gone afterwards, and so is what `adopt` left for them."""
    yield
    for path in (FOLDER, SRV):
        if os.path.exists(path):
            harness.confined("policy", "adopt", "--undo", path)
            shutil.rmtree(path)


def _adopt(*arguments: str) -> list[str]:
    done = harness.confined("policy", "adopt", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def _refused(*arguments: str) -> str:
    done = harness.confined(*arguments)
    assert (done.returncode, done.stdout) == (125, "")
    (line,) = harness.messages(done.stderr)
    return line


@pytest.mark.usefixtures("emptied")
def test_refused_adopted_run_relabelled_and_given_back() -> None:
    os.makedirs(FOLDER)
    image = harness.Image(FOLDER, "a")
    assert harness.short_label(image.path) == f"{HERE.made_in_root}:s0"
    line = _refused("run", image.spec)
    assert line.endswith(f"relabel files of type {HERE.made_in_root}\n  run: confined-qemu policy adopt {QUOTED}")

    first, *changes, last = _adopt(FOLDER)
    assert first == f"file context {PATTERN} added"
    assert len(changes) == 3
    assert all(change.startswith(f"Relabeled {FOLDER}") for change in changes)
    assert last == f"3 labels changed in {FOLDER}"
    assert [harness.short_label(path) for path in (FOLDER, image.path)] == [harness.UNUSED] * 2

    vm = harness.boot_spec(image)
    assert harness.short_label(image.path).startswith("svirt_image_t:s0:c")
    assert "in use by the VM a (pid " in _refused("policy", "adopt", "--undo", FOLDER)
    assert harness.power_off(vm) == 0
    assert harness.short_label(image.path) == harness.UNUSED

    harness.run("restorecon", "-RF", "/builds")
    assert harness.short_label(image.path) == harness.UNUSED
    assert _adopt(FOLDER) == [f"file context {PATTERN} is there already", f"0 labels changed in {FOLDER}"]

    first, *_, last = _adopt("--undo", FOLDER)
    assert (first, last) == (f"file context {PATTERN} removed", f"3 labels changed in {FOLDER}")
    assert harness.short_label(image.path) == "default_t:s0"
    assert "no file context of its own" in _refused("policy", "adopt", "--undo", FOLDER)


@pytest.mark.usefixtures("emptied")
def test_srv_and_what_is_no_place_for_images() -> None:
    os.makedirs(SRV)
    image = harness.Image(SRV, "a")
    assert f"type var_t\n  run: confined-qemu policy adopt {SRV}" in _refused("run", image.spec)

    shell = os.path.join(SRV, "sh")
    shutil.copy("/bin/sh", shell)
    harness.run("chcon", "-t", "bin_t", shell)
    assert f"{shell}: not an image: labelled " in _refused("policy", "adopt", SRV)
    os.unlink(shell)
    os.symlink("/etc/passwd", os.path.join(SRV, "link"))
    os.symlink(SRV, "/srv/other")
    try:
        assert f"name the folder itself: {SRV}" in _refused("policy", "adopt", "/srv/other")
    finally:
        os.unlink("/srv/other")
    assert harness.short_label(SRV) == "var_t:s0"

    for folder, reason in (
        ("/", "many things"),
        ("/etc", "part of the system"),
        ("/usr/local", "part of the system"),
        ("/root", "many things"),
        ("/srv/nothing", "no such folder"),
        ("/var/log", "the policy means it for something else"),
    ):
        assert reason in _refused("policy", "adopt", folder)

    etc_before = harness.label("/etc/passwd")
    assert _adopt(SRV)[0] == "file context /srv/vms(/.*)? added"
    assert harness.label("/etc/passwd") == etc_before
    vm = harness.boot_spec(image)
    assert harness.power_off(vm) == 0
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_file_system_without_labels_is_refused_with_its_mount() -> None:
    harness.run("modprobe", "loop")
    os.makedirs("/mnt/stick", exist_ok=True)
    with open("/var/stick.img", "wb") as file:
        file.truncate(8 << 20)
    harness.run("mkfs.vfat", "/var/stick.img")
    harness.run("mount", "-o", "loop", "/var/stick.img", "/mnt/stick")
    try:
        os.makedirs("/mnt/stick/vms")
        line = _refused("policy", "adopt", "/mnt/stick/vms")
    finally:
        harness.run("umount", "/mnt/stick")
        os.unlink("/var/stick.img")
    assert "vfat at /mnt/stick takes no labels" in line
    assert (
        "umount /mnt/stick && mount -t vfat -o context=system_u:object_r:svirt_image_t:s0 /var/stick.img /mnt/stick"
        in line
    )
