"""A VM's text screen and keyboard over QMP: reads the VGA memory, types keys. For guests without a serial shell."""

import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any

VGA_TEXT = 0xB8000
COLUMNS, ROWS = 80, 25
LOOK_EVERY = 0.2
"""Seconds between two looks at the screen, which tells nobody when it changes."""
_SHIFTED = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
_NAMES = {
    " ": "spc", "\n": "ret", "-": "minus", "=": "equal", "[": "bracket_left", "]": "bracket_right", ";": "semicolon",
    "'": "apostrophe", "`": "grave_accent", "\\": "backslash", ",": "comma", ".": "dot", "/": "slash",
}  # fmt: skip


class ScreenError(Exception):
    """QEMU cannot be asked, or the screen never showed what was waited for; one line."""


class Screen:
    """The screen of the VM whose QMP socket is at `path`; waits until that socket answers."""

    def __init__(self, path: str, patience: float) -> None:
        self._patience = patience
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(patience)
        self._connect(path, time.monotonic() + patience)
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._answer()
        self._ask("qmp_capabilities")

    def text(self) -> str:
        """Return what is on the screen, without the blanks at line ends and at its end."""
        dump = self._ask("human-monitor-command", **{"command-line": f"xp /{COLUMNS * ROWS}hx {VGA_TEXT:#x}"})
        cells = [int(cell, 16) & 0xFF for row in dump.splitlines() for cell in row.partition(":")[2].split()]
        letters = "".join(chr(cell) if 0x20 <= cell < 0x7F else " " for cell in cells)
        rows = [letters[start : start + COLUMNS].rstrip() for start in range(0, len(letters), COLUMNS)]
        return "\n".join(rows).rstrip()

    def wait_for(self, found: Callable[[str], bool], what: str) -> None:
        """Look until the screen satisfies `found`."""
        deadline = time.monotonic() + self._patience
        while not found(text := self.text()):
            if time.monotonic() > deadline:
                raise ScreenError(f"{what} never came; the screen showed: {text[-200:]!r}")
            select.select([], [], [], LOOK_EVERY)

    def type(self, line: str) -> None:
        """Type a line on the keyboard; QEMU queues the keys."""
        for letter in line + "\n":
            plain = _SHIFTED.get(letter, letter.lower())
            keys = ["shift"] if plain != letter else []
            name = _NAMES.get(plain, plain)
            self._ask("send-key", keys=[{"type": "qcode", "data": key} for key in [*keys, name]])

    def _connect(self, path: str, deadline: float) -> None:
        while True:
            try:
                self._socket.connect(path)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > deadline:
                    raise ScreenError(f"{path}: QEMU does not listen there: {error.strerror}") from error
                select.select([], [], [], LOOK_EVERY)
            else:
                return

    def _ask(self, command: str, **arguments: Any) -> Any:
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        answer = self._answer()
        while "event" in answer:
            answer = self._answer()
        if "error" in answer:
            raise ScreenError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def _answer(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise ScreenError("QEMU has ended")
        found: dict[str, Any] = json.loads(line)
        return found
