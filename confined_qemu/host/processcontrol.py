"""What a process of ours tells the kernel about itself (prctl(2)), by python-prctl or, where that is missing, by libc.

EL packages no python-prctl, and pip would take a compiler to build it. Its C part is called: the module around that
makes wrappers for all of prctl(2) when it is loaded, which took a tenth of a start.
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
    _set(_PR_SET_PDEATHSIG, number)


def set_no_new_privs() -> None:
    """Give up that a program brings rights which this process has not.

    Raises:
        OSError: the kernel refuses.
    """
    _set(_PR_SET_NO_NEW_PRIVS, 1)


def _set(option: int, value: int) -> None:
    module = _module()
    if module is not None:
        module.prctl(option, value)
    else:
        _call(option, value)


def _module() -> Any:
    """Return python-prctl's C part; None where it is missing, is another Python's, or ctypes is loaded anyway."""
    if "ctypes" in sys.modules:
        return None
    try:
        import _prctl
    except ImportError:
        return None
    return _prctl


def _call(option: int, value: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # prctl takes unsigned longs, and the kernel refuses what is left over in those that it does not use
    if libc.prctl(option, *(ctypes.c_ulong(word) for word in (value, 0, 0, 0))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
