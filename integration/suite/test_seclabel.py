"""The other seclabels: none (and confinement none), baselabel, and a disk's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USERDOMAIN = "confined_qemu_transition_userdomain"
LINK = "/usr/local/bin/qemu-system-x86_64"


@pytest.fixture
def drop_in() -> Iterator[str]:
    """The emulator's name, linked to the launch script."""
    os.symlink(harness.LAUNCH, LINK)
    yield LINK
    os.unlink(LINK)


def _mine() -> str:
    return harness.context(os.getpid())


@pytest.mark.parametrize("way", ["seclabel", "confinement", "option"])
def test_a_vm_without_a_label_keeps_the_callers_context(image: harness.Image, way: str) -> None:
    """Both keep the caller's context; only one of them wants SELinux to be there."""
    options: list[str] = []
    if way == "seclabel":
        image.write_spec(seclabel={"type": "none"})
        said = "seclabel type none: the VM runs in your context, without a label of its own"
    else:
        said = "confinement: none: nothing confines this VM; it has all of your rights"
        options = ["--confinement", "none"] if way == "option" else []
        if way == "confinement":
            image.write_spec(confinement="none")
    vm = harness.boot_spec(image, *options)
    with open(f"/proc/{vm.pid}/task/{vm.pid}/children", encoding="ascii") as file:
        (qemu,) = (int(word) for word in file.read().split())
    assert harness.context(qemu) == _mine()
    assert harness.short_label(image.path) == harness.UNUSED
    assert harness.journals() == []
    vm.send(b"q")
    assert vm.popen.stderr is not None
    assert vm.popen.stderr.read().decode().splitlines() == [f"confined-qemu: warning: {said}"]
    vm.wait()


def test_the_launch_script_has_no_way_back_unless_allowed(image: harness.Image, drop_in: str) -> None:
    """Its domain starts VMs only: it says so, and how to do it otherwise; the boolean opens the way."""
    image.write_spec(seclabel={"type": "none"})
    words = harness.raw_arguments(image.path)
    none = {**os.environ, "CONFINED_QEMU_CONFINEMENT": "none"}
    for command, environment in (
        ((harness.LAUNCH, "run", image.spec), None),
        ((harness.LAUNCH, "exec", "--confinement", "none", "--", *words), None),
        ((drop_in, *words), none),
    ):
        done = harness.run(*command, check=False, env=environment)
        line = harness.messages(done.stderr)[-1]
        assert done.returncode == 125
        assert "your context, unconfined_t, to which the launch script may not transition" in line
        assert line.endswith(f"run: setsebool -P {USERDOMAIN} on")
    # a question is answered all the same, in a VM's domain
    asked = harness.run(drop_in, "-version", env=none)
    assert (asked.stdout.startswith("QEMU emulator"), asked.stderr) == (True, "")

    harness.run("setsebool", f"{USERDOMAIN}=on")
    try:
        vm = harness.boot(drop_in, *words, env=none)
        assert harness.context(vm.pid) == _mine()
        assert harness.short_label(image.path) == harness.UNUSED
        assert harness.power_off(vm) == 0
    finally:
        harness.run("setsebool", f"{USERDOMAIN}=off")


def test_baselabel_gives_its_type_and_nothing_else(image: harness.Image) -> None:
    image.write_spec(seclabel={"type": "dynamic", "baselabel": "staff_u:staff_r:svirt_t:s0:c7"})
    vm = harness.boot_spec(image)
    qemu = harness.qemu_of(image.path)
    assert harness.context(qemu).startswith("system_u:system_r:svirt_t:s0:c")
    assert harness.power_off(vm) == 0
    for wrong in HERE.no_domains:
        image.write_spec(seclabel={"type": "dynamic", "baselabel": f"system_u:system_r:{wrong}:s0"})
        done = harness.confined("run", image.spec)
        (line,) = harness.messages(done.stderr)
        assert done.returncode == 125
        assert line.startswith("confined-qemu: seclabel.baselabel: ")
        assert f"may not transition to {wrong}" in line
    assert harness.short_label(image.path) == harness.UNUSED


def test_a_disks_own_label(folder: str, make_image: Callable[[str], harness.Image], audit: harness.AuditTrail) -> None:
    image, other, taker = make_image("a"), make_image("b"), make_image("c")
    path = os.path.join(folder, "qmp")

    def write(**seclabel: Any) -> None:
        disks: list[dict[str, Any]] = [
            {"file": image.path, "format": "raw", "bus": "ide"},
            {"file": other.path, "format": "raw", "seclabel": seclabel},
        ]
        image.write_spec(disks=disks, qmp=f"unix:{path}")

    def write_it() -> None:
        harness.qemu_io(path, "vm-disk1", "write -P 0xaa 0 512")

    # left alone: only where the VM may use it as it is
    write(relabel=False)
    done = harness.confined("run", image.spec)
    (line,) = harness.messages(done.stderr)
    assert f"may not {HERE.lacks} what is labelled system_u:object_r:virt_image_t:s0" in line
    assert "run: chcon -t svirt_image_t " in line
    assert harness.short_label(image.path) == harness.UNUSED
    harness.run("chcon", "-t", "svirt_image_t", other.path)
    vm = harness.boot_spec(image)
    assert harness.short_label(other.path) == "svirt_image_t:s0"
    # nobody takes it meanwhile
    taker.write_spec(disks=[{"file": other.path, "format": "raw", "bus": "ide"}])
    refused = harness.confined("run", taker.spec)
    assert f"in use by the VM a (pid {harness.qemu_of(image.path)})" in refused.stderr
    # it is that label alone that lets QEMU write it
    write_it()
    harness.run("chcon", "-l", "s0:c1022,c1023", other.path)
    write_it()
    assert audit.has("write", "svirt_t", "svirt_image_t:s0:c1022,c1023", "file")
    assert harness.results(vm) == ["wrote 512/512", "write failed: Permission denied"]
    assert harness.short_label(other.path) == "svirt_image_t:s0:c1022,c1023"
    done = harness.confined("run", image.spec)
    assert "what is labelled system_u:object_r:svirt_image_t:s0:c1022,c1023" in done.stderr
    harness.run("restorecon", "-F", other.path)

    # verbatim, and put back
    write(label="system_u:object_r:svirt_image_t:s0")
    vm = harness.boot_spec(image)
    assert harness.short_label(other.path) == "svirt_image_t:s0"
    write_it()
    assert harness.results(vm) == ["wrote 512/512"]
    assert harness.short_label(other.path) == harness.UNUSED
    for label, said in (
        ("system_u:object_r:svirt_image_t:s0:c1022,c1023", "what is labelled system_u:object_r:svirt_image_t:s0:c1022"),
        ("system_u:object_r:no_such_t:s0", "not a context of the loaded policy: system_u:object_r:no_such_t:s0"),
        ("system_u:object_r:shadow_t:s0", "the launcher may not give it the label"),
    ):
        write(label=label)
        done = harness.confined("run", image.spec)
        (line,) = harness.messages(done.stderr)
        assert (done.returncode, said in line) == (125, True), line
        assert harness.short_label(other.path) == harness.UNUSED
