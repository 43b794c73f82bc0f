"""What the readers of options have in common: what was found so far, and lists taken apart.

Found are files, sockets to make, and the arguments as they will be.
"""

from __future__ import annotations

from confined_qemu.model import hostpaths
from confined_qemu.model.commas import escape, split
from confined_qemu.model.errors import CommandLineError, printable
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.resource import Access, Listener, Resource, Role, Takes, Tap
from confined_qemu.read.settings import UnknownOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from confined_qemu.read.qemu.options import Option, Use

_QOM = ("/machine", "/objects", "/chardevs", "/backend")
"""Objects inside QEMU have paths too (`qom-list`)."""


@dataclass(frozen=True, slots=True)
class Socket:
    """A socket in an option's value: what stands before and after it, and else as a Listener's."""

    name: str
    path: str
    source: str
    before: str
    after: str
    access: Access = Access.LISTEN
    takes: Takes = Takes.DESCRIPTOR
    given: str | None = None


@dataclass
class Collector:
    """Takes what the readers of the options find. `position` is that of the option being read."""

    taken: frozenset[str] = frozenset()
    """The chardev ids that the command line uses itself."""
    unknown: UnknownOptions = UnknownOptions.REFUSE
    """What becomes of a path where no file is expected."""
    origins: Mapping[int, str] = field(default_factory=dict)
    """The spec's key that asks for the files of an argument, by the argument's number."""
    guards: frozenset[str] = frozenset()
    """The ids of the objects that guard the guest's memory from the host (`-machine confidential-guest-support=`)."""
    position: int = 0
    arguments: list[str] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)
    taps: list[Tap] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    """What the listeners and taps are called."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many sockets of each old option were rewritten."""
    needs_tmpdir: bool = False
    placed: dict[int, int] = field(default_factory=dict)
    """Where the value of the option at a position stands among the arguments, unless it was rewritten."""
    remarks: list[str] = field(default_factory=list)
    """Warnings: what was passed on unread."""
    _found: list[tuple[int, Resource]] = field(default_factory=list)

    def add(  # noqa: PLR0913 - the fields of a Resource
        self,
        path: str,
        role: Role,
        access: Access,
        source: str,
        *,
        shareable: bool = False,
        format: str | None = None,  # noqa: A002 - the name that the field has
        stated: frozenset[Role] = frozenset(),
        optional: bool = False,
        otherwise: tuple[str, ...] = (),
    ) -> None:
        """Add a file by the rules of `hostpaths.resource`, unless the path names none."""
        found = hostpaths.resource(
            path, role, access, self.origin or source, shareable=shareable, format=format, stated=stated,
            optional=optional, otherwise=otherwise,
        )  # fmt: skip
        if found is not None:
            self._found.append((self.position, found))

    @property
    def origin(self) -> str | None:
        """The spec's key that asks for the files of the option being read; None where a person typed it."""
        return self.origins.get(self.position + 1)

    def use(self, path: str, use: Use, source: str) -> None:
        """Add one file, or each of a list of files, as the table of options says."""
        for single in path.split(use.many) if use.many is not None else (path,):
            self.add(single, use.role, use.access, source)

    def vfio(self, device: str, source: str, *, cdev: bool = False, config: bool = True) -> None:
        """Add what QEMU opens for a device that it passes through: the group and the container (`hw/vfio/pci.c`).

        It finds the group in sysfs, by the device's address (`01:00.0`) or folder. `cdev`: with an iommufd it opens the
        device's own node instead (`hw/vfio/iommufd.c`). `config`: it reads the device's configuration space in sysfs,
        which the NVMe driver of the block layer does not (`util/vfio-helpers.c`).
        """
        folder = hostpaths.pci_folder(device)
        node = hostpaths.VFIO_DEVICE if cdev else hostpaths.IOMMU_GROUP
        self.add(f"{folder}/{node}", Role.VFIO, Access.READ_WRITE, source)
        if config and hostpaths.is_pci_folder(folder):  # a device that a driver makes of another has none
            self.add(f"{folder}/config", Role.HOST_DEVICE, Access.READ, source)
        if not cdev:
            self.add("/dev/vfio/vfio", Role.HOST_DEVICE, Access.READ_WRITE, source)

    def program(self, path: str, source: str, *, otherwise: tuple[str, ...] = ()) -> None:
        """Add a program or script that QEMU runs; what that opens in its turn nobody can know.

        A name without a folder is looked for in those of PATH, once QEMU wants to run it.
        """
        searched = bool(path) and "/" not in path
        if searched:
            path, otherwise = f"$PATH/{path}", (f"/usr/bin/{path}",)
        self.add(path, Role.PROGRAM, Access.READ, source, optional=searched, otherwise=otherwise)
        name = path.removeprefix("$PATH/")
        self.remarks.append(
            printable(
                f"{name} ({self.origin or source}): QEMU runs it, confined like the VM; files that it opens are not "
                "labelled unless CONFINED_QEMU_EXTRA_PATHS or extra_files names them"
            )
        )

    def socket(self, found: Socket) -> None:
        """Add a socket for the launcher to make or to connect, and the argument that takes it."""
        unique, index = self._unique(found.name), len(self.arguments)
        made = Listener(
            unique,
            found.path,
            self.origin or found.source,
            index,
            found.before,
            found.after,
            found.access,
            found.takes,
            found.given,
        )
        self.listeners.append(made)
        self.arguments.append(f"{found.before}{{{unique}}}{found.after}")

    def tap(self, found: Tap) -> None:
        """Add a tap device for the launcher to attach to, and the argument that takes it."""
        made = replace(found, name=self._unique(found.name), index=len(self.arguments))
        self.taps.append(made)
        self.arguments.append(f"{made.before}{{{made.name}}}{made.after}")

    def _unique(self, wanted: str) -> str:
        """Return a name that no other descriptor of the VM's has."""
        unique = name = self.origin or wanted
        number = self.descriptors
        while unique in self.names:
            number += 1
            unique = f"{name}-{number}"
        self.names.add(unique)
        return unique

    @property
    def descriptors(self) -> int:
        """How many descriptors the launcher hands over."""
        return len(self.listeners) + len(self.taps)

    def unknown_path(self, option: str, key: str, value: str, harmless: frozenset[str] = frozenset()) -> None:
        """Take an absolute path where no file is expected: QEMU might open it, and it will not be labelled.

        Raises:
            CommandLineError: `value` begins with a slash, and is no path of QEMU's own objects.
        """
        if not value.startswith("/") or value.startswith(_QOM) or key in harmless:
            return
        what = f"-{option} {key}={value!r}: unknown key, and QEMU may open this file"
        if self.unknown is UnknownOptions.REFUSE:
            raise CommandLineError(what, hint="leave the key out, or pass it on unread with --unknown-options=warn")
        self.remarks.append(printable(f"{what}: it is not labelled"))

    @property
    def resources(self) -> tuple[Resource, ...]:
        """Everything found, in the order of the command line."""
        ordered = sorted(self._found, key=lambda entry: entry[0])
        return tuple(replace(found, argument=self.placed.get(position)) for position, found in ordered)


_TEXT = frozenset(
    """
    append bootargs data desc domainname guest-visible-workarounds host-data hostname id id-auth id-block identity
    in.name iv match mount_tag mrconfigid mrowner mrownerconfig name osk out.name priority product serial service tag
    username vendor
    """.split()  # noqa: SIM905 - a table, not a line for each word
)
"""Keys of strict lists whose value is text, base64 or the guest's own path (virtme's `mount_tag=/dev/root`)."""


def read_keys(
    collector: Collector, option: str, spec: Option, values: Sequence[tuple[str, str]], known: Sequence[str] = ()
) -> None:
    """Add the files that the keys of a list name, after the option's table.

    `known` are keys that the caller reads itself.

    Raises:
        CommandLineError: an absolute path stands under a key that is not known to name none.
    """
    last = dict(values)
    driver = last.get(spec.implied or "", "")
    for key, value in values:
        use = spec.keys.get(f"{driver}:{key}") or spec.keys.get(key)
        if use is not None and use.role is Role.VFIO:
            collector.vfio(value, f"-{option} {key}=", cdev=bool(last.get("iommufd")))
        elif use is not None:
            collector.use(value, use, f"-{option} {key}=")
        elif spec.strict and key not in known and key != spec.implied:
            collector.unknown_path(option, key, value, _TEXT)


# ---- `key=value` lists and JSON objects, as flat pairs with dotted keys (`util/qemu-option.c`, `util/keyval.c`)

_YES = frozenset({"on", "yes", "true", "y"})
_DEEP = 64
"""Nodes within nodes that are followed; QEMU's own examples have five."""


def pairs(option: str, value: str, implied: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a comma list, in order; a bare word is a boolean (`server`, `nowait`).

    `implied` is the key that the first item may leave out. QEMU takes the last of two equal keys.

    Raises:
        CommandLineError: a key has a doubled comma, which QEMU reads in another way than a value's.
    """
    return tuple(_pairs(option, value, implied)) if value else ()


def _pairs(option: str, value: str, implied: str | None) -> Iterator[tuple[str, str]]:
    for number, item in enumerate(split(value)):
        key, equals, text = item.partition("=")
        if number == 0 and implied is not None and (not equals or "," in key):
            # QEMU takes it for the first key's value unless an equals sign comes before any comma
            yield implied, item
            continue
        if "," in key:
            # QEMU ends a key at its first comma, and what follows would be an option that was not read here
            raise CommandLineError(
                f"-{option} {value!r}: a comma is doubled outside a value", hint="double commas in values only"
            )
        if equals:
            yield key, text
        elif key.startswith("no"):
            yield key[2:], "off"
        else:
            yield key, "on"


def around(value: str, implied: str | None, key: str, also: Sequence[str] = ()) -> tuple[str, str]:
    """Return a comma list's items before and after the last `key`; other items with that key or `also` are left out."""
    items = split(value)
    keys = [found for found, _ in pairs(key, value, implied)]  # one for each item
    place = max(number for number, found in enumerate(keys) if found == key)
    kept = [(number, escape(item)) for number, item in enumerate(items) if keys[number] not in {key, *also}]
    before = "".join(f"{item}," for number, item in kept if number < place)
    return before, "".join(f",{item}" for number, item in kept if number > place)


def objects(option: str, value: str, implied: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a comma list, or of a JSON object where `value` begins with `{`.

    Raises:
        CommandLineError: as `pairs`, or the JSON cannot be read.
    """
    return json_pairs(option, value) if value.startswith("{") else pairs(option, value, implied)


def json_pairs(option: str, text: str) -> tuple[tuple[str, str], ...]:
    """Return the leaves of a JSON object with dotted keys: `{"a": {"b": [true]}}` is `a.b.0` `on`, null is empty.

    Raises:
        CommandLineError: it is no JSON object.
    """
    value = load_json(option, text)
    if not isinstance(value, dict):
        raise CommandLineError(f"-{option} {text!r}: not a JSON object", hint="write {…}")
    try:
        return tuple(_leaves("", value))
    except RecursionError as error:
        raise _invalid(option, text) from error


def load_json(option: str, text: str) -> Any:
    """Return the value of a JSON text, in which QEMU takes strings in single quotes too (`qobject/json-lexer.c`).

    Raises:
        CommandLineError: it is no JSON.
    """
    import json

    try:
        return json.loads(_double_quoted(text) if "'" in text else text)
    except (ValueError, RecursionError) as error:
        raise _invalid(option, text) from error


def _invalid(option: str, text: str) -> CommandLineError:
    return CommandLineError(f"-{option} {text!r}: invalid JSON", hint='write {"key": "value"}')


def _double_quoted(text: str) -> str:
    """Return a JSON text with every string in double quotes; an apostrophe may be escaped in either kind of string."""
    import re

    def part(match: re.Match[str]) -> str:
        return {r"\'": "'", '"': r"\""}.get(match[0], match[0])

    def string(match: re.Match[str]) -> str:
        inner = re.sub(r"""\\.|\"""", part, match[0][1:-1], flags=re.DOTALL)
        return f'"{inner}"'

    return re.sub(r"""\"(?:\\.|[^"\\])*\"|'(?:\\.|[^'\\])*'""", string, text, flags=re.DOTALL)


def _leaves(prefix: str, value: Any, left: int = 2 * _DEEP) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a value that may have `left` levels more: each level makes every key below it longer."""
    if left == 0:
        raise RecursionError
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(f"{prefix}.{key}" if prefix else key, inner, left - 1)
        case list():
            for number, inner in enumerate(value):
                yield from _leaves(f"{prefix}.{number}", inner, left - 1)
        case bool():
            yield prefix, "on" if value else "off"
        case None:
            yield prefix, ""
        case _:
            yield prefix, str(value)


def truth(values: dict[str, str], *keys: str, default: bool = False) -> bool:
    """Return the boolean under the last of `keys` that is there (`on`, `yes`, `true`, `y`)."""
    found = [values[key] for key in keys if key in values]
    return found[-1] in _YES if found else default


def child(values: dict[str, str], key: str) -> dict[str, str]:
    """Return what stands under `key.`, without that prefix."""
    prefix = f"{key}."
    return {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}


def children(values: dict[str, str]) -> tuple[str, ...]:
    """Return the first parts of the dotted keys, each once, in order."""
    return tuple(dict.fromkeys(key.partition(".")[0] for key in values if "." in key))


def deep(option: str, depth: int) -> int:
    """Return `depth` plus one.

    Raises:
        CommandLineError: nodes are nested deeper than any real command line has them.
    """
    if depth >= _DEEP:
        raise CommandLineError(f"-{option}: more than {_DEEP} nested block nodes", hint="nest fewer")
    return depth + 1
