"""Sends commands to a QMP socket and prints an answer a line: a client that a test can start at another level."""

from __future__ import annotations

import json
import sys

from integration.suite.harness import Qmp

if __name__ == "__main__":
    client = Qmp(sys.argv[1])
    client.greeting()
    client.ask("qmp_capabilities")
    for text in sys.argv[2:]:
        command, arguments = json.loads(text)
        sys.stdout.write(json.dumps(client.ask(command, **arguments)) + "\n")
    client.close()
