"""A ruleset of Landlock's: what a VM's process may still do once it has it. Pure."""

from __future__ import annotations

from confined_qemu.model.landlock import NEWEST, READ, Lacking, Right, Scope, Tcp, rights
from confined_qemu.model.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from confined_qemu.model.facts import Identity


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


def _joined(first: Rule, second: Rule) -> Rule:
    return Rule(first.path, first.rights | second.rights, first.why, first.identity or second.identity)


def merged(rules: tuple[Rule, ...], known: Right) -> Iterator[Rule]:
    """Yield each path's rule once, with what all of them allow there, as far as this ABI knows it."""
    found: dict[str, Rule] = {}
    for rule in rules:
        before = found.get(rule.path)
        found[rule.path] = rule if before is None else _joined(before, rule)
    unknown = ~int(known)
    for rule in found.values():
        yield rule if not int(rule.rights) & unknown else Rule(rule.path, rule.rights & known, rule.why, rule.identity)
