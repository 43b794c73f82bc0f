"""One image that two VMs write: no categories, real reads and writes from both, and nobody else's meanwhile."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from integration.suite import harness
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED = "svirt_image_t:s0"
SECTOR = 512
READ, WROTE = f"read {SECTOR}/{SECTOR}", f"wrote {SECTOR}/{SECTOR}"


class _Pair:
    """Two VMs with a disk of their own each, and one that both share."""

    def __init__(self, folder: str, make_image: Callable[[str], harness.Image], **more: Any) -> None:
        self.images = [make_image(name) for name in ("a", "b")]
        self.shared = make_image("both").path
        self.sockets = [os.path.join(folder, f"{name}.sock") for name in ("a", "b")]
        for image, path in zip(self.images, self.sockets, strict=True):
            disk = {"file": self.shared, "format": "raw", "shareable": True, **more}
            own = {"file": image.path, "format": "raw", "bus": "ide"}
            image.write_spec(disks=[own, disk], qmp=f"unix:{path}")

    def boot(self) -> list[harness.Process]:
        return [harness.boot_spec(image) for image in self.images]


def _io(socket: str, command: str) -> None:
    harness.qemu_io(socket, "vm-disk1", command)


def _exclusive(image: harness.Image, path: str) -> None:
    image.write_spec(disks=[{"file": path, "format": "raw", "bus": "ide"}])


def test_two_write_one_image(
    folder: str, make_image: Callable[[str], harness.Image], audit: harness.AuditTrail
) -> None:
    both = _Pair(folder, make_image)
    third = make_image("third")
    _exclusive(third, both.shared)

    holder = harness.boot_spec(third)
    pid = harness.qemu_of(both.shared)
    refused = harness.confined("run", both.images[0].spec)
    assert refused.returncode == 125
    assert (
        f"{both.shared} (disks[1].file): in use by the VM third (pid {pid})\nconfined-qemu:   stop it first"
        in refused.stderr
    )
    assert harness.power_off(holder) == 0
    assert harness.short_label(both.shared) == harness.UNUSED

    vms = both.boot()
    pids = [harness.qemu_of(image.path) for image in both.images]
    contexts = [harness.context(pid) for pid in pids]
    assert harness.short_label(both.shared) == SHARED
    assert len({harness.level(context) for context in contexts}) == 2
    for writer, reader, byte in ((0, 1, 0xAA), (1, 0, 0x55)):
        _io(both.sockets[writer], f"write -P {byte} 0 {SECTOR}")
        _io(both.sockets[reader], f"read -P {byte} 0 {SECTOR}")
        with open(both.shared, "rb") as file:
            assert file.read(SECTOR) == bytes([byte]) * SECTOR
    _io(both.sockets[0], f"read -P 1 0 {SECTOR}")

    refused = harness.confined("run", third.spec)
    assert refused.returncode == 125
    for name, pid in zip("ab", pids, strict=True):
        assert f"in use by the VM {name} (pid {pid})\nconfined-qemu:   stop it first" in refused.stderr

    # the first ends by its guest, the second is killed; the label stays through both
    wrong = "Pattern verification failed at offset 0, 512 bytes"
    assert harness.results(vms[0]) == [WROTE, READ, wrong, READ]
    assert harness.short_label(both.shared) == SHARED
    refused = harness.confined("run", third.spec)
    assert f"in use by the VM b (pid {pids[1]})" in refused.stderr
    _io(both.sockets[1], f"write -P 0x11 0 {SECTOR}")
    with open(both.shared, "rb") as file:
        assert file.read(SECTOR) == bytes([0x11]) * SECTOR
    harness.kill(pids[1])
    assert vms[1].wait() == -9
    harness.settle()
    assert harness.short_label(both.shared) == SHARED
    assert [harness.short_label(image.path) for image in both.images] == [harness.UNUSED] * 2

    vms = both.boot()
    for vm in reversed(vms):
        assert harness.power_off(vm) == 0
    assert harness.short_label(both.shared) == SHARED

    holder = harness.boot_spec(third)
    assert harness.short_label(both.shared).startswith("svirt_image_t:s0:c")
    assert harness.power_off(holder) == 0
    assert harness.short_label(both.shared) == SHARED
    images = [denial for denial in audit.denials() if ":svirt_t:" in denial.source and "image_t:" in denial.target]
    assert images == []


def test_a_shared_disk_that_is_not_shared_is_denied(
    folder: str, make_image: Callable[[str], harness.Image], audit: harness.AuditTrail
) -> None:
    """The other half: with a VM's pair on it, the second VM's QEMU is denied the image by the kernel."""
    both = _Pair(folder, make_image)
    vms = both.boot()
    harness.run("chcon", "-l", harness.level(harness.label(both.images[0].path)), both.shared)
    for socket in both.sockets:
        _io(socket, f"write -P 0x77 0 {SECTOR}")
    assert audit.has("write", "svirt_t", "svirt_image_t:s0:c", "file")
    harness.run("chcon", "-l", "s0", both.shared)
    assert [harness.results(vm) for vm in vms] == [[WROTE], ["write failed: Permission denied"]]
    assert harness.short_label(both.shared) == SHARED


def test_shareable_beats_readonly(folder: str, make_image: Callable[[str], harness.Image]) -> None:
    both = _Pair(folder, make_image, readonly=True)
    plan = json.loads(harness.confined("plan", "--json", both.images[0].spec).stdout)
    labels = [resource["context"] for resource in plan["resources"] if resource["path"] == both.shared]
    assert labels == [f"system_u:object_r:{SHARED}"]
    vm = harness.boot_spec(both.images[0])
    assert harness.short_label(both.shared) == SHARED
    _io(both.sockets[0], f"read 0 {SECTOR}")
    assert harness.results(vm) == [READ]
    assert harness.short_label(both.shared) == SHARED


def test_code_generation_is_named_before_it_is_denied(folder: str, make_image: Callable[[str], harness.Image]) -> None:
    both = _Pair(folder, make_image)
    image = both.images[0]
    image.write_spec(
        accel="tcg", disks=[{"file": both.shared, "format": "raw", "shareable": True}], **HERE.tcg_in_svirt
    )
    done = harness.confined("run", image.spec)
    (line,) = harness.messages(done.stderr)
    assert done.returncode == 125
    assert "avc: denied { execmem }" in line
    assert line.endswith("run: setsebool -P virt_use_execmem on")
    assert harness.short_label(both.shared) == harness.UNUSED
