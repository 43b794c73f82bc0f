"""The environment as the caller handed it over, before Python or the dynamic loader touched it."""

from __future__ import annotations


def initial() -> dict[bytes, bytes]:
    """Return the environment block of the exec that started this process.

    The loader drops TMPDIR, LD_LIBRARY_PATH and others from `os.environ` when the launcher enters its domain
    (AT_SECURE), and Python may add LC_CTYPE; `/proc/self/environ` still holds what the caller set.
    """
    with open("/proc/self/environ", "rb") as file:
        block = file.read()
    variables: dict[bytes, bytes] = {}
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and name:
            variables.setdefault(name, value)
    return variables
