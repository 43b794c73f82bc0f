"""What a key of a spec may hold: each kind reads a YAML node, and says the same as a JSON Schema.

A kind's `read` returns the value, or `BAD` after it has told `Problems` what is wrong and how to mend it.
"""

from __future__ import annotations

import re

from confined_qemu.model.errors import ValueProblem
from confined_qemu.model.lean import TYPE_CHECKING, Protocol, StrEnum, dataclass, defaults
from confined_qemu.read.spec.rules import Broken
from confined_qemu.read.spec.yamlnodes import Lost, Mapping, Mark, Node, Problems, Scalar, Sequence, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    Schema = dict[str, Any]


class _Bad:
    """The type of `BAD`."""


BAD: Final = _Bad()
"""In the place of a value that could not be read."""

YES: Final = ("yes", "on", "true")
NO: Final = ("no", "off", "false")


class ValueKind(Protocol):
    """What a key may hold."""

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        """Return the value of `node`, which stands at `path`, or `BAD`."""

    def schema(self) -> Schema:
        """Return the JSON Schema of what `read` takes."""


def _read(kind: ValueKind, node: Node, path: str, problems: Problems) -> Any:
    """Return the value of a node below another one, and remember its place."""
    problems.marks[path] = node.mark
    if isinstance(node, Lost):
        problems.bad.add(path)
        return BAD
    return kind.read(node, path, problems)


def _bad(node: Node, path: str, problems: Problems, what: str, hint: str | None = None) -> _Bad:
    problems.bad.add(path)
    problems.add(node.mark, path, what, hint)
    return BAD


def _scalar(node: Node, path: str, problems: Problems, wanted: str) -> str | _Bad:
    """Return the text of a scalar that an argument or a path can hold."""
    if not isinstance(node, Scalar):
        found = "a list" if isinstance(node, Sequence) else "a mapping"
        return _bad(node, path, problems, f"expected {wanted}, got {found}")
    if node.text == "" and node.plain:
        return _bad(node, path, problems, f"expected {wanted}, got nothing", "leave the key out, or give it a value")
    if "\0" in node.text:
        return _bad(node, path, problems, "a NUL character, which no argument can hold", "leave it out")
    return node.text


def identity(text: str) -> str:
    """Return `text`: the check of a kind that takes any."""
    return text


@dataclass(frozen=True, slots=True)
class Text:
    """A text that matches `pattern` and passes `check`, which may raise ValueProblem and makes the value.

    Numbers and words that YAML takes for something else (`on`, `1:30`) are texts as they were written.
    """

    wanted: str
    pattern: str = r"[\s\S]+"
    check: Callable[[str], Any] = identity

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        """Return what `check` makes of the text, or `BAD`."""
        text = _scalar(node, path, problems, self.wanted)
        if isinstance(text, _Bad):
            return text
        try:
            return self._value(text)
        except ValueProblem as error:
            told = self.wanted in error.what
            return _bad(node, path, problems, error.what, error.hint or (None if told else f"write {self.wanted}"))

    def _value(self, text: str) -> Any:
        if re.fullmatch(self.pattern, text) is None:
            raise ValueProblem(f"expected {self.wanted}, got {shown(text)}")
        return self.check(text)

    def schema(self) -> Schema:
        """Return the pattern; a free text may also look like a number, a yes/no or a null to an editor."""
        text = {"type": "string", "pattern": f"^(?:{self.pattern})$"}
        samples = {"number": "1", "boolean": "true", "null": "null"}
        others = [kind for kind, sample in samples.items() if self._takes(sample)]
        return {"anyOf": [text, {"type": others}]} if others else text

    def _takes(self, sample: str) -> bool:
        try:
            self._value(sample)
        except ValueProblem:
            return False
        return True


@dataclass(frozen=True, slots=True)
class YesNo:
    """Yes or no, in any of YAML 1.1's words."""

    def read(self, node: Node, path: str, problems: Problems) -> bool | _Bad:
        """Return the truth, or `BAD`."""
        text = _scalar(node, path, problems, "yes or no")
        if isinstance(text, _Bad):
            return text
        if (word := text.lower()) not in YES + NO:
            return _bad(node, path, problems, f"expected yes or no, got {shown(text)}")
        return word in YES

    def schema(self) -> Schema:
        """Return the words: `yes` is a text to an editor that reads YAML 1.2."""
        words = [word for plain in YES + NO for word in (plain, plain.title(), plain.upper())]
        return {"enum": [True, False, *words]}


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in decimal; other notations (`0o17`, `1_000`, `1:30`) are refused, not guessed."""

    low: int
    high: int

    def read(self, node: Node, path: str, problems: Problems) -> int | _Bad:
        """Return the number, or `BAD`."""
        wanted = f"a whole number from {self.low} to {self.high}"
        text = _scalar(node, path, problems, wanted)
        if isinstance(text, _Bad):
            return text
        if isinstance(node, Scalar) and not node.plain:
            return _bad(node, path, problems, "expected an integer, got a quoted string", "drop the quotes")
        if re.fullmatch(r"0|[1-9][0-9]{0,18}", text) is None or not self.low <= int(text) <= self.high:
            return _bad(node, path, problems, f"expected {wanted}, got {shown(text)}")
        return int(text)

    def schema(self) -> Schema:
        """Return the bounds."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of an enumeration."""

    of: type[StrEnum]

    def read(self, node: Node, path: str, problems: Problems) -> StrEnum | _Bad:
        """Return the member, or `BAD`."""
        words = [member.value for member in self.of]
        text = _scalar(node, path, problems, "one of " + ", ".join(words))
        if isinstance(text, _Bad):
            return text
        if text not in words:
            near = _near(text, words)
            hint = f"did you mean {near}?" if near else None
            return _bad(node, path, problems, f"expected one of {', '.join(words)}, got {shown(text)}", hint)
        return self.of(text)

    def schema(self) -> Schema:
        """Return the words."""
        return {"enum": [member.value for member in self.of]}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind."""

    item: ValueKind

    def read(self, node: Node, path: str, problems: Problems) -> tuple[Any, ...] | _Bad:
        """Return the values, or `BAD` where one of them is."""
        if not isinstance(node, Sequence):
            hint = f"begin each with '- ' below {path}:, or write {path}: []"
            return _bad(node, path, problems, "expected a list", hint)
        found = []
        for number, item in enumerate(node.items):
            found.append(_read(self.item, item, f"{path}[{number}]", problems))
        return BAD if any(isinstance(value, _Bad) for value in found) else tuple(found)

    def schema(self) -> Schema:
        """Return the items' schema."""
        return {"type": "array", "items": self.item.schema()}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping: its kind, a line about it, and what people write in its place.

    `stand_in` is the value of a missing required key, so that the other rules can still be checked.
    """

    name: str
    kind: ValueKind
    about: str
    aka: tuple[str, ...] = ()
    stand_in: Any = None
    missing: str | None = None
    """How to mend it when it is required and not there."""


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping of known keys, made into `of` (a dataclass, whose defaults are the keys' defaults).

    `build` makes something else of the values that were written. `rules` joins the JSON Schema: what the dataclass
    refuses, as far as a schema can say it.
    """

    of: type
    keys: tuple[Key, ...]
    about: str
    rules: tuple[tuple[str, Any], ...] = ()
    build: Callable[[dict[str, Any]], Any] | None = None

    def required(self) -> tuple[str, ...]:
        """Return the names of the keys that have no default."""
        optional = defaults(self.of)
        return tuple(key.name for key in self.keys if key.name not in optional)

    def default(self, name: str) -> Any:
        """Return a key's default, None for one that is required."""
        optional = defaults(self.of)
        return optional[name]() if name in optional else None

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        """Return the object, or `BAD`; every key is read and every rule checked before it gives up."""
        if not isinstance(node, Mapping):
            return _bad(node, path, problems, "expected a mapping (key: value)", f"it is {self.about}")
        values = self._values(node, path, problems)
        good = all(not isinstance(value, _Bad) for value in values.values())
        for key in self.keys:
            if key.name in self.required() and key.name not in values:
                good = False
                problems.bad.add(_join(path, key.name))
                problems.add(node.mark, path, f"the key {key.name} is missing", key.missing)
            if key.name in self.required() and isinstance(values.get(key.name, BAD), _Bad):
                values[key.name] = key.stand_in
        written = {name: value for name, value in values.items() if not isinstance(value, _Bad)}
        try:
            built = self.made(written)
        except Broken as broken:
            _place(broken, node.mark, path, problems)
            good = False
        if not good:
            problems.bad.add(path)
            return BAD
        return built

    def made(self, values: dict[str, Any]) -> Any:
        """Return the object of these values."""
        return self.of(**values) if self.build is None else self.build(values)

    def _values(self, node: Mapping, path: str, problems: Problems) -> dict[str, Any]:
        known = {key.name: key for key in self.keys}
        values: dict[str, Any] = {}
        first: dict[str, Mark] = {}
        for key_node, value_node in node.pairs:
            name = _key_name(key_node, path, problems)
            if name is None:
                continue
            here = _join(path, name)
            if name in first:
                what = f"duplicate key, first in line {first[name].line}"
                problems.add(key_node.mark, here, what, "drop one of the two")
                problems.bad.add(here)
            elif (key := known.get(name)) is not None:
                values[name] = _read(key.kind, value_node, here, problems)
            else:
                problems.add(key_node.mark, here, "unknown key", self._meant(name))
            first.setdefault(name, key_node.mark)
        return values

    def _meant(self, name: str) -> str:
        aliases = {other: key.name for key in self.keys for other in (key.name, *key.aka)}
        word = name.lower().replace("-", "_")
        meant = aliases.get(word) or aliases.get(_near(word, list(aliases)) or "")
        if meant:
            return f"did you mean {meant}?"
        return "the keys are " + ", ".join(key.name for key in self.keys)

    def schema(self) -> Schema:
        """Return the keys' schemas, with their texts and defaults."""
        keys: Schema = {}
        for key in self.keys:
            keys[key.name] = key.kind.schema() | {"description": key.about}
            default = _plain(self.default(key.name))
            if default is not None:
                keys[key.name]["default"] = default
        schema: Schema = {"type": "object", "description": self.about, "properties": keys}
        if self.required():
            schema["required"] = list(self.required())
        return schema | {"additionalProperties": False} | dict(self.rules)


@dataclass(frozen=True, slots=True)
class WordOr:
    """One word, or a mapping: `network: user` is short for `network: {type: user}`."""

    word: Choice
    table: Table
    make: Callable[[Any], Any]

    def read(self, node: Node, path: str, problems: Problems) -> Any:
        """Return the object, or `BAD`."""
        if isinstance(node, Mapping):
            return self.table.read(node, path, problems)
        word = self.word.read(node, path, problems)
        if isinstance(word, _Bad):
            return word
        try:
            return self.make(word)
        except Broken as broken:
            first = broken.violations[0]
            return _bad(node, path, problems, first.what, first.hint)

    def schema(self) -> Schema:
        """Return both."""
        return {"anyOf": [self.word.schema(), self.table.schema()]}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _key_name(node: Node, path: str, problems: Problems) -> str | None:
    if not isinstance(node, Scalar | Lost):
        problems.add(node.mark, path, "a key must be a word", "write key: value")
    elif isinstance(node, Lost):
        pass
    elif node.text == "<<" and node.plain:
        problems.add(node.mark, path, "merge keys (<<) are not read", "write the keys themselves")
    elif not node.text.strip() or len(node.text) > 100 or "\0" in node.text:  # noqa: PLR2004 - no key is so long
        problems.add(node.mark, path, f"{shown(node.text)} is not a key", "write key: value")
    else:
        return node.text
    return None


def _place(broken: Broken, start: Mark, path: str, problems: Problems) -> None:
    """Note each violation at its key; one that involves a value that could not be read is left out."""
    for violation in broken.violations:
        involved = [_join(path, key) for key in (violation.key, *violation.involves)]
        if any(problems.is_bad(key) for key in involved):
            continue
        here = involved[0]
        problems.add(problems.nearest(here) or start, here, violation.what, violation.hint)


def _near(word: str, words: list[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(word[:40], words, 1)), None)


def _plain(value: Any) -> Any:
    """Return a default as JSON has it, None where there is nothing to show."""
    if isinstance(value, StrEnum):
        return value.value
    if value is None or isinstance(value, bool | int | str):
        return value
    if value == ():
        return []
    text = getattr(value, "kind", None)
    return str(value) if text is not None else None
