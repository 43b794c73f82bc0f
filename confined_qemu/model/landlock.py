"""Landlock's words as values: what a process may still do once it has a ruleset, by the kernel's ABI. Pure.

Source: include/uapi/linux/landlock.h and Documentation/userspace-api/landlock.rst; the numbers are the kernel's.
"""

from __future__ import annotations

from confined_qemu.model.annotations import TYPE_CHECKING
from confined_qemu.model.enums import Enum, IntFlag
from confined_qemu.model.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from confined_qemu.model.facts import Identity


class Right(IntFlag):
    """What a rule allows with a file, or with all that lies below a folder."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class Tcp(IntFlag):
    """What a rule allows with a TCP port."""

    BIND = 1 << 0
    CONNECT = 1 << 1


class Scope(IntFlag):
    """What stays among the VM's own processes."""

    ABSTRACT_SOCKETS = 1 << 0
    SIGNALS = 1 << 1


class Lacking(Enum):
    """What an older ABI does not hold, and the ABI that does."""

    TRUNCATE = ("truncating files that it may not open", 3)
    TCP = ("TCP", 4)
    IOCTL = ("ioctl on devices", 5)
    SCOPES = ("signals and abstract sockets", 6)

    @property
    def what(self) -> str:
        """Return what is not held."""
        return self.value[0]

    @property
    def since(self) -> int:
        """Return the first ABI that holds it."""
        return self.value[1]


NEWEST = 7
"""The newest ABI whose words are known here; a newer kernel is used as this one."""
_V1 = Right((1 << 13) - 1)
_ADDED = {2: Right.REFER, 3: Right.TRUNCATE, 5: Right.IOCTL_DEV}
FILE_RIGHTS = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
"""What a rule on what is no folder may hold (security/landlock/fs.c, `ACCESS_FILE`)."""

READ = Right.READ_FILE | Right.READ_DIR
"""A file to read, or a folder with all that is in it."""
WRITE = Right.WRITE_FILE | Right.TRUNCATE
RUN = Right.EXECUTE | Right.READ_FILE
DEVICE = Right.READ_FILE | Right.WRITE_FILE | Right.IOCTL_DEV
TREE = READ | WRITE | _V1 & ~Right.EXECUTE & ~Right.MAKE_CHAR & ~Right.MAKE_BLOCK | Right.REFER
"""A folder of the VM's own, or one that it shares for writing: all but running what lies there and making devices."""


def rights(abi: int) -> Right:
    """Return all that rulesets of this ABI can hold of files."""
    return Right(sum((added for since, added in _ADDED.items() if abi >= since), _V1))


def lacking(abi: int) -> tuple[Lacking, ...]:
    """Return what this ABI does not hold."""
    return tuple(one for one in Lacking if abi < one.since)


@dataclass(frozen=True, slots=True)
class Rule:
    """What may be done with the file at `path`, or, for a folder, with all below it; `why` names who asked.

    `identity` is the inode that the plan looked at, None where any that lies there will do.
    """

    path: str
    rights: Right
    why: str
    identity: Identity | None = None

    @property
    def words(self) -> str:
        """Return the rights in words: `read write truncate`."""
        return " ".join(_words(self.rights))


def _words(held: Right) -> Iterator[str]:
    names = {
        "read": READ & held,
        "write": Right.WRITE_FILE & held,
        "truncate": Right.TRUNCATE & held,
        "execute": Right.EXECUTE & held,
        "ioctl": Right.IOCTL_DEV & held,
        "make": (Right.MAKE_REG | Right.MAKE_DIR) & held,
        "make_sock": (Right.MAKE_SOCK & held) if not Right.MAKE_REG & held else 0,
        "remove": (Right.REMOVE_FILE | Right.REMOVE_DIR) & held,
    }
    return (name for name, found in names.items() if found)


@dataclass(frozen=True, slots=True)
class Ports:
    """What a VM may do with TCP: the ports that it binds and connects to, None where they are not known or all."""

    bind: frozenset[int] | None = None
    connect: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All that a process may still do. What is not handled by `files`, `tcp` and `scopes` stays as it was."""

    abi: int
    files: Right
    tcp: Tcp
    scopes: Scope
    rules: tuple[Rule, ...]
    bind: frozenset[int] = frozenset()
    connect: frozenset[int] = frozenset()

    @classmethod
    def of(cls, abi: int, rules: tuple[Rule, ...], ports: Ports, scopes: Scope) -> Ruleset:
        """Return the strictest ruleset that this ABI can hold."""
        abi = min(abi, NEWEST)
        handled = Tcp(0)
        if abi >= Lacking.TCP.since:
            handled |= Tcp.BIND if ports.bind is not None else Tcp(0)
            handled |= Tcp.CONNECT if ports.connect is not None else Tcp(0)
        known = rights(abi)
        return cls(
            abi,
            known,
            handled,
            scopes if abi >= Lacking.SCOPES.since else Scope(0),
            tuple(merged(rules, known)),
            ports.bind or frozenset(),
            ports.connect or frozenset(),
        )

    def describe(self) -> list[str]:
        """Return the ruleset as lines of the plan."""
        lines: dict[tuple[str, str], list[str]] = {}
        for rule in self.rules:
            lines.setdefault((rule.words, rule.why), []).append(rule.path)
        return [
            f"landlock ABI {self.abi}; TCP {self._network()}; {self._scoped()}",
            *(f"rule     {' '.join(paths)}: {words} ({why})" for (words, why), paths in lines.items()),
        ]

    def _network(self) -> str:
        bind = f"binds {_numbers(self.bind)}" if Tcp.BIND & self.tcp else "binds any port"
        connect = f"connects to {_numbers(self.connect)}" if Tcp.CONNECT & self.tcp else "connects anywhere"
        return f"{bind} and {connect}"

    def _scoped(self) -> str:
        names = ((Scope.SIGNALS, "signals"), (Scope.ABSTRACT_SOCKETS, "abstract sockets"))
        held = [name for scope, name in names if scope & self.scopes]
        return f"{' and '.join(held)} stay inside" if held else "signals and abstract sockets are free"

    def to_json(self) -> dict[str, Any]:
        """Return the object that `plan --json` prints."""
        return {
            "abi": self.abi,
            "rules": [{"path": rule.path, "rights": rule.words.split(), "source": rule.why} for rule in self.rules],
            "tcp_bind": sorted(self.bind) if Tcp.BIND & self.tcp else None,
            "tcp_connect": sorted(self.connect) if Tcp.CONNECT & self.tcp else None,
            "scopes": [str(scope.name).lower() for scope in Scope if scope & self.scopes],
        }


def _numbers(ports: frozenset[int]) -> str:
    """Return ports as a person writes them: `22`, `5900-5999`."""
    starts = [port for port in sorted(ports) if port - 1 not in ports]
    ends = [port for port in sorted(ports) if port + 1 not in ports]
    spans = [str(first) if first == last else f"{first}-{last}" for first, last in zip(starts, ends, strict=True)]
    return ", ".join(spans) or "no port"


def merged(rules: tuple[Rule, ...], known: Right) -> Iterator[Rule]:
    """Yield each path's rule once, with what all of them allow there, as far as this ABI knows it."""
    found: dict[str, Rule] = {}
    for rule in rules:
        before = found.get(rule.path)
        wanted = (rule.rights | before.rights if before is not None else rule.rights) & known
        first = before or rule
        found[rule.path] = Rule(rule.path, wanted, first.why, first.identity or rule.identity)
    yield from found.values()


@dataclass(frozen=True, slots=True)
class Owned:
    """A part of QEMU's own installation on this host."""

    path: str
    rights: Right
    why: str


@dataclass(frozen=True, slots=True)
class LandlockFacts:
    """The kernel's Landlock, `abi` 0 where it has none, and what the rules are made of.

    `problem` says why the kernel cannot be asked.
    """

    abi: int
    installation: tuple[Owned, ...] = ()
    problem: str | None = None
