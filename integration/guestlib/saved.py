"""The saved state of a booted guest: memory and overlay, so that later guests start where a boot ended.

A boot takes half a minute, going on from the saved state two seconds. The state belongs to one disk, one QEMU version
and one machine: all three are in its key.
"""

import os
import shlex

from integration.guestlib import cache, programs
from integration.guestlib.qmp import Monitor
from integration.guestlib.report import progress


def key(image: str, machine: list[str]) -> str:
    """Return the key of the state of a guest image on a machine (the options that the guest can notice)."""
    return cache.digest(os.path.basename(image), programs.run(["qemu-system-x86_64", "--version"]), *machine)


def find(policy: str, state_key: str) -> str | None:
    """Return the folder of a saved state, or None where none was saved."""
    path = os.path.join(cache.folder(), f"saved-{policy}-{state_key}")
    return path if os.path.isdir(path) else None


def overlay(folder: str) -> str:
    """Return the disk of a saved state: an overlay on the image's disk."""
    return os.path.join(folder, "overlay")


def resume(monitor: Monitor, folder: str) -> None:
    """Load a saved state into a QEMU that was started with `-incoming defer`, and let it run."""
    _report_progress(monitor)
    monitor.execute("migrate-incoming", uri=f"exec:cat {shlex.quote(os.path.join(folder, 'memory'))}")
    monitor.wait("MIGRATION", status="completed")
    # It was saved while it stood still, and comes back so.
    monitor.execute("cont")


def _report_progress(monitor: Monitor) -> None:
    """Let QEMU send an event when a migration is over."""
    monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])


def save(policy: str, state_key: str, monitor: Monitor, disk: str) -> None:
    """Save the running guest that `monitor` talks to; `disk` is its overlay. It runs on afterwards."""

    def build(path: str) -> None:
        progress("saving its state, so that the next start takes seconds")
        os.mkdir(path, mode=0o700)
        monitor.execute("stop")
        try:
            _report_progress(monitor)
            monitor.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            monitor.execute("migrate", uri=f"exec:cat > {shlex.quote(os.path.join(path, 'memory'))}")
            monitor.wait("MIGRATION", status="completed")
            programs.run(["cp", "--sparse=always", disk, overlay(path)])
        finally:
            monitor.execute("cont")

    cache.entry(f"saved-{policy}", state_key, build)
