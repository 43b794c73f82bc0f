"""`xl create -F -p`: a domain is made paused, its label compared, and only then may it run; xl stays until its end.

xl exits 0 for a guest that crashed as for one that powered off: its words tell, on standard error.
"""

from __future__ import annotations

import os
import re
import select
import signal
from contextlib import contextmanager

from confined_qemu.host import xl
from confined_qemu.model.errors import HostError, printable, why
from confined_qemu.model.lean import TYPE_CHECKING
from confined_qemu.model.xen import Shutdown

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from typing import Final

    from confined_qemu.model.xen import XenPlan

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
BUILD_LIMIT: Final = 600.0
"""Seconds for xl to build a domain: it reads kernel and initrd, and hotplug scripts attach the disks."""
_WAITING: Final = "Waiting for domain"
_ENDED: Final = re.compile(r"Domain \d+ has shut down, reason code (\d+)")
_DESTROYED: Final = re.compile(r"Domain \d+ has been destroyed")
_REASONS: Final = (
    Shutdown.POWEROFF, Shutdown.REBOOT, Shutdown.SUSPEND, Shutdown.CRASH, Shutdown.WATCHDOG, Shutdown.SOFT_RESET,
)  # fmt: skip
"""By their number (xen/include/public/sched.h)."""


class Ended(Exception):
    """A signal asked for the domain's end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Creation:
    """One `xl create`, and the signals that end it."""

    def __init__(self) -> None:
        self._woken = -1
        self._text = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals as events inside the block: none ends this process before the labels are back."""
        self._woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._woken)
            os.close(wake)

    def follow(self, plan: XenPlan, live: int, say: Callable[[str], None]) -> Shutdown:
        """Create the domain and return how it ended; xl inherits `live`, whose lock says that it is at work.

        Raises:
            HostError: Xen refuses it, or its label is not the one asked for. The caller destroys what is there.
            Ended: a signal came. The same.
        """
        process = _create(plan, live)
        try:
            self._await(process, lambda: _WAITING in self._text, BUILD_LIMIT)
            if _WAITING not in self._text:
                raise HostError(*_refusal(self._text, plan))
            number = _compared(plan)
            said = xl.run("unpause", str(number))
            if said.code:
                raise HostError(f"the domain cannot be unpaused: {said.reason}")
            say(f"{plan.name}: runs as domain {number}, {plan.label}; its console: xl console {plan.name}")
            self._await(process, lambda: False, None)
        finally:
            # a domain that it was building is found and destroyed by its uuid
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
        return self._ended(process.returncode)

    def _await(self, process: subprocess.Popen[bytes], over: Callable[[], bool], limit: float | None) -> None:
        """Read what xl says until `over`, or until it ends.

        Raises:
            Ended: a signal came first.
            HostError: `limit` seconds are over.
        """
        import time

        assert process.stderr is not None  # noqa: S101 - narrows the type: it is a pipe
        said = process.stderr.fileno()
        poll = select.poll()
        for number in (said, self._woken):
            poll.register(number, select.POLLIN)
        deadline = time.monotonic() + limit if limit is not None else None
        while not over():
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = {number for number, _ in poll.poll(left)}
            if self._woken in ready:
                raise Ended(os.read(self._woken, 1)[0])
            if said not in ready:
                raise HostError(f"xl create did not answer in {limit:.0f} s", hint="see: systemctl status xen")
            data = os.read(said, 65536)
            if not data:
                process.wait()
                return
            self._text += data.decode(errors="replace")

    def _ended(self, code: int) -> Shutdown:
        if (found := _ENDED.search(self._text)) is not None and int(found[1]) < len(_REASONS):
            return _REASONS[int(found[1])]
        if _DESTROYED.search(self._text):
            return Shutdown.DESTROYED
        raise HostError(f"xl ended with {code} and did not say how the domain did: {_last(self._text)}")


def _create(plan: XenPlan, live: int) -> subprocess.Popen[bytes]:
    """Start xl in a session of its own, so that a terminal's ^C ends the domain by way of this process."""
    import subprocess

    me = os.getpid()

    def before_exec() -> None:
        from confined_qemu.host import processcontrol

        processcontrol.die_with_parent(signal.SIGKILL)
        if os.getppid() != me:
            os._exit(1)

    config = os.memfd_create("xl.cfg", os.MFD_CLOEXEC)
    os.write(config, os.fsencode(plan.config))
    try:
        return subprocess.Popen(
            [xl.find(), "create", "-F", "-p", f"/proc/self/fd/{config}"], env=xl.ENVIRONMENT, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            pass_fds=(config, live), start_new_session=True, preexec_fn=before_exec,  # noqa: PLW1509 - there is one thread
        )  # fmt: skip
    except OSError as error:
        raise HostError(f"xl cannot be executed: {why(error)}") from error
    finally:
        os.close(config)


def _compared(plan: XenPlan) -> int:
    """Return the paused domain's number, if its label is the one that was asked for.

    Raises:
        HostError: it is not, or the domain is not there.
    """
    found = xl.with_uuid(plan.uuid)
    if found is None:
        raise HostError("xl made no domain with the uuid that it was given")
    if found.label != plan.label:
        what = f"the domain's label is {printable(found.label or 'none')}, and {plan.label} was asked for"
        raise HostError(f"{what}; it was destroyed before it ran", hint="ask for it as Flask gives it back")
    return found.number


def _refusal(text: str, plan: XenPlan) -> tuple[str]:
    """Return why xl made no domain: Flask's own words where it was that."""
    denied = [line for line in xl.denials() if str(plan.label).partition(":s0")[0] in line]
    if "Permission denied" in text and denied:
        return (f"Flask does not let the domain {plan.name} be {plan.label}: {denied[-1]}",)
    return (f"xl made no domain {plan.name}: {_last(text)}",)


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if not line.startswith("Parsing config")]
    told = [line for line in lines if "error" in line.lower()] or lines
    return printable(told[0]) if told else "it said nothing"
