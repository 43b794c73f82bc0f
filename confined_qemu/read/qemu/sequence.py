"""A command line taken apart as QEMU does it: its options in order, each with what `-set` makes of it later. Pure.

Options that a configuration file holds stand in its place (`-readconfig`), or before all others (`qemu.conf`).
Source: `softmmu/vl.c` (`qemu_init`, `qemu_set_option`).
"""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.commas import escape
from confined_qemu.model.errors import CommandLineError
from confined_qemu.model.frozen import dataclass, field
from confined_qemu.read.qemu import configs
from confined_qemu.read.qemu.keyvals import pairs
from confined_qemu.read.qemu.options import OPTIONS, Kind
from confined_qemu.read.qemu.queries import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Reader = Callable[[str], str | None]
    """Returns a configuration file's text, None where there is no such file."""

_UNSETTABLE = frozenset({"audiodev", "boot-opts", "machine", "object", "smp-opts"})
"""Groups that QEMU keeps in a form which `-set` does not reach (`is_qemuopts_group`)."""
_LONGEST_NAME = 63
"""Bytes of a group, an id or a key in `-set`."""


@dataclass
class Item:
    """One option. `argument` is how it was written, empty for the file of defaults that is read unasked.

    `option` is None for a positional disk image, `value` where there is none. `changes` are what `-set` puts in it, as
    (position of the `-set`, key, text). `inside` are the options of the configuration file that it names.
    """

    position: int
    argument: str
    option: str | None
    value: str | None
    changes: list[tuple[int, str, str]] = field(default_factory=list)
    inside: list[Item] = field(default_factory=list)

    @property
    def meant(self) -> str | None:
        """Return the value with its changes in it: QEMU takes the last of two equal keys."""
        if not self.changes:
            return self.value
        return ",".join([self.value or "id=", *(f"{key}={escape(text)}" for _, key, text in self.changes)])


def take_apart(arguments: Sequence[str], config: Reader | None) -> list[Item]:
    """Return the options of a command line; `config` None is one that names no configuration file.

    QEMU reads the default one too, unless the command line says not to.

    Raises:
        CommandLineError: a configuration file or a `-set` cannot be followed.
        HostError: a configuration file cannot be read.
    """
    items = list(_walk(arguments))
    for item in items:
        if item.option == "readconfig" and item.value is not None:
            item.inside = _inside(item, config)
    if config is not None and not any(item.option == "no-user-config" for item in items):
        default = Item(-1, "", "readconfig", configs.DEFAULT)
        text = config(configs.DEFAULT)
        if text is not None:
            default.inside = _items(default, text)
            items.insert(0, default)
    _follow_sets(items)
    return items


def _walk(arguments: Sequence[str]) -> Iterator[Item]:
    """Yield the options that are on the command line itself.

    Whether an unknown option takes a value cannot be known. A word behind it that begins with no dash is taken for
    its value: if it is a disk instead, it gets no label and SELinux denies it, while the value of an option that was
    taken for a disk would be labelled.
    """
    index = 0
    while index < len(arguments):
        argument = arguments[index]
        option = name_of(argument)
        position, following = index, arguments[index + 1] if index + 1 < len(arguments) else None
        if option is None:
            yield Item(position, argument, None, argument)
        elif _takes(option, following):
            yield Item(position, argument, option, following)
            index += 1
        else:
            yield Item(position, argument, option, None)
        index += 1


def _takes(option: str, following: str | None) -> bool:
    """Tell whether what follows an option is its value."""
    spec = OPTIONS.get(option)
    if spec is not None:
        return spec.kind is not Kind.FLAG
    return following is not None and not following.startswith("-")


# ---- configuration files


def _inside(item: Item, config: Reader | None) -> list[Item]:
    path = item.value or ""
    text = config(path) if config is not None else None
    if text is None:
        raise CommandLineError(f"no such file ({item.argument} names it)", where=path)
    return _items(item, text)


def _items(item: Item, text: str) -> list[Item]:
    found = []
    for group in configs.parse(text, item.value or ""):
        option = configs.OPTION_OF.get(group.name)
        if option is None:
            raise CommandLineError(
                f"unknown group {group.name!r}, and QEMU may open files that it names",
                where=f"{item.value}:{group.number}",
                hint="use the option of that name on the command line",
            )
        found.append(Item(item.position, f"-{option}", option, group.value))
    return found


# ---- -set


def _follow_sets(items: list[Item]) -> None:
    """Note every `-set` in the option that it changes, which stands before it."""
    seen: dict[tuple[str, str], Item] = {}
    if not any(item.option == "set" for item in items):
        return
    for item in items:
        if item.option == "set" and item.value is not None:
            _follow(item, item.value, seen)
        for one in (item, *item.inside):
            name = _id(one)
            if name is not None and one.option is not None:
                seen.setdefault((one.option, name), one)


def _id(item: Item) -> str | None:
    option, value = item.option, item.value
    if option is None or option not in configs.OPTION_OF.values() or value is None or value.startswith("{"):
        return None
    return dict(pairs(option, value, OPTIONS[option].implied)).get("id")


def _follow(item: Item, value: str, seen: dict[tuple[str, str], Item]) -> None:
    """Take `GROUP.ID.KEY=VALUE` apart: the key is all up to the equals sign, dots included."""
    name, equals, text = value.partition("=")
    group, _, rest = name.partition(".")
    identifier, _, key = rest.partition(".")
    parts = (group, identifier, key)
    if not equals or not all(0 < len(part.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME for part in parts):
        raise CommandLineError(f"-set {value!r}: malformed", hint="write -set GROUP.ID.KEY=VALUE")
    target = seen.get((configs.OPTION_OF.get(group, ""), identifier)) if group not in _UNSETTABLE else None
    if target is None or "," in key:
        raise CommandLineError(
            f"-set {value!r}: no -{configs.OPTION_OF.get(group, group)} with id={identifier} stands before it",
            hint=f"put {key}= into that option itself",
        )
    target.changes.append((item.position, key, text))
