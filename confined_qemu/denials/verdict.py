"""What there is to say about a denial: the case with all that is known about it, and its explanation. Pure."""

from __future__ import annotations

import posixpath
import shlex

from confined_qemu.model import policynames
from confined_qemu.model.answers import Answer
from confined_qemu.model.errors import HINT
from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass
from confined_qemu.plan import places

if TYPE_CHECKING:
    from confined_qemu.denials.avc import Denial
    from confined_qemu.model.context import Context

FILES = frozenset({"file", "dir", "lnk_file", "chr_file", "blk_file", "sock_file", "fifo_file"})
"""The classes of what has a path."""


class Verdict(StrEnum):
    """What there is to do about a denial."""

    MEND = "mend"
    """It may be allowed, and the explanation says how."""
    KEEP = "keep"
    """It must stay denied."""
    MENDED = "mended"
    """The policy allows it by now."""
    HARMLESS = "harmless"
    """Nothing depends on it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why something was denied, and what mends it: a `command` for a root shell, or `advice` in words."""

    verdict: Verdict
    why: str
    command: str | None = None
    advice: str | None = None

    def describe(self) -> str:
        """Return it as a line, and what mends it as hints."""
        parts = ["must stay denied: " + self.why if self.verdict is Verdict.KEEP else self.why]
        if self.advice is not None:
            parts.append(self.advice)
        if self.command is not None:
            parts.append(f"run: {self.command}")
        return HINT.join(parts)


@dataclass(frozen=True, slots=True)
class Case:
    """A denial and what is known about it.

    `owner` names the other VM that has the target's categories, `path` is the file where it is known, `default` the
    label that the policy has for that path, `given` the label that the VM's own file got, `running` the name of
    the VM where it may still run.
    """

    denial: Denial
    answer: Answer
    owner: str | None = None
    path: str | None = None
    default: Context | None = None
    given: str | None = None
    running: str | None = None

    @property
    def allow(self) -> str | None:
        """The command that gives the file to the VM while it runs; None where the VM or the whole path is not known."""
        return self.allowing(quoted(self.path)) if self.path is not None else None

    def allowing(self, word: str) -> str | None:
        """Return that command for a file that `word` stands for; None where the VM is not known or has ended."""
        return f"confined-qemu allow {quoted(self.running)} {word}" if self.running is not None else None

    @property
    def by_launcher(self) -> bool:
        """Tell whether the project's own domain was denied, not a VM."""
        return self.denial.source.type in policynames.OWN_DOMAINS

    def asks(self, permissions: frozenset[str]) -> bool:
        """Tell whether one of `permissions` was denied."""
        return not permissions.isdisjoint(self.denial.permissions)


def adopted(path: str, label: str, why: str) -> Explanation:
    """Explain a file that lies where the policy expects no images: its folder becomes a place for them, or it moves."""
    folder = posixpath.dirname(path)
    if label in places.GENERIC and places.problem(folder) is None:
        return Explanation(Verdict.MEND, why, command=f"confined-qemu policy adopt {quoted(folder)}")
    return Explanation(Verdict.MEND, why, advice=places.mend(path, label))


def quoted(path: str) -> str:
    """Return `path` as one word of a shell; what no terminal should print is escaped, as bash and zsh read it."""
    if path.isprintable():
        return shlex.quote(path)
    escaped = ("\\" + c if c in "\\'" else c if c.isprintable() else _bytes(c) for c in path)
    return f"$'{''.join(escaped)}'"


def _bytes(character: str) -> str:
    # three digits each, so that what follows is not taken for a fourth
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
