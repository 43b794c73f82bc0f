#!/usr/bin/python3 -IS
"""In QEMU's place: ends at once, and leaves a process behind. What kind, the name of the VM says (`-name`).

`chain`: one that forks and ends without a pause. `loner`: one that has let go of every file. `kvm`: one that
has let go of all but a machine of KVM's, for which a thread of the kernel works in its control group.
"""

import fcntl
import os
import select
import sys

KVM_CREATE_VM = 0xAE01


def chain() -> None:
    """Be gone before anybody looks, and be there again."""
    while True:
        if os.fork() != 0:
            os._exit(0)


def loner() -> None:
    """Have nothing open by which it could be found."""
    os.closerange(0, 1 << 16)
    select.poll().poll()


def kvm() -> None:
    """Have the kernel work for a machine."""
    machine = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), KVM_CREATE_VM, 0)
    os.closerange(0, machine)
    os.closerange(machine + 1, 1 << 16)
    select.poll().poll()


os.setsid()
if os.fork() == 0:
    {"chain": chain, "loner": loner, "kvm": kvm}[
        sys.argv[sys.argv.index("-name") + 1].partition(",")[0].removeprefix("guest=")
    ]()
