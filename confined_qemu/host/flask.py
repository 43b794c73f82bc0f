"""The door to Xen's Flask, by Xen's own library: which contexts its loaded policy knows. It changes nothing."""

from __future__ import annotations

import ctypes
import errno
import glob
import os

from confined_qemu.model.errors import HostError
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final


_PLACES: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
_MOST: Final = 1 << 14
"""More categories than any policy has: a category's number has four digits at most (model.mcs)."""
_PROBE: Final = "system_u:system_r:domU_t"
_MOST_OF_A_DOMAIN: Final = 4096
"""Bytes, more than what Xen's library says of one: 0.1 KiB."""


@dataclass(frozen=True, slots=True)
class LoadedFlask:
    """The policy that Flask has loaded, asked through an open handle of libxenctrl (`model.xen.FlaskPolicy`)."""

    library: Any
    handle: Any

    def knows(self, label: str) -> bool:
        """Tell whether `label` is one of its contexts (FLASK_CONTEXT_TO_SID)."""
        text = os.fsencode(label) + b"\0"
        number = ctypes.c_uint32()
        return bool(self.library.xc_flask_context_to_sid(self.handle, text, len(text), ctypes.byref(number)) == 0)

    def categories(self) -> int:
        """Return how many categories it has, by asking: a policy has c0 to its last one without a gap."""
        base = _PROBE
        if not self.knows(f"{base}:s0:c0"):
            return 0
        known, unknown = 0, _MOST
        while unknown - known > 1:
            middle = (known + unknown) // 2
            known, unknown = (middle, unknown) if self.knows(f"{base}:s0:c{middle}") else (known, middle)
        return known + 1

    def hides_one(self, listed: Iterable[int]) -> bool:
        """Tell whether there is a domain besides those `listed`, dom0 among them, that Flask does not let us see.

        A listing leaves such a one out without a word. Asked for the first domain from a number on, Xen says no.

        Raises:
            HostError: Xen's library cannot be asked.
        """
        answer = ctypes.create_string_buffer(_MOST_OF_A_DOMAIN)
        words: tuple[Any, ...]
        if hasattr(self.library, "xc_domain_getinfo"):
            ask, words = self.library.xc_domain_getinfo, (ctypes.c_uint(1), answer)
        elif hasattr(self.library, "xc_domain_getinfo_single"):  # since Xen 4.18
            ask, words = self.library.xc_domain_getinfo_single, (answer,)
        else:
            raise HostError("Xen's library libxenctrl has no call that asks for a domain")
        for number in listed:
            code = ask(self.handle, ctypes.c_uint32(number + 1), *words)
            if code < 0 and ctypes.get_errno() in (errno.EACCES, errno.EPERM):
                return True
        return False


def loaded() -> LoadedFlask:
    """Return the loaded policy.

    Raises:
        HostError: Xen's library is not there, or the hypervisor cannot be asked.
    """
    found = sorted(path for place in _PLACES for path in glob.glob(f"{place}/libxenctrl.so.*"))
    running = [path for path in found if path.endswith(f"libxenctrl.so.{_version()}")] or found
    if not running:
        raise HostError("Xen's library libxenctrl is not installed", hint="install Xen's tools")
    try:
        library = ctypes.CDLL(running[0], use_errno=True)
    except OSError as error:
        raise HostError(f"{running[0]} cannot be loaded: {error}", hint="is it that of the Xen that runs?") from error
    library.xc_interface_open.restype = ctypes.c_void_p
    library.xc_flask_context_to_sid.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32),
    ]  # fmt: skip
    handle = ctypes.c_void_p(library.xc_interface_open(None, None, 0))
    if not handle:
        reason = os.strerror(ctypes.get_errno())
        raise HostError(f"the hypervisor cannot be asked: {reason}", hint="run as root in dom0")
    return LoadedFlask(library, handle)


def _version() -> str:
    """Return the version of the Xen that runs (`4.17`), empty where the kernel does not say."""
    parts = []
    for name in ("major", "minor"):
        try:
            with open(f"/sys/hypervisor/version/{name}", encoding="ascii") as file:
                parts.append(file.read().strip())
        except OSError:
            return ""
    return ".".join(parts)
