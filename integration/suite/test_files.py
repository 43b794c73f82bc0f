"""Every kind of file that a VM has: labelled, used by QEMU, denied to another VM, and put back."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from integration.suite import harness, hostile, tinyguest
from integration.suite.policies import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RAM = 4 << 20
PAUSED = ["-accel", "kvm", "-m", "32M", "-nodefaults", "-display", "none", "-S"]
HUGE_PAGES = "/proc/sys/vm/nr_hugepages"
_QUIT = b'{"execute":"quit"}\n'


def kernel() -> bytes:
    """Return what QEMU takes for a Linux kernel of boot protocol 2.12 (Documentation/arch/x86/boot.rst)."""
    image = bytearray(1 << 16)
    image[0x1F1] = 4
    image[0x202:0x208] = b"HdrS\x0c\x02"
    image[0x22C:0x230] = (0x37FFFFFF).to_bytes(4, "little")
    return bytes(image)


def write(path: str, data: bytes) -> str:
    """Make a file; its label is its folder's."""
    with open(path, "wb") as file:
        file.write(data)
    return path


class Control:
    """A QMP client to which QEMU itself connects."""

    def __init__(self, listener: socket.socket) -> None:
        listener.settimeout(harness.PATIENCE)
        self.socket, _ = listener.accept()
        self.socket.settimeout(harness.PATIENCE)
        self.file = self.socket.makefile("rw", encoding="utf-8")
        self.greeting = json.loads(self.file.readline())
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer."""
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while "event" in (answer := json.loads(self.file.readline())):
            pass
        return answer["return"]

    def close(self) -> None:
        """Hang up; QEMU goes on."""
        self.file.close()
        self.socket.close()


@pytest.fixture
def listener(folder: str) -> Iterator[socket.socket]:
    """A socket on which this test listens, as a harness or a daemon of the caller's does."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.join(folder, "agent.sock"))
        made.listen(1)
        yield made


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Some pages of 2 MiB."""
    with open(HUGE_PAGES, "w", encoding="ascii") as file:
        file.write("4")
    yield
    with open(HUGE_PAGES, "w", encoding="ascii") as file:
        file.write("0")


def _every_file(folder: str) -> tuple[list[str], list[str], list[str]]:
    """Return a command line with a file for every role, the VM's own files, and those that VMs share."""
    inside = {name: os.path.join(folder, name) for name in _CONTENT | _PRIVATE}
    for name, data in _CONTENT.items():
        write(inside[name], data)
    write(inside["vars"], tinyguest.firmware())
    write(inside["old-ram"], bytes(RAM))
    write(inside["key"], b"secret")
    for end in (".in", ".out"):
        os.mkfifo(os.path.join(folder, f"pipe{end}"))
    ram = f"memory-backend-file,size={RAM},share=on"
    arguments = [
        "-kernel", inside["kernel"], "-initrd", inside["initrd"], "-dtb", inside["dtb"],
        "-fw_cfg", f"name=opt/test,file={inside['fw']}", "-smbios", f"type=11,path={inside['smbios']}",
        "-acpitable", f"data={inside['acpi']},sig=TEST", "-drive", f"if=pflash,format=raw,file={inside['vars']}",
        "-chardev", f"file,id=s,path={inside['serial']},logfile={inside['log']}", "-serial", "chardev:s",
        "-chardev", f"pipe,id=p,path={folder}/pipe", "-serial", "chardev:p",
        "-object", f"{ram},id=new,mem-path={inside['new-ram']}",
        "-object", f"{ram},id=old,mem-path={inside['old-ram']}",
        "-object", f"{ram},id=huge,mem-path=/dev/hugepages", "-object", f"{ram},id=shm,mem-path=/dev/shm",
        "-object", f"secret,id=k,file={inside['key']}", "-pidfile", inside["pid"],
        "-chardev", f"socket,id=c,path={folder}/agent.sock", "-mon", "chardev=c,mode=control",
    ]  # fmt: skip
    private = [*(inside[name] for name in _PRIVATE), f"{folder}/pipe.in", f"{folder}/pipe.out"]
    return arguments, private, [inside[name] for name in _CONTENT]


_CONTENT = {
    "kernel": kernel(),
    "initrd": bytes(4096),
    "dtb": bytes(4096),
    "fw": b"from the host",
    "smbios": b"text",
    "acpi": bytes(64),
}
_PRIVATE = dict.fromkeys(("vars", "serial", "log", "new-ram", "old-ram", "key", "pid"))


@pytest.mark.usefixtures("huge_pages")
def test_every_file_of_a_vm(
    folder: str,
    listener: socket.socket,
    make_image: Callable[[str], harness.Image],
    hostile_qemu: str,
    audit: harness.AuditTrail,
) -> None:
    arguments, private, content = _every_file(folder)
    other = make_image("other")
    vm = harness.Process([harness.COMMAND, "exec", "--", *PAUSED, *arguments])
    control = Control(listener)
    pair = harness.level(harness.context(vm.pid))
    assert "QMP" in control.greeting
    # QEMU has them all
    assert {entry["id"] for entry in control.ask("query-memdev") if "id" in entry} >= {"new", "old", "huge", "shm"}
    assert {"s", "p", "c"} <= {entry["label"] for entry in control.ask("query-chardev")}
    assert {path: harness.short_label(path) for path in private} == dict.fromkeys(private, f"svirt_image_t:{pair}")
    assert {path: harness.short_label(path) for path in content} == {
        # an initrd is mapped, which VMs may do to no image that lies unused
        path: "virt_content_t:s0" if path.endswith("/initrd") else HERE.content
        for path in content
    }
    # another VM has none but what VMs share
    others = [path for path in private if not path.endswith((".in", ".out"))]
    targets: list[tuple[str, Any]] = [
        *(("read", path) for path in (*others, *content)),
        *(("write", p) for p in private),
    ]
    answers = hostile.attempt(other, hostile_qemu, targets)
    assert {target for target, answer in answers.items() if answer != "EACCES"} == {("read", path) for path in content}
    # where VMs may write to pipes of all levels, they may open none by name
    denied = "open" if HERE.others_pipes else "write"
    assert audit.has(denied, "svirt_t", f"svirt_image_t:{pair}", "fifo_file")
    assert audit.has("read", "svirt_t", f"svirt_image_t:{pair}", "file")
    control.file.write(_QUIT.decode())
    control.file.flush()
    assert vm.wait() == 0
    control.close()
    harness.settle()
    pidfile = os.path.join(folder, "pid")
    kept = [path for path in (*private, *content) if path != pidfile]
    assert {path: harness.short_label(path) for path in kept} == dict.fromkeys(kept, harness.UNUSED)
    assert not os.path.exists(pidfile)
    # made beforehand, of the size that QEMU gave it, and left behind as QEMU leaves it
    assert os.path.getsize(os.path.join(folder, "new-ram")) == RAM


def test_a_socket_on_which_nobody_listens(folder: str) -> None:
    """Where there is no file QEMU says so itself; where there is one, the launcher."""
    path = os.path.join(folder, "agent.sock")
    arguments = [*PAUSED, "-chardev", f"socket,id=c,path={path}"]
    missing = harness.confined("exec", "--", *arguments)
    assert missing.returncode == 1
    assert "Failed to connect" in missing.stderr
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    refused = harness.confined("exec", "--", *arguments)
    assert refused.returncode == 125
    assert refused.stderr == (
        f"confined-qemu: {path}: cannot be connected to: Connection refused\n"
        "confined-qemu:   start what listens there first, as the same user\n"
    )


def test_a_vm_may_not_connect_by_itself(
    listener: socket.socket,
    image: harness.Image,
    hostile_qemu: str,
    audit: harness.AuditTrail,
    folder: str,
) -> None:
    """Why the launcher does it: even with the VM's own label on the file the listener's domain says no."""
    path = os.path.join(folder, "agent.sock")
    with open(image.path, "wb") as file:
        file.write(b"x")
    subprocess.run(["chcon", "-t", "svirt_image_t", path], check=True)
    answer = "ok" if HERE.connects_to_people else "EACCES"
    assert hostile.attempt(image, hostile_qemu, [("connect", path)]) == {("connect", path): answer}
    denied = audit.has("connectto", "svirt_t", "unconfined_t", "unix_stream_socket")
    assert denied is not HERE.connects_to_people
    listener.close()


def test_a_folder_for_memory_is_used_or_refused_with_the_way_out(folder: str) -> None:
    asked = ["-object", f"memory-backend-file,id=m,size={RAM},mem-path={folder}"]
    done = harness.confined("exec", "--", *PAUSED, *asked)
    assert done.returncode == 125
    assert f"name a file in it (mem-path={folder}/NAME), or use memory-backend-memfd or /dev/hugepages" in done.stderr
