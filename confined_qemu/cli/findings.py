"""What `check` says of one thing that it looked at."""

from __future__ import annotations

from confined_qemu.model.errors import printable
from confined_qemu.model.lean import TYPE_CHECKING, StrEnum, dataclass

if TYPE_CHECKING:
    from typing import Any


class Grade(StrEnum):
    """How a finding bears on starting a VM."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    verdict: Grade
    subject: str
    text: str

    @property
    def failed(self) -> bool:
        """Tell whether no VM starts because of it."""
        return self.verdict is Grade.FAIL

    def describe(self) -> str:
        """Return the finding as one line, and beneath it a line for each hint."""
        return f"{self.verdict:4}  {printable(self.subject)}: {self.text}".replace("\n", "\n" + " " * 6)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `check --json` prints."""
        return {"verdict": str(self.verdict), "subject": self.subject, "text": self.text}
