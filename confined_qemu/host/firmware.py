"""The host's descriptors of QEMU's firmware: which files in which order (QEMU's `docs/interop/firmware.json`)."""

from __future__ import annotations

import os

from confined_qemu.model.errors import HostError, why

SYSTEM = ("/usr/share/qemu/firmware", "/etc/qemu/firmware")
"""The distribution's folder and the administrator's, whose files stand in the place of those of the same name."""
_LARGEST = 1 << 20
_MOST = 256


def descriptors() -> tuple[str, ...]:
    """Return the descriptors' texts in the order of their names; one that is empty masks another of its name.

    A user's own, in `$XDG_CONFIG_HOME/qemu/firmware`, come before the administrator's.

    Raises:
        HostError: there are too many, or one cannot be read or is no descriptor by its size.
    """
    folders = list(SYSTEM)
    if os.geteuid() != 0:
        config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        folders.append(os.path.join(config, "qemu", "firmware"))
    places = {name: os.path.join(folder, name) for folder in folders for name in _names(folder)}
    if len(places) > _MOST:
        raise HostError(f"more than {_MOST} firmware descriptors", where=folders[0])
    texts = (_text(places[name]) for name in sorted(places))
    return tuple(text for text in texts if text)


def _names(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(".json")]
    except OSError:
        return []  # libvirt takes a folder that it may not read for one that is not there


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise HostError(f"cannot be read: {why(error)}", where=path) from error
    if len(data) > _LARGEST:
        raise HostError(f"larger than {_LARGEST} bytes", where=path, hint="is it a firmware descriptor?")
    return data.decode("utf-8", "replace")
