"""What a process of ours tells the kernel about itself (prctl(2)), by python-prctl or, where that is missing, by libc.

EL packages no python-prctl, and pip would take a compiler to build it.
"""

from __future__ import annotations

import os
import sys

from confined_qemu.model.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def die_with_parent(number: int) -> None:
    """Get this signal when the thread that forked this process ends.

    Raises:
        OSError: the kernel refuses.
    """
    module = _module()
    if module is not None:
        module.set_pdeathsig(number)
    else:
        _call(_PR_SET_PDEATHSIG, number)


def set_no_new_privs() -> None:
    """Give up that a program brings rights which this process has not.

    Raises:
        OSError: the kernel refuses.
    """
    module = _module()
    if module is not None:
        module.set_no_new_privs(1)
    else:
        _call(_PR_SET_NO_NEW_PRIVS, 1)


def _module() -> Any:
    """Return python-prctl; None where it is missing, was built for another Python, or ctypes is loaded anyway."""
    if "ctypes" in sys.modules:
        return None
    try:
        import prctl
    except ImportError:
        return None
    return prctl


def _call(option: int, value: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # prctl takes unsigned longs, and the kernel refuses what is left over in those that it does not use
    if libc.prctl(option, *(ctypes.c_ulong(word) for word in (value, 0, 0, 0))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
