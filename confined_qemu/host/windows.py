"""Whether a VM's window is on an X server, and the file by which the server knows its user (libXau)."""

from __future__ import annotations

import os

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.frozen import replace

if TYPE_CHECKING:
    from confined_qemu.model.invocation import Invocation


def found(invocation: Invocation) -> Invocation:
    """Return the invocation with its window as this environment has it: none where no X server is used for it."""
    driver = os.environ.get("SDL_VIDEODRIVER", "x11") if invocation.window == "sdl" else os.environ.get("GDK_BACKEND")
    wayland = driver == "wayland" or (driver is None and bool(os.environ.get("WAYLAND_DISPLAY")))
    if wayland or not os.environ.get("DISPLAY"):
        return replace(invocation, window=None)
    key = os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority")
    there = os.path.isabs(key) and os.path.exists(key)
    return replace(invocation, x_key=os.path.realpath(key) if there else None)
