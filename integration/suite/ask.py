"""Asks a monitor for the VM's status: a client that a test can start as a service."""

from __future__ import annotations

import sys

from integration.suite.harness import Qmp

if __name__ == "__main__":
    client = Qmp(sys.argv[1])
    client.greeting()
    client.ask("qmp_capabilities")
    sys.stdout.write(client.ask("query-status")["return"]["status"] + "\n")
    client.close()
