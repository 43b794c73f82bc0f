"""Waits until a file system is on its disk (syncfs(2)), which Python has no function for."""

from __future__ import annotations

import os


def syncfs(descriptor: int) -> None:
    """Write to disk all that has changed on the file system of an open descriptor (no O_PATH).

    Raises:
        OSError: a part of it could not be written.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
