"""Whether a QEMU command line leaves somebody who can have QEMU open files later. Pure.

What is not understood counts as somebody. Sources: `softmmu/vl.c` (`qemu_create_default_devices`), `monitor/`, and
`gdbstub.c` (`handle_query_rcmd`: a debugger has a monitor of its own).
"""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.read.qemu.keyvals import words

if TYPE_CHECKING:
    from collections.abc import Sequence

_MONITORS = frozenset({"qmp", "qmp-pretty", "monitor"})
_OTHERS = frozenset({"mon", "gdb", "s", "qtest", "readconfig", "plugin"})
"""A monitor by another name, a debugger, or options that are not looked into."""
_HIDDEN = frozenset({"none", "egl-headless"})
"""Displays on which nobody sees the monitor that QEMU makes by itself."""
_WINDOWS = frozenset({"gtk", "sdl", "spice-app", "cocoa", "dbus"})
"""Displays with menus, and with files of their own that are opened as they are needed."""
_LATER = frozenset({"usb-host"})
"""What looks for devices as they come."""


def opens_later(arguments: Sequence[str]) -> bool:
    """Tell whether QEMU may be told to open more than its command line names."""
    given = [word.lstrip("-") if word.startswith("-") and word != "-" else "" for word in arguments]
    options = list(zip(given, [*arguments[1:], ""], strict=False))
    named = set(given)
    if named & _OTHERS or words(arguments) & _LATER:
        return True
    if any(value != "none" for option, value in options if option in _MONITORS):
        return True
    if any(value.startswith("mon:") for option, value in options if option in {"serial", "parallel", "debugcon"}):
        return True
    displays = {value.partition(",")[0] for option, value in options if option == "display"}
    if displays & _WINDOWS or named & {"sdl"}:
        return True
    # the monitor that QEMU makes by itself: on standard input, or on a console of the display
    by_itself = not named & {"nodefaults", *_MONITORS}
    hidden = displays and displays <= _HIDDEN and not named & {"nographic", "vnc", "spice", "curses"}
    return by_itself and not hidden
