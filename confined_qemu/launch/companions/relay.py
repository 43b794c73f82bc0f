"""The relay: copies between a socket that the VM may not use and one made for it.

Runs as a program of its own (`python3 -IS relay.py PIDFD CONTEXT CLIENT LIVE WORK…`). A caller in a login shell makes
sockets at `s0-s0:c0.c1023`, and what QEMU accepts takes the client's range: on Debian a VM at its own pair may use
neither.
LIVE is a descriptor of the VM's live file, -1 where the context is the VM's own.
WORK is `pair:OUTER:INNER` (two descriptors) or `listen:OUTER:PATH` (a listener, and the socket that QEMU listens on).
"""

import os
import selectors
import socket
import stat
import sys

_NOW = socket.MSG_DONTWAIT
"""Never O_NONBLOCK: the caller's socket shares its flags with the caller."""
CHUNK = 65536
"""Bytes copied at a time."""
_BACKLOG_OF_BYTES = 4 * CHUNK
"""Bytes held for a slow reader before the writer waits."""
_SOON, _TRIES = 0.02, 25
"""Seconds between two looks for a socket that a client waits for, and how often one that refuses is asked again."""


class _Half:
    """One direction of a relayed connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.buffer = bytearray()
        self.ended = False
        self.shut = False


class _Relay:
    def __init__(self, context: str, client: str, live: int = -1) -> None:
        self.context = context
        self.live = live
        self.client = client
        self.selector = selectors.DefaultSelector()
        self.halves: dict[socket.socket, _Half] = {}
        self.sinks: dict[socket.socket, _Half] = {}
        self.listeners: dict[socket.socket, str] = {}
        self.registered: dict[socket.socket, int] = {}
        self.early: list[tuple[socket.socket, str, int]] = []

    def connect_pair(self, outer: socket.socket, inner: socket.socket) -> None:
        for source, sink in ((outer, inner), (inner, outer)):
            half = _Half(source, sink)
            self.halves[source] = half
            self.sinks[sink] = half
        self._watch(outer)
        self._watch(inner)

    def listen(self, outer: socket.socket, path: str) -> None:
        self.listeners[outer] = path
        self.selector.register(outer, selectors.EVENT_READ, self._accept)

    def _accept(self, listener: socket.socket, _: int) -> None:
        try:
            outer, _address = listener.accept()
        except OSError:
            return
        self._reach(outer, self.listeners[listener], _TRIES)

    def _reach(self, outer: socket.socket, path: str, tries: int) -> None:
        """Connect a client to QEMU; a socket that QEMU makes itself may still be on its way."""
        try:
            self.connect_pair(outer, self._as_vm(path))
        except FileNotFoundError:
            self.early.append((outer, path, tries))
        except ConnectionRefusedError:
            # between QEMU's bind and its listen; or it has hung up for good (-incoming)
            if tries:
                self.early.append((outer, path, tries - 1))
            else:
                outer.close()
        except OSError:
            outer.close()

    def _as_vm(self, path: str) -> socket.socket:
        """Connect with a socket at the VM's level, so that what QEMU accepts is at that level too.

        Its type stays the launcher's, as libvirt's stays its own: a VM's type may not connect to a VM.
        """
        there = _opened(path)
        _write_attribute(self.client)
        try:
            inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        finally:
            _write_attribute("")
        try:
            # the very socket that was looked at
            inner.connect(b"/proc/self/fd/%d" % there)
        except OSError:
            inner.close()
            raise
        finally:
            os.close(there)
        return inner

    def _watch(self, end: socket.socket) -> None:
        """Listen for what this end can do now: be read, unless its other side is slow; be written, if bytes wait."""
        events = 0
        outgoing, incoming = self.halves.get(end), self.sinks.get(end)
        if outgoing is not None and not outgoing.ended and len(outgoing.buffer) < _BACKLOG_OF_BYTES:
            events |= selectors.EVENT_READ
        if incoming is not None and incoming.buffer:
            events |= selectors.EVENT_WRITE
        if events == self.registered.get(end, 0):
            return
        if not events:
            self.selector.unregister(end)
        elif self.registered.get(end):
            self.selector.modify(end, events, self._move)
        else:
            self.selector.register(end, events, self._move)
        self.registered[end] = events

    def _move(self, end: socket.socket, events: int) -> None:
        if events & selectors.EVENT_READ and end in self.halves:
            self._read(self.halves[end])
        if events & selectors.EVENT_WRITE and end in self.sinks:
            self._write(self.sinks[end])

    def _read(self, half: _Half) -> None:
        try:
            data = half.source.recv(CHUNK, _NOW)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        half.buffer += data
        half.ended = not data
        self._write(half)

    def _write(self, half: _Half) -> None:
        try:
            if half.buffer:
                del half.buffer[: half.sink.send(half.buffer, _NOW)]
        except BlockingIOError:
            pass
        except OSError:
            half.buffer.clear()
            half.ended = True
        if half.ended and not half.buffer and not half.shut:
            half.shut = True
            _shut(half.sink)
        self._watch(half.source)
        self._watch(half.sink)
        if half.shut and self.halves[half.sink].shut:
            self._forget(half)

    def _forget(self, half: _Half) -> None:
        for end in (half.source, half.sink):
            if self.registered.pop(end, 0):
                self.selector.unregister(end)
            self.halves.pop(end, None)
            self.sinks.pop(end, None)
            end.close()

    def run(self, pidfd: int) -> None:
        """Copy until QEMU has ended and what it wrote has been handed on."""
        self.selector.register(pidfd, selectors.EVENT_READ, None)
        alive = True
        while True:
            ready = self.selector.select(_SOON if self.early else None)
            waiting, self.early = self.early, []
            for outer, path, tries in waiting:
                self._reach(outer, path, tries)
            for key, events in ready:
                if key.data is None:
                    self.selector.unregister(pidfd)
                    os.close(pidfd)
                    pidfd = _next_process(self.context, self.live)
                    alive = pidfd >= 0
                    if alive:
                        self.selector.register(pidfd, selectors.EVENT_READ, None)
                else:
                    key.data(key.fileobj, events)
            if not alive:
                self._drain()
                return

    def _drain(self) -> None:
        """Hand on what QEMU wrote last, and end what waits for it."""
        for outer, _, _ in self.early:
            outer.close()
        for half in list(self.halves.values()):
            try:
                half.sink.sendall(half.buffer)
                while data := half.source.recv(CHUNK, _NOW):
                    half.sink.sendall(data)
            except OSError:
                continue


def _next_process(context: str, live: int) -> int:
    """Return a descriptor that is ready when what the VM left behind (`-daemonize`) has ended, -1 for nothing."""
    # last: what lies beside the package is in no module's place
    own = os.path.dirname(os.path.abspath(__file__)).removesuffix("/__pycache__")
    sys.path.append(os.path.normpath(os.path.join(own, *[os.pardir] * 3)))
    if live >= 0:
        return _end_of_holders(live)
    from confined_qemu.launch.companions.survivors import survivors

    found = survivors(context)
    for pidfd in found[1:]:
        os.close(pidfd)
    return found[0] if found else -1


def _end_of_holders(live: int) -> int:
    """Return a pipe that closes when nobody holds the live file any more, -1 when nobody does now."""
    from threading import Thread

    from confined_qemu.host import locks

    if locks.obstacle(live, locks.SHARED) is None:
        return -1
    end, closed = os.pipe()

    def wait() -> None:
        locks.wait_for_others(live)
        os.close(closed)

    Thread(target=wait, daemon=True).start()
    return end


def _opened(path: str) -> int:
    """Open the VM's socket: the folder is the VM's, which might put a link to somebody else's in its place."""
    there = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if stat.S_ISSOCK(os.fstat(there).st_mode):
        return there
    os.close(there)
    raise PermissionError(f"{path} is no socket")


def _write_attribute(context: str) -> None:
    with open("/proc/thread-self/attr/sockcreate", "w", encoding="ascii") as attribute:
        attribute.write(context or "\n")


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_WR)
    except OSError:
        return


def main() -> None:
    """Relay for one VM; does not return."""
    pidfd, context, client, live = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    relay = _Relay(context, client, live)
    for work in sys.argv[5:]:
        kind, _, rest = work.partition(":")
        outer, _, inner = rest.partition(":")
        made = socket.socket(fileno=int(outer))
        if kind == "listen":
            relay.listen(made, inner)
        else:
            relay.connect_pair(made, socket.socket(fileno=int(inner)))
    relay.run(pidfd)
    os._exit(0)


if __name__ == "__main__":
    main()
