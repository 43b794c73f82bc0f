"""What has been carried over from a libvirt domain while it is read: keys of a spec, and what was lost. Pure."""

from __future__ import annotations

import posixpath

from confined_qemu.model.errors import HINT
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field
from confined_qemu.read.spec.yamlnodes import Mapping, Mark, Node, Scalar, Sequence, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from confined_qemu.read.libvirt.xmltree import Element
    from confined_qemu.read.spec.yamlnodes import Problems

NO_KEY: Final = "a spec has no key for it"
_REASONS: Final = {
    "currentMemory": "the guest starts with all of its memory",
    "description": "text for people: the VM does not use it",
    "devices/channel": f"a spec has no key for it{HINT}give its -chardev and -device in qemu_args:",
    "devices/controller": "each disk gets the controller of its bus",
    "devices/graphics": f"the VM has no screen that can be reached{HINT}add one, for example display: vnc=127.0.0.1:0",
    "devices/video": "the VM gets QEMU's standard VGA card",
    "launchSecurity": "the guest's memory is NOT encrypted here",
    "metadata": "text for other programs: the VM does not use it",
    "title": "text for people: the VM does not use it",
}
_QUIET: Final = frozenset({"@id", "features/acpi", "features/apic", "features/pae", "seclabel/imagelabel"})
"""State of a running VM, which libvirt ignores in a definition too, and what QEMU does anyway."""
_MOST_PATHS: Final = 3
_QUIET_NAMES: Final = ("/alias", "@index", "@tty", "@labelskip", "@portid")


@dataclass(frozen=True, slots=True)
class Loss:
    """Something of a domain that the VM lacks: where it stands, its name, and what there is instead.

    Hints on how to mend it are set off in `why` by `HINT`.
    """

    mark: Mark
    what: str
    why: str


def lines_of(losses: tuple[Loss, ...]) -> Iterator[str]:
    """Yield a message for each name and reason, with the numbers of all lines where it stands; hints by `HINT`."""
    merged: dict[tuple[str, str], list[int]] = {}
    for loss in losses:
        merged.setdefault((loss.what, loss.why), []).append(loss.mark.line)
    for (what, why), numbers in merged.items():
        places = ", ".join(str(number) for number in dict.fromkeys(numbers))
        yield f"{'line' if len(set(numbers)) == 1 else 'lines'} {places}: {what}: {why}"


@dataclass(slots=True)
class Carrying:
    """The keys of a spec, as nodes that keep the places of the elements they came from.

    The spec's own table reads them afterwards, so its rules are the rules here, and an error has its line.
    """

    problems: Problems
    keys: dict[str, Node] = field(default_factory=dict)
    lost: list[Loss] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    disks: list[Mapping] = field(default_factory=list)
    lists: dict[str, list[Node]] = field(default_factory=dict)
    """The keys that hold lists, apart from the disks."""
    arguments: list[Scalar] = field(default_factory=list)

    def put(self, key: str, element: Element, node: Node | str) -> None:
        """Set a key of the spec to what `element` said."""
        self.keys[key] = self.text(element, node) if isinstance(node, str) else node
        self.origins[key] = _origin(element)

    def add_disk(self, element: Element, disk: Mapping) -> None:
        """Append a disk."""
        self.origins[f"disks[{len(self.disks)}]"] = _origin(element)
        self.disks.append(disk)

    def add(self, key: str, element: Element, node: Node | str) -> None:
        """Append to a list of the spec."""
        nodes = self.lists.setdefault(key, [])
        self.origins[f"{key}[{len(nodes)}]"] = _origin(element)
        nodes.append(self.text(element, node) if isinstance(node, str) else node)

    def no_label(self, source: Element | None, what: str) -> None:
        """Refuse a file's own label of SELinux where a spec has no place for it: the file would be relabelled."""
        for element in source.every("seclabel") if source is not None else ():
            model = element.take("model")
            if model in {None, "selinux"}:
                hint = f"drop <seclabel>, or leave {what} out"
                self.refuse(element, f"a spec has no seclabel for {what}: it would be relabelled for the VM", hint)
            else:
                self.lose(element, f"labels of the model {model} are not set, only SELinux's")

    def argue(self, element: Element, *words: str) -> None:
        """Append arguments for QEMU's own command line."""
        self.origins[f"qemu_args[{len(self.arguments)}]"] = _origin(element)
        self.arguments += [self.text(element, word) for word in words]

    def text(self, element: Element, text: str) -> Scalar:
        """Return a value that is a text whatever it looks like."""
        return Scalar(text, plain=False, mark=element.mark)

    def path(self, element: Element, path: str) -> Scalar | None:
        """Return a path's value; libvirt's paths start at the root, and another is refused."""
        if not posixpath.isabs(path):
            what = "the path is missing" if not path else f"{shown(path)} is not an absolute path"
            self.refuse(element, what, "write it from the root: /…")
            return None
        return self.text(element, path)

    def mapping(self, element: Element, values: dict[str, Node | str | bool | None]) -> Mapping:
        """Return a mapping of the values that are there."""
        nodes: dict[str, Node] = {}
        for key, value in values.items():
            if isinstance(value, bool):
                nodes[key] = self.text(element, "yes" if value else "no")
            elif isinstance(value, str):
                nodes[key] = self.text(element, value)
            elif value is not None:
                nodes[key] = value
        return Mapping(tuple((self.text(element, key), node) for key, node in nodes.items()), element.mark)

    def refuse(self, element: Element, what: str, hint: str | None = None, name: str | None = None) -> None:
        """Note what makes the domain one that cannot be read."""
        self.problems.add(element.mark, f"{element.path}{name or ''}" or "domain", what, hint)

    def lose(self, element: Element, why: str, name: str = "") -> None:
        """Note that an element, or the attribute `@…` of it, is not carried over."""
        self.lost.append(Loss(element.mark, f"{element.path}{name}", why))

    def left(self, element: Element | None) -> None:
        """Note as lost whatever of `element` nobody took."""
        for mark, name, paths in element.left() if element is not None else ():
            if name not in _QUIET and not name.endswith(_QUIET_NAMES):
                files = f" ({', '.join(map(shown, paths[:_MOST_PATHS]))})" if paths else ""
                self.lost.append(Loss(mark, f"{name}{files}", _REASONS.get(name, NO_KEY)))

    def root(self, mark: Mark) -> Mapping:
        """Return the whole spec."""
        keys = dict(self.keys)
        if self.disks:
            keys["disks"] = Sequence(tuple(self.disks), self.disks[0].mark)
        keys |= {key: Sequence(tuple(nodes), nodes[0].mark) for key, nodes in self.lists.items()}
        if self.arguments:
            keys["qemu_args"] = Sequence(tuple(self.arguments), self.arguments[0].mark)
        return Mapping(tuple((Scalar(key, plain=True, mark=node.mark), node) for key, node in keys.items()), mark)


def _origin(element: Element) -> str:
    return f"<{element.path.rpartition('/')[2] or 'domain'}>, line {element.mark.line}"
