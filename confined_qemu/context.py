"""The SELinux security context as a value, in the kernel's raw text form."""

from __future__ import annotations

import re

from confined_qemu.errors import ValueProblem
from confined_qemu.mcs import Level, Range
from confined_qemu.values import dataclass, replace

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_FIELDS = ("user", "role", "type")


@dataclass(frozen=True, slots=True)
class Context:
    """`user:role:type[:range]`; `range` is None on a policy without levels."""

    user: str
    role: str
    type: str
    range: Range | None = None

    @classmethod
    def parse(cls, text: str) -> Context:
        """Read a raw context; a trailing NUL, as the kernel's files give it, is allowed.

        Raises:
            ValueProblem: fewer than three fields, a strange character in a field, or a bad range.
        """
        fields = text.rstrip("\0").split(":", 3)
        if len(fields) < len(_FIELDS):
            raise ValueProblem(f"{text!r} is not an SELinux context such as system_u:system_r:svirt_t:s0:c1,c2")
        for name, field in zip(_FIELDS, fields, strict=False):
            if _NAME.fullmatch(field) is None:
                raise ValueProblem(f"{text!r} is not an SELinux context: {field!r} is no {name}")
        return cls(fields[0], fields[1], fields[2], Range.parse(fields[3]) if len(fields) > len(_FIELDS) else None)

    def __str__(self) -> str:
        text = f"{self.user}:{self.role}:{self.type}"
        return text if self.range is None else f"{text}:{self.range}"

    def at(self, level: Level) -> Context:
        """Return the same context with both ends of its range at `level`."""
        return replace(self, range=Range.single(level))
