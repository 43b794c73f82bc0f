"""Attaches to a tap device (Linux' Documentation/networking/tuntap.rst), as libvirt does it for its VMs."""

from __future__ import annotations

import errno
import fcntl
import os

from confined_qemu.model.errors import HostError, shell_word, why
from confined_qemu.model.resource import TUN

_TUNGETFEATURES, _TUNSETIFF = 0x800454CF, 0x400454CA
"""_IOR('T', 207, unsigned int) and _IOW('T', 202, int) of linux/if_tun.h."""
_TAP, _NO_HEADER, _ONE_QUEUE, _HEADERS = 0x0002, 0x1000, 0x2000, 0x4000
"""IFF_TAP, IFF_NO_PI, IFF_ONE_QUEUE, IFF_VNET_HDR."""
_NAME, _REQUEST = 16, 40
"""Bytes of a name and of a `struct ifreq`."""


def attached(interface: str, *, headers: bool) -> int:
    """Return a descriptor of a tap device that is there, with the flags that QEMU gives it (`net/tap-linux.c`).

    Raises:
        HostError: it cannot be attached to.
    """
    features = bytearray(4)
    try:
        tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(tap, _TUNGETFEATURES, features)
            offered = int.from_bytes(features, "little")
            flags = _TAP | _NO_HEADER | (offered & _ONE_QUEUE) | (offered & _HEADERS if headers else 0)
            name = os.fsencode(interface).ljust(_NAME, b"\0")
            fcntl.ioctl(tap, _TUNSETIFF, (name + flags.to_bytes(2, "little")).ljust(_REQUEST, b"\0"))
        except OSError:
            os.close(tap)
            raise
    except OSError as error:
        raise HostError(
            f"the tap device cannot be attached to: {why(error)}", where=interface, hint=_hint(error, interface)
        ) from error
    return tap


def _hint(error: OSError, interface: str) -> str:
    if error.errno == errno.EBUSY:
        return "end what is attached to it, or name another one"
    return f"make it for your user: ip tuntap add {shell_word(interface)} mode tap user $(id -un)"
