"""XML text to elements that know their place, and that remember what nobody has read yet. Pure.

A document type is refused, and with it every entity: nothing expands, and nothing outside the text is read.
"""

from __future__ import annotations

from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field
from confined_qemu.read.spec.yamlnodes import MAX_CHARACTERS, Mark, TooMany, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from confined_qemu.read.spec.yamlnodes import Problems

MAX_DEPTH = 32
"""libvirt's own domains are ten levels deep."""
_SEPARATOR = " "
"""Between a namespace and a name; no name can hold it."""


@dataclass(slots=True, eq=False)
class Element:
    """One element. Reading takes: what is left afterwards is what the reader did not know.

    `path` names it from the root on (`devices/disk/source`), `text` is its text without that of its children.
    """

    tag: str
    path: str
    mark: Mark
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def take(self, name: str) -> str | None:
        """Return an attribute, None where it is not there."""
        return self.attributes.pop(name, None)

    def one(self, tag: str) -> Element | None:
        """Return the first child of this name that is left."""
        for number, child in enumerate(self.children):
            if child.tag == tag:
                return self.children.pop(number)
        return None

    def every(self, tag: str) -> list[Element]:
        """Return all children of this name that are left."""
        found = [child for child in self.children if child.tag == tag]
        self.children = [child for child in self.children if child.tag != tag]
        return found

    def flag(self, tag: str) -> bool:
        """Tell whether an empty element such as `<readonly/>` is there."""
        return bool(self.every(tag))

    def word(self) -> str:
        """Take the text, without the space around it."""
        text, self.text = self.text.strip(), ""
        return text

    def whole(self) -> str:
        """Take the text as it stands."""
        text, self.text = self.text, ""
        return text

    def drop(self) -> None:
        """Take all that is left: there is nothing more to say about it."""
        self.attributes.clear()
        self.children.clear()
        self.text = ""

    def left(self) -> Iterator[tuple[Mark, str, tuple[str, ...]]]:
        """Yield everything that was not taken, an element instead of what it holds: its place, its name, its paths."""
        for name in self.attributes:
            yield self.mark, f"{self.path}@{name}", ()
        if self.text.strip():
            yield self.mark, f"{self.path}, the text {shown(self.text.strip())}", ()
        for child in self.children:
            yield child.mark, child.path, tuple(child.paths())

    def paths(self) -> Iterator[str]:
        """Yield what is written like an absolute path in an element, or below it."""
        stack = [self]
        while stack:
            element = stack.pop()
            texts = (*element.attributes.values(), element.text.strip())
            yield from (text for text in texts if text.startswith("/") and len(text) > 1)
            stack += reversed(element.children)


class _Stop(Exception):
    """The text is not read on; the problem is noted."""


class _ElementBuilder:
    """Makes elements of expat's calls."""

    def __init__(self, parser: Any, problems: Problems, spaces: dict[str, str]) -> None:
        self.parser = parser
        self.problems = problems
        self.spaces = spaces
        self.root: Element | None = None
        self.open: list[Element] = []
        parser.StartDoctypeDeclHandler = self.doctype
        parser.StartElementHandler = self.start
        parser.EndElementHandler = lambda _tag: self.open.pop()
        parser.CharacterDataHandler = self.characters

    def mark(self) -> Mark:
        """Return where the parser is."""
        return Mark(self.parser.CurrentLineNumber, self.parser.CurrentColumnNumber + 1)

    def doctype(self, *_: object) -> None:
        """Refuse a document type: only there can entities be declared."""
        hint = "remove <!DOCTYPE …> and write what its entities stand for"
        self.problems.add(self.mark(), "", "document types and entities are not read", hint)
        raise _Stop

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        if len(self.open) >= MAX_DEPTH:
            self.problems.add(
                self.mark(),
                "",
                f"more than {MAX_DEPTH} levels of nesting",
                "remove some: no domain has so many",
            )
            raise _Stop
        name = self._short(tag)
        above = self.open[-1] if self.open else None
        path = f"{above.path}/{name}" if above is not None and above.path else name if above is not None else ""
        element = Element(name, path, self.mark(), {self._short(key): value for key, value in attributes.items()})
        if above is None:
            self.root = element
        else:
            above.children.append(element)
        self.open.append(element)

    def _short(self, tag: str) -> str:
        space, separator, name = tag.rpartition(_SEPARATOR)
        return f"{self.spaces.get(space, space)}:{name}" if separator else name

    def characters(self, text: str) -> None:
        """Add text to the element that is open."""
        self.open[-1].text += text


def parse(text: str, problems: Problems, spaces: dict[str, str]) -> Element | None:
    """Return the root element, whose path is empty; None where the text is no XML, and why is in `problems`.

    `spaces` gives the prefix by which an element of a namespace is named, whatever the text calls it.
    """
    from xml.parsers import expat

    if len(text) > MAX_CHARACTERS:
        problems.add(None, "", f"{len(text)} characters, too long for a domain", f"at most {MAX_CHARACTERS} are read")
        return None
    parser = expat.ParserCreate("utf-8", _SEPARATOR)
    parser.buffer_text = True
    builder = _ElementBuilder(parser, problems, spaces)
    try:
        parser.Parse(text.encode("utf-8"), True)  # noqa: FBT003 - expat's own: this is the last part
    except UnicodeEncodeError:
        problems.add(Mark(1, 1), "", "not UTF-8 text", "save the file as UTF-8")
    except expat.ExpatError as error:
        words = expat.ErrorString(error.code) or "unreadable"
        problems.add(Mark(error.lineno, error.offset + 1), "", f"not XML: {words}", "see: xmllint --noout FILE")
    except (_Stop, TooMany):
        pass
    return None if problems.error else builder.root
