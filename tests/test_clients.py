"""The command lines of clients, as their sources make them: nothing is refused, and each file is what it is there."""

from __future__ import annotations

from confined_qemu.model.resource import Access
from confined_qemu.model.steps import Copy
from confined_qemu.plan.planner import plan as make_plan
from confined_qemu.read.qemu.reader import read
from tests.worlds import World

VIRTME = """-fsdev local,id=virtfs1,path=/,security_model=none,readonly=on,multidevs=remap
-device virtio-9p-pci,fsdev=virtfs1,mount_tag=/dev/root -device i6300esb,id=watchdog0 -machine q35 -cpu max
-parallel none -net none -vga none -display none -serial chardev:console -chardev file,id=console,path=/dev/null
-chardev stdio,id=stdin,signal=on,mux=off -device virtio-serial-pci
-device virtserialport,name=virtme.stdin,chardev=stdin -chardev file,id=stdout,path=/proc/self/fd/1
-device virtio-serial-pci -device virtserialport,name=virtme.stdout,chardev=stdout
-chardev file,id=ret,path=/tmp/virtme_ret1 -device virtio-serial-pci
-device virtserialport,name=virtme.ret,chardev=ret -no-reboot -kernel /boot/vmlinuz-6.1 -append init=/x"""
LABGRID = """-kernel /srv/lab/bzImage -drive if=virtio,format=qcow2,file=/srv/lab/root.qcow2 -machine q35 -cpu max
-m 256M
-nographic -nic user,model=virtio-net-pci -append root=/dev/vda -S -qmp stdio
-chardev socket,id=serialsocket,path=/tmp/labgrid-qemu-tmp-1/serialrw -serial chardev:serialsocket"""


def test_virtme_ng_boots_the_hosts_own_kernel() -> None:
    invocation = read("qemu-system-x86_64", VIRTME.split())
    assert [(one.path, str(one.role)) for one in invocation.resources] == [
        ("/", "filesystem"),
        ("/dev/null", "chardev"),
        ("/proc/self/fd/1", "chardev"),
        ("/tmp/virtme_ret1", "chardev"),  # noqa: S108 - text only
        ("/boot/vmlinuz-6.1", "kernel"),
    ]
    closed = [
        *([kind, "boot_t", "file", "open read map"] for kind in ("svirt_t", "svirt_tcg_t")),
        ["confined_qemu_t", "boot_t", "file", "relabelfrom relabelto"],
    ]
    kernel = {"label": "system_u:object_r:boot_t:s0", "size": 1}
    root = {"label": "system_u:object_r:root_t:s0", "kind": "dir"}
    world = World(files={"/boot/vmlinuz-6.1": kernel, "/": root}, denied=closed)
    plan = make_plan(invocation, world.facts(invocation), world.rules())
    assert plan.refusals == ()
    [copy] = [step for step in plan.steps if isinstance(step, Copy)]
    assert copy.source == "/boot/vmlinuz-6.1"
    assert plan.arguments[plan.arguments.index("-kernel") + 1] == copy.path


def test_labgrid_gets_its_serial_line() -> None:
    invocation = read("qemu-system-x86_64", LABGRID.split())
    [socket] = invocation.listeners
    assert (socket.path, socket.access) == ("/tmp/labgrid-qemu-tmp-1/serialrw", Access.CONNECT)  # noqa: S108 - text only
    assert [one.path for one in invocation.resources if one.access is not Access.CONNECT] == [
        "/srv/lab/bzImage",
        "/srv/lab/root.qcow2",
    ]
