"""What happens to each unix socket and tap device of a VM: the launcher has it ready, or leaves it to QEMU. Pure."""

from __future__ import annotations

import posixpath

from confined_qemu.model import hostpaths, labelrules
from confined_qemu.model.errors import HINT
from confined_qemu.model.facts import FileKind
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.plan import Collected, Outcome, PlannedResource
from confined_qemu.model.policy import denied
from confined_qemu.model.resource import Access, Resource, Role, Takes
from confined_qemu.model.steps import AttachTap, Bind, Connect
from confined_qemu.plan.svirt import Levels

if TYPE_CHECKING:
    from collections.abc import Callable

    from confined_qemu.model.context import Context
    from confined_qemu.model.facts import Facts
    from confined_qemu.model.invocation import Invocation
    from confined_qemu.model.policy import Policy
    from confined_qemu.model.resource import Listener, Tap


_STREAM = "use -netdev stream,id=ID,server=on,addr.type=unix,addr.path=PATH"
_INSTEAD = {
    "-netdev local.path=": _STREAM,
    "-nic addr.path=": _STREAM,
    "-net addr.path=": _STREAM,
    "-incoming": "use -incoming unix:PATH",
    "-chardev": "use -chardev socket,id=ID,path=PATH,server=on, without JSON",
}
"""By how the source of a socket begins: the form of its option of which the launcher can take the socket over."""
_OTHERWISE = "name a -chardev socket,id=ID,path=PATH,server=on there if the option takes one, or leave it out"


def planned(listener: Listener, facts: Facts, label: Context | None) -> PlannedResource:
    """Return a socket as a plan prints it, with the label that its file gets."""
    sharing = labelrules.sharing(Role.SOCKET, listener.access, hostpaths.place(listener.path))
    resource = Resource(listener.path, Role.SOCKET, listener.access, sharing, listener.source)
    return PlannedResource(resource, posixpath.join(facts.folder, listener.path), label, None)


@dataclass
class SocketPlanner:
    """Decides about the sockets of one VM; `own_folder` plans the VM's own folder and returns its path."""

    invocation: Invocation
    facts: Facts
    policy: Policy
    process: Context
    own_folder: Callable[[], str]
    found: Collected = field(default_factory=Collected)

    def plan(self, label: Context | None) -> Outcome:
        """Return what comes of every socket; `label` is that of the VM's private files."""
        needed = self._clients_need_relay()
        for listener in self.invocation.listeners:
            if listener.access is Access.CONNECT:
                self._connect(listener)
                continue
            by_qemu = listener.takes is not Takes.DESCRIPTOR
            if by_qemu and self._levels().apart:
                self.found.refusals.append(
                    f"{listener.path} ({listener.source}): QEMU makes this socket itself and needs a relay, "
                    f"which does not carry data between levels{HINT}give the VM your own level"
                )
            relayed, mine = needed or by_qemu, label
            if label is not None and relayed and self.facts.selinux.mls:
                mine = label.at(self._levels().caller)  # or no client could open it
            inner = f"{self.own_folder()}/{listener.name}" if relayed else None
            if by_qemu and inner is not None:
                self.found.arguments[listener.index] = listener.made_by_qemu(inner)
            resource = planned(listener, self.facts, mine)
            self.found.steps.append(Bind(listener.name, resource.path, mine, self.process, inner, by_qemu))
            self.found.resources.append(resource)
        for tap in self.invocation.taps:
            self._tap(tap)
        for left in self.invocation.resources:
            if left.access is Access.LISTEN:
                self._left_to_qemu(left)
        return self.found.outcome()

    def _left_to_qemu(self, resource: Resource) -> None:
        """Refuse a socket that QEMU would make in a folder of the caller's, where a VM may make nothing."""
        path = posixpath.join(self.facts.folder, resource.path)
        self.found.resources.append(PlannedResource(resource, path, None, None))
        hint = next((hint for start, hint in _INSTEAD.items() if resource.source.startswith(start)), _OTHERWISE)
        self.found.refusals.append(
            f"{path} ({resource.source}): QEMU would create this socket itself, and a VM may not create one there"
            f"{HINT}{hint}"
        )

    def _tap(self, tap: Tap) -> None:
        """Have the launcher attach to a tap device; where it is not there, QEMU itself says so best."""
        if self.facts.files[tap.path].kind is FileKind.MISSING:
            self.found.arguments[tap.index] = tap.given
        else:
            self.found.steps.append(AttachTap(tap.name, tap.interface, tap.headers))

    def _levels(self) -> Levels:
        return Levels(self.facts.selinux, self.invocation.seclabel, self.process)

    def _connect(self, listener: Listener) -> None:
        """Have the launcher connect; where nothing is there, QEMU itself says so best."""
        found, own = self.facts.files[listener.path], self.facts.selinux.own
        self.found.resources.append(replace(planned(listener, self.facts, None), path=found.path))
        place = f"{found.path} ({listener.source})"
        if found.problem is not None:
            self.found.refusals.append(f"{place}: {found.problem}")
        elif found.kind is FileKind.MISSING:
            self.found.arguments[listener.index] = listener.by_path()
        elif own is not None and denied(self.policy, own, found.label, "sock_file", "write"):
            self.found.denials.append(
                f"{place}: {own.type} may not connect to a socket labelled {found.label}"
                f"{HINT}let it listen in a home, a temporary folder or a folder for images"
            )
        else:
            self.found.steps.append(Connect(listener.name, found.path))

    def _clients_need_relay(self) -> bool:
        """A socket that QEMU accepts takes QEMU's type and the client's range: may QEMU use that one?"""
        caller = self.facts.selinux.caller
        if caller is None or caller.range is None:
            return False
        if self._levels().apart:
            return False  # only a client at the VM's level gets through to it, and QEMU may use that one
        accepted = replace(self.process, range=caller.range)
        return bool(denied(self.policy, self.process, accepted, "unix_stream_socket", "read", "write"))
