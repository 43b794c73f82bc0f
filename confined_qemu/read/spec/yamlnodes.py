"""YAML text to nodes that know their place, and the list of problems that grows while they are read.

The parser's events are used, not its objects: a scalar stays the text that was written (`on`, `1:30`, `no`),
a key that stands twice is seen, and nothing that a text can hold makes this recurse or expand without end.
"""

from __future__ import annotations

from confined_qemu.model.errors import HINT, SpecError, printable
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAX_CHARACTERS = 1 << 20
"""A longer text is not a spec; the bound keeps every step's time small."""
MAX_DEPTH = 16
"""A spec is four levels deep."""
MAX_PROBLEMS = 50
"""More lines than these help nobody."""

_PRINTED = (
    *(("\t", "\n"), ("\r", "\r"), ("\x20", "\x7e"), ("\xa0", "\u2027"), ("\u202a", "\ud7ff")),
    *(("\ue000", "\ufefe"), ("\uff00", "\ufffd"), ("\U00010000", "\U0010ffff")),
)
"""What YAML 1.1 calls printable (section 5.1), without NEL, LS and PS, which it takes for line breaks."""
_PLAIN_TAGS = (None, "!")


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the text; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """One text, whatever YAML would take it for; `plain` means that it was written without quotes."""

    text: str
    plain: bool
    mark: Mark


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    """Keys and values as they were written, twice where they were written twice."""

    pairs: tuple[tuple[Node, Node], ...]
    mark: Mark


@dataclass(frozen=True, slots=True, eq=False)
class Lost:
    """What could not be made into a node; the problem is noted already."""

    mark: Mark


Node = Scalar | Sequence | Mapping | Lost


class TooMany(Exception):
    """The list of problems is full, or the text is not worth reading on; `Problems` holds what was found."""


@dataclass(slots=True)
class Problems:
    """What is wrong with one text, and where its keys stand.

    `marks` holds the place of each key path that was read, `bad` the paths whose value could not be read.
    """

    file: str
    marks: dict[str, Mark] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    _lines: list[tuple[Mark, str]] = field(default_factory=list)

    def add(self, mark: Mark | None, path: str, what: str, hint: str | None = None) -> None:
        """Note one problem; `mark` None is for a text that has no place to show.

        Raises:
            TooMany: the list is full, so that a hostile text cannot make it long.
        """
        where = f"{self.file}:{mark.line}:{mark.column}" if mark else self.file
        line = ": ".join(part for part in (where, path, what) if part)
        self._lines.append((mark or Mark(0, 0), f"{printable(line)}{HINT}{hint}" if hint else printable(line)))
        if len(self._lines) >= MAX_PROBLEMS:
            raise TooMany

    def nearest(self, path: str) -> Mark | None:
        """Return the place of the key `path`, or of the nearest one that holds it."""
        while path and path not in self.marks:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.marks.get(path)

    def is_bad(self, path: str) -> bool:
        """Tell whether the value at `path`, or one inside it, could not be read."""
        return any(bad == path or bad.startswith((path + ".", path + "[")) for bad in self.bad)

    @property
    def error(self) -> SpecError | None:
        """The problems in order of place, or None."""
        lines = [line for _, line in sorted(self._lines, key=lambda entry: entry[0])]
        if len(lines) >= MAX_PROBLEMS:
            lines.append(f"{self.file}: there may be more problems after these {len(lines)}")
        return SpecError(tuple(lines)) if lines else None


def shown(text: str) -> str:
    """Return a value as a message quotes it: one line, not too long."""
    most = 60
    return repr(text if len(text) <= most else text[:most] + "…")


def _strange_characters(text: str, problems: Problems) -> None:
    strange = {character for character in set(text) if not any(low <= character <= high for low, high in _PRINTED)}
    for at, character in enumerate(text if strange else ""):
        if character not in strange:
            continue
        mark = Mark(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - where surrogateescape puts a stray byte
            problems.add(mark, "", f"byte 0x{code - 0xDC00:02x} is not UTF-8", "save the file as UTF-8")
        else:
            problems.add(mark, "", f"character U+{code:04X} is not printable", 'write it as "\\u…" in double quotes')


class _NodeBuilder:
    """Makes nodes of the events of one document."""

    def __init__(self, events: Iterator[Any], problems: Problems) -> None:
        self.events = events
        self.problems = problems
        self.anchors: dict[str, Node | None] = {}

    def node(self, event: Any, depth: int) -> Node:
        """Return the node that begins with `event`."""
        from yaml import events as kinds

        mark = _mark(event.start_mark)
        if isinstance(event, kinds.AliasEvent):
            return self._alias(event.anchor, mark)
        if depth > MAX_DEPTH:
            self.problems.add(mark, "", f"more than {MAX_DEPTH} levels of nesting", "a spec has four")
            raise TooMany
        if event.tag not in _PLAIN_TAGS:
            self.problems.add(mark, "", f"unknown tag {shown(event.tag)}", "leave it out")
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node: Node
        if isinstance(event, kinds.ScalarEvent):
            node = Scalar(event.value, not event.style, mark)
        elif isinstance(event, kinds.SequenceStartEvent):
            node = Sequence(tuple(self._items(kinds.SequenceEndEvent, depth)), mark)
        else:
            found = list(self._items(kinds.MappingEndEvent, depth))
            node = Mapping(tuple(zip(found[::2], found[1::2], strict=True)), mark)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _items(self, end: type, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), end):
            yield self.node(event, depth + 1)

    def _alias(self, anchor: str | None, mark: Mark) -> Node:
        node = self.anchors.get(anchor or "")
        if anchor not in self.anchors:
            self.problems.add(mark, "", f"unknown anchor &{anchor}", "write the value itself")
        elif node is None:
            self.problems.add(mark, "", f"*{anchor} refers to itself", "write the value itself")
        if isinstance(node, Scalar):
            return Scalar(node.text, node.plain, mark)
        return node or Lost(mark)


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


_HINTS = (
    ("unknown escape", "single quotes take a backslash as it is"),
    ("mapping values are not allowed", "quote a text that holds ': '"),
    ("cannot start any token", "quote a text that begins with a sign"),
    ("could not find expected ':'", "write key: value, and quote a text of several lines"),
    ("did not find expected", "look for a bracket, a quote or an indentation that does not match"),
    ("unexpected end of stream", "close the quote"),
)
"""Words of libyaml's messages (scanner.c, parser.c), and the mistake that they come from."""


def _syntax(error: Exception, text: str, problems: Problems) -> None:
    """Note what the parser could not read, with a hint where the usual mistake is known."""
    from yaml import MarkedYAMLError

    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        problems.add(None, "", f"not YAML: {str(error).splitlines()[0] if str(error) else 'unreadable'}")
        return
    mark = _mark(error.problem_mark)
    lines = text.splitlines()
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    if line[mark.column - 1 : mark.column] == "\t":
        problems.add(mark, "", "a tab where YAML wants spaces", "indent with spaces")
        return
    context = f" {error.context}" if error.context else ""
    problem = str(error.problem)
    hint = next((hint for words, hint in _HINTS if words in problem), "quote a text that YAML could take for a sign")
    problems.add(mark, "", f"not YAML: {problem}{context}", hint)


class _Pattern:
    """A regular expression that is compiled at its first use."""

    def __init__(self, *given: Any) -> None:
        self._given = given

    def __getattr__(self, name: str) -> Any:
        import re

        return getattr(re.compile(*self._given), name)


def _library() -> Any:
    """Return PyYAML, whose ten patterns wait for their first use: with libyaml's parser it never comes.

    To compile them took longer than all else that reading a spec takes.
    """
    import re

    compiled = re.compile
    re.compile = _Pattern  # type: ignore[assignment]
    try:
        import yaml
    finally:
        re.compile = compiled
    return yaml


def _document(text: str, problems: Problems) -> Node | None:
    yaml = _library()
    from yaml import events as kinds

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events = iter(yaml.parse(text, Loader=loader))
    next(events)  # the stream's start
    if isinstance(next(events), kinds.StreamEndEvent):
        problems.add(Mark(1, 1), "", "the file is empty", "a spec starts with name: and disks:")
        return None
    node = _NodeBuilder(events, problems).node(next(events), 1)
    next(events)  # the document's end
    if not isinstance(event := next(events), kinds.StreamEndEvent):
        hint = "one file describes one VM"
        problems.add(_mark(event.start_mark), "", "a second document begins here", hint)
    return node


def compose(text: str, problems: Problems) -> Node | None:
    """Return the root node of a YAML text, None where there is none; what is wrong is added to `problems`."""
    if len(text) > MAX_CHARACTERS:
        problems.add(None, "", f"{len(text)} characters, too long for a spec", f"at most {MAX_CHARACTERS} are read")
        return None
    text = text.removeprefix("\ufeff")
    _strange_characters(text, problems)
    if problems.error:
        return None
    try:
        return _document(text, problems)
    except (_library().YAMLError, ValueError) as error:  # ValueError: the pure-Python parser's, for odd directives
        _syntax(error, text, problems)
        return None
