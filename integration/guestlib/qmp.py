"""Talks to a running QEMU over its machine protocol (QMP)."""

import json
import socket
from types import TracebackType
from typing import Any, Self

from integration.guestlib.report import GuestError

ANSWER_LIMIT = 90.0  # seconds


class Monitor:
    """One QMP connection; `log` is where QEMU's own last words are, for errors."""

    def __init__(self, connection: socket.socket, log: str) -> None:
        connection.settimeout(ANSWER_LIMIT)
        self._connection = connection
        self._stream = connection.makefile("rw", encoding="utf-8")
        self._log = log
        self._events: list[dict[str, Any]] = []
        self._read()
        self.execute("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()
        self._connection.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its answer.

        Raises:
            GuestError: QEMU refused it, ended, or did not answer in time.
        """
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            message = self._read()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise GuestError(f"QEMU refused {command}: {message['error']['desc']}")
            self._events.append(message)

    def wait(self, event: str, **data: Any) -> dict[str, Any]:
        """Wait for an event of this name whose data contains `data`."""
        while True:
            for message in self._events:
                if message["event"] == event and data.items() <= message.get("data", {}).items():
                    self._events.remove(message)
                    return message
            self._events.append(self._read())

    def human(self, line: str) -> str:
        """Run a line of the human monitor and return what it prints."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def _read(self) -> dict[str, Any]:
        try:
            line = self._stream.readline()
        except ConnectionError:
            line = ""
        except TimeoutError as error:
            raise GuestError(f"QEMU did not answer for {ANSWER_LIMIT:.0f} s; see {self._log}") from error
        if not line:
            raise GuestError(f"QEMU has ended; see {self._log}")
        message: dict[str, Any] = json.loads(line)
        return message
