"""A VM's TPM and shares as QEMU's arguments, with the helpers that serve them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confined_qemu.model.commas import escape
from confined_qemu.model.helper import Helper, HelperKind
from confined_qemu.model.resource import Access, Resource, Role, Sharing
from confined_qemu.read.spec.helpers import Share, ShareDriver, needs_shared_memory

if TYPE_CHECKING:
    from confined_qemu.read.spec.command import Command

_QUEUE = 1024
"""The most that a virtiofs device takes (QEMU's `-device vhost-user-fs-pci,help`); libvirt's example too."""


def tpm(command: Command) -> None:
    """Add the TPM: QEMU gets its end of swtpm's control channel as a descriptor."""
    wanted = command.vm.tpm
    if wanted is None:
        return
    helper = Helper(HelperKind.SWTPM, "tpm", command.path(wanted.state), "tpm.state", version=wanted.version)
    command.helpers.append(helper)
    command.add("-chardev", f"socket,id=vm-tpm,fd={{{helper.name}}}")
    command.add("-tpmdev", "emulator,id=vm-tpm0,chardev=vm-tpm")
    command.add("-device", f"{wanted.model},tpmdev=vm-tpm0")


def shares(command: Command) -> None:
    """Add the shares; one by virtiofsd needs the guest's memory where virtiofsd can map it."""
    vm = command.vm
    if needs_shared_memory(vm.shares):
        command.add("-object", f"memory-backend-memfd,id=vm-memory,size={vm.memory},share=on")
        command.add("-machine", "memory-backend=vm-memory")
    for number, share in enumerate(vm.shares):
        (_virtiofs if share.driver is ShareDriver.VIRTIOFS else _nine_p)(command, number, share)


def _virtiofs(command: Command, number: int, share: Share) -> None:
    name = f"share{number}"
    source = f"shares[{number}].dir"
    helper = Helper(
        HelperKind.VIRTIOFSD,
        name,
        command.path(share.dir),
        source,
        readonly=share.readonly,
        relabel=share.relabel,
    )
    command.helpers.append(helper)
    bus = "device" if command.vm.machine == "microvm" else "pci"
    command.add("-chardev", f"socket,id=vm-{name},fd={{{name}}}")
    command.add("-device", f"vhost-user-fs-{bus},chardev=vm-{name},tag={share.tag},queue-size={_QUEUE}")


def _nine_p(command: Command, number: int, share: Share) -> None:
    name, path = f"vm-share{number}", command.path(share.dir)
    access = Access.READ if share.readonly else Access.DIRECTORY
    source = f"shares[{number}].dir"
    found = Resource(path, Role.FILESYSTEM, access, Sharing.UNLABELLED, source, relabel=share.relabel or None)
    command.resources.append(found)
    # mapped: QEMU's domain may set no owner, so owners and modes are kept in attributes of the files
    readonly = "on" if share.readonly else "off"
    fixed = f"local,id={name},security_model=mapped-xattr,multidevs=remap,readonly={readonly}"
    command.add("-fsdev", f"{fixed},path={escape(path)}")
    command.add("-device", f"{command.virtio('9p')},fsdev={name},mount_tag={share.tag}")
