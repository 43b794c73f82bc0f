"""QEMU's own reading of its command line: arguments in, every file of the host that they name out. Pure.

Source: `softmmu/vl.c` (`qemu_init`, `qemu_set_option`). The table of options is in `options`; disks, character devices
and what else needs code are in the modules beside this one. An option that may name a file and is not known is refused.
"""

from __future__ import annotations

import posixpath

from confined_qemu.model.commas import escape
from confined_qemu.model.errors import CommandLineError, printable
from confined_qemu.model.invocation import Accel, Invocation
from confined_qemu.model.lean import TYPE_CHECKING, dataclass, field, replace
from confined_qemu.model.resource import Access, Role, Tap
from confined_qemu.read.qemu import chardevs, configs, networks, special
from confined_qemu.read.qemu.blocks import Blocks
from confined_qemu.read.qemu.collector import Collector, Socket, objects, pairs, read_keys, truth
from confined_qemu.read.qemu.options import OPTIONS, Kind, Option
from confined_qemu.read.qemu.queries import is_query, name_of
from confined_qemu.read.settings import UnknownOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from confined_qemu.model.resource import Resource

    Reader = Callable[[str], str | None]
    """Returns a configuration file's text, None where there is no such file."""

_DEFAULT_NAME = "qemu"
_NO_WINDOW = frozenset({"curses", "daemonize", "nographic", "spice", "vnc"})
"""Options with which QEMU opens no window of its own accord (`softmmu/vl.c`)."""
_GUARDS = ("confidential-guest-support", "memory-encryption")
_FLASH = ("pflash0", "pflash1")
_UNSETTABLE = frozenset({"audiodev", "boot-opts", "machine", "object", "smp-opts"})
"""Groups that QEMU keeps in a form which `-set` does not reach (`is_qemuopts_group`)."""
_LONGEST_NAME = 63
"""Bytes of a group, an id or a key in `-set`."""
READERS: dict[str, Callable[[Collector, str, str], Socket | Tap | None]] = {
    "netdev": networks.network,
    "device": special.device,
    "audiodev": special.audio,
    "audio": special.audio,
    "cpu": special.processor,
    "icount": special.icount,
    "plugin": special.plugin,
    "tpmdev": special.tpmdev,
    "fsdev": special.filesystem,
    "virtfs": special.filesystem,
    "nic": networks.network,
    "net": networks.network,
    "vnc": special.vnc,
    "display": special.display,
    "spice": special.spice,
    "incoming": special.incoming,
    "initrd": special.initrd,
    "object": special.object_,
    "global": special.global_,
}
"""The readers of the options of kind OWN; each returns the socket in the value that is to be rewritten."""


def read(  # noqa: PLR0913 - what a caller may want otherwise
    emulator: str,
    arguments: Sequence[str],
    *,
    name: str | None = None,
    config: Reader | None = None,
    origins: Mapping[int, str] | None = None,
    unknown: UnknownOptions = UnknownOptions.REFUSE,
) -> Invocation:
    """Return what QEMU would make of `arguments` (without the emulator itself).

    The result's arguments are the given ones, with two exceptions. The launcher makes a unix socket that listens:
    `fd={NAME}` stands in the place of its path, and the listener NAME says where it is. A configuration file with such
    a socket in it is written out as options.

    `name` is the VM's where `-name` gives none. `config` returns the text of a configuration file, None where there is
    none. `origins` come with a VM spec: for the number of an argument, the spec's key that asks for the files in it;
    that key is the files' source and the name of its sockets. `unknown` says what becomes of an option that is not
    known. A query (`-device help`) has no resources; a spec is never taken for one.

    Raises:
        CommandLineError: an option is not known, or cannot be read, or may name a file that cannot be told.
        HostError: from `config`.
    """
    if origins is None and is_query(arguments):
        return Invocation(name or _DEFAULT_NAME, emulator, tuple(arguments), query=True)
    items = _taken_apart(arguments, config)
    reading = _Reading(Collector(_ids(items), unknown, origins=origins or {}, guards=_guards(items)), last=_last(items))
    for item in items:
        reading.take(item)
    reading.blocks.finish(reading.collector, snapshot=reading.snapshot)
    collector = reading.collector
    executed = tuple(collector.arguments)
    folders = [item.value for item in _all(items) if item.option == "L" and item.value is not None]
    return Invocation(
        name=reading.name or name or _DEFAULT_NAME,
        emulator=emulator,
        arguments=executed,
        resources=tuple(_looked_for(resource, folders) for resource in collector.resources),
        listeners=tuple(collector.listeners),
        taps=tuple(collector.taps),
        accel=_accel(reading.accels, emulator),
        needs_tmpdir=collector.needs_tmpdir,
        daemonize=reading.daemonize,
        snapshot=reading.snapshot,
        window=_window(items),
        remarks=tuple(collector.remarks),
        given=tuple(arguments) if executed != tuple(arguments) else None,
    )


def _all(items: Sequence[_Item]) -> Iterator[_Item]:
    for item in items:
        yield item
        yield from item.inside


def _window(items: Sequence[_Item]) -> str | None:
    """Return the kind of the display where it is a window; where none is named, QEMU opens one if it can."""
    values = [item.value or "" for item in _all(items) if item.option == "display"]
    kinds = [value.partition(",")[0].removeprefix("type=") for value in values]
    if not kinds:
        return None if any(item.option in _NO_WINDOW for item in _all(items)) else "default"
    return kinds[-1] if kinds[-1] in special.WINDOWS else None


def _looked_for(resource: Resource, folders: Sequence[str]) -> Resource:
    """Return a resource with the names under `-L` by which QEMU finds it where it is not in its working directory."""
    found = resource.role in {Role.FIRMWARE, Role.OPTION_ROM} and resource.access is Access.READ
    if not found or not folders or resource.path.startswith("/"):
        return resource
    inner = "keymaps/" if resource.source == "-k" else ""
    return replace(resource, otherwise=tuple(f"{folder}/{inner}{resource.path}" for folder in folders))


def _ids(items: Sequence[_Item]) -> frozenset[str]:
    """Return the ids that the command line gives its own character devices."""
    lists = (item.value for item in _all(items) if item.option == "chardev" and item.value is not None)
    return frozenset(text for value in lists for key, text in pairs("chardev", value) if key == "id")


def _guards(items: Sequence[_Item]) -> frozenset[str]:
    """Return the ids of the objects that the machine takes to guard the guest's memory."""
    machines = [item.meant or "" for item in _all(items) if item.option in {"M", "machine"}]
    return frozenset(text for value in machines for key, text in objects("machine", value, "type") if key in _GUARDS)


def _last(items: Sequence[_Item]) -> dict[str, int]:
    """Return the position of each option's last occurrence: of two `-kernel`, QEMU opens the second alone."""
    return {item.option: item.position for item in items if item.option is not None}


@dataclass
class _Reading:
    """One command line while it is read, option by option."""

    collector: Collector
    last: dict[str, int]
    blocks: Blocks = field(default_factory=Blocks)
    accels: list[str] = field(default_factory=list)
    name: str = ""
    daemonize: bool = False
    snapshot: bool = False

    merged: set[int] = field(default_factory=set)
    """Positions of `-set` options that a rewritten option holds already."""

    def take(self, item: _Item) -> None:
        """Take one option; what is not rewritten stays as it was written."""
        collector = self.collector
        collector.position = item.position
        if item.option is None:
            self.blocks.disk(item.position, None, item.value or "")
            collector.placed[item.position] = len(collector.arguments)
            collector.arguments.append(item.value or "")
            return
        if item.option == "set" and item.position in self.merged:
            return
        start, descriptors = len(collector.arguments), collector.descriptors
        if not item.argument:
            collector.arguments.append("-no-user-config")  # stays where the defaults are written out
        for inner in item.inside:
            self.take(inner)
        if item.option != "readconfig" or item.value is None:
            self._option(item.argument, item.option, item.meant)
        rewritten = collector.descriptors > descriptors
        if rewritten:
            self.merged |= {position for position, _, _ in item.changes}
        elif item.value is not None:
            collector.arguments[start:] = [item.argument, item.value] if item.argument else []
            if item.argument:
                collector.placed[item.position] = start + 1
        if item.option == "readconfig" and item.value is not None and not rewritten:
            collector.add(item.value, Role.CONFIG, Access.READ, "-readconfig" if item.argument else "QEMU's defaults")

    def _option(self, argument: str, option: str, value: str | None) -> None:
        """Take one option, written as `argument`; its value is None where it has none."""
        spec = OPTIONS.get(option)
        if spec is None:
            self._unknown(argument, value)
            return
        if spec.kind is Kind.FLAG:
            self._flag(option)
            self.collector.arguments.append(argument)
        elif value is None:
            # the last option has no value: QEMU says so
            self.collector.arguments.append(argument)
        elif spec.kind is Kind.CHARDEV:
            chardevs.chardev(self.collector, argument, value)
        elif spec.kind is Kind.LEGACY:
            chardevs.legacy(self.collector, option, argument, value)
        elif spec.kind is Kind.OWN:
            made = READERS[option](self.collector, option, value)
            if option == "device":
                self._used(value)
            self.collector.arguments.append(argument)
            if made is None:
                self.collector.arguments.append(value)
            elif isinstance(made, Tap):
                self.collector.tap(made)
            else:
                self.collector.socket(made)
        else:
            self._value(option, spec, value)
            self.collector.arguments += [argument, value]

    def _unknown(self, argument: str, value: str | None) -> None:
        collector = self.collector
        if collector.unknown is UnknownOptions.REFUSE:
            raise CommandLineError(
                f"{argument}: unknown option, and QEMU may open files that it names",
                hint="leave it out, or pass it on unread with --unknown-options=warn",
            )
        collector.arguments += [argument] if value is None else [argument, value]
        taken = "" if value is None else f", and {value!r} is taken for its value"
        remark = f"{argument}: unknown option: files that it names are not labelled{taken}"
        collector.remarks.append(printable(remark))

    def _flag(self, option: str) -> None:
        self.daemonize |= option == "daemonize"
        self.snapshot |= option == "snapshot"
        if option in {"enable-kvm", "no-kvm"}:
            self._machine_accel("kvm" if option == "enable-kvm" else "tcg")

    def _value(self, option: str, spec: Option, value: str) -> None:
        collector = self.collector
        match spec.kind:
            case Kind.PATH if option == "L" or collector.position == self.last[option]:
                self._path(option, spec, value)
            case Kind.LIST:
                self._list(option, spec, value)
            case Kind.DISK:
                self.blocks.disk(collector.position, option, value)
            case Kind.DRIVE:
                self.blocks.drive(collector.position, value)
            case Kind.BLOCKDEV:
                self.blocks.blockdev(collector.position, value)
            case _ if option == "name":
                self.name = dict(pairs(option, value, "guest")).get("guest", self.name)

    def _path(self, option: str, spec: Option, value: str) -> None:
        if option == "D" and "%" in value:
            raise CommandLineError(
                f"-D {value!r}: the log is created before QEMU starts, so its name cannot hold QEMU's process number",
                hint="use a name without %",
            )
        if option == "mem-path":
            special.memory(self.collector, value, f"-{option}")
        elif spec.use is not None:
            self.collector.use(value, spec.use, f"-{option}")

    def _list(self, option: str, spec: Option, value: str) -> None:
        values = objects(option, value, spec.implied)
        read_keys(self.collector, option, spec, values)
        last = dict(values)
        if option in {"M", "machine"}:
            if "accel" in last:
                self._machine_accel(last["accel"])
            self.blocks.flash.update(last[key] for key in _FLASH if key in last)
        elif option == "accel":
            self.accels.append(last.get("accel", ""))

    def _used(self, value: str) -> None:
        """Note which drive a device uses."""
        last = dict(objects("device", value, "driver"))
        if "drive" in last:
            self.blocks.device(last.get("driver", ""), last["drive"], shares=truth(last, "share-rw"))

    def _machine_accel(self, value: str) -> None:
        """Take `-machine accel=` (and `-enable-kvm`, the same): QEMU keeps the last one."""
        self.accels = value.split(":")


def _accel(wanted: Sequence[str], emulator: str) -> Accel:
    """Return the accelerator that QEMU may end up with: it takes the first of the list that works.

    TCG always works, so what stands behind it counts for nothing (`softmmu/vl.c`, `configure_accelerators`).
    """
    known = [name for name in wanted if name in {"kvm", "tcg"}]
    if not wanted:
        # its own defaults are kvm:tcg where the program's name ends with kvm, else tcg:kvm
        return Accel.AUTO if posixpath.basename(emulator).endswith("kvm") else Accel.TCG
    match known:
        case ["kvm", *rest]:
            return Accel.AUTO if "tcg" in rest else Accel.KVM
        case _:
            return Accel.TCG


# ---- the command line taken apart as QEMU does it: its options in order, each with what `-set` makes of it later


@dataclass
class _Item:
    """One option. `argument` is how it was written, empty for the file of defaults that is read unasked.

    `option` is None for a positional disk image, `value` where there is none. `changes` are what `-set` puts in it, as
    (position of the `-set`, key, text). `inside` are the options of the configuration file that it names.
    """

    position: int
    argument: str
    option: str | None
    value: str | None
    changes: list[tuple[int, str, str]] = field(default_factory=list)
    inside: list[_Item] = field(default_factory=list)

    @property
    def meant(self) -> str | None:
        """Return the value with its changes in it: QEMU takes the last of two equal keys."""
        if not self.changes:
            return self.value
        return ",".join([self.value or "id=", *(f"{key}={escape(text)}" for _, key, text in self.changes)])


def _taken_apart(arguments: Sequence[str], config: Reader | None) -> list[_Item]:
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
        default = _Item(-1, "", "readconfig", configs.DEFAULT)
        text = config(configs.DEFAULT)
        if text is not None:
            default.inside = _items(default, text)
            items.insert(0, default)
    _follow_sets(items)
    return items


def _walk(arguments: Sequence[str]) -> Iterator[_Item]:
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
            yield _Item(position, argument, None, argument)
        elif _takes(option, following):
            yield _Item(position, argument, option, following)
            index += 1
        else:
            yield _Item(position, argument, option, None)
        index += 1


def _takes(option: str, following: str | None) -> bool:
    """Tell whether what follows an option is its value."""
    spec = OPTIONS.get(option)
    if spec is not None:
        return spec.kind is not Kind.FLAG
    return following is not None and not following.startswith("-")


# ---- configuration files


def _inside(item: _Item, config: Reader | None) -> list[_Item]:
    path = item.value or ""
    text = config(path) if config is not None else None
    if text is None:
        raise CommandLineError(f"no such file ({item.argument} names it)", where=path)
    return _items(item, text)


def _items(item: _Item, text: str) -> list[_Item]:
    found = []
    for group in configs.parse(text, item.value or ""):
        option = configs.OPTION_OF.get(group.name)
        if option is None:
            raise CommandLineError(
                f"unknown group {group.name!r}, and QEMU may open files that it names",
                where=f"{item.value}:{group.number}",
                hint="use the option of that name on the command line",
            )
        found.append(_Item(item.position, f"-{option}", option, group.value))
    return found


# ---- -set


def _follow_sets(items: list[_Item]) -> None:
    """Note every `-set` in the option that it changes, which stands before it."""
    seen: dict[tuple[str, str], _Item] = {}
    if not any(item.option == "set" for item in items):
        return
    for item in items:
        if item.option == "set" and item.value is not None:
            _follow(item, item.value, seen)
        for one in (item, *item.inside):
            name = _id(one)
            if name is not None and one.option is not None:
                seen.setdefault((one.option, name), one)


def _id(item: _Item) -> str | None:
    option, value = item.option, item.value
    if option is None or option not in configs.OPTION_OF.values() or value is None or value.startswith("{"):
        return None
    return dict(pairs(option, value, OPTIONS[option].implied)).get("id")


def _follow(item: _Item, value: str, seen: dict[tuple[str, str], _Item]) -> None:
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
