"""What a benchmark measured: series of values side by side, as a table and as JSON.

Stands alone: it runs in the guest, too.
"""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Series:
    """One thing that was measured several times; values are in the unit of its group."""

    name: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the middle value."""
        return statistics.median(self.values)


@dataclass
class Group:
    """Series that were measured in turns in one run, so that they may be compared; others are held to the first."""

    title: str
    unit: str
    series: list[Series]

    def table(self) -> str:
        """Return a markdown table: spread and median of each, and how much its median is more than the first one's."""
        first = self.series[0].median
        lines = [f"| {self.title} | min | median | max | more | ratio |", "|---|---|---|---|---|---|"]
        for one in self.series:
            values = " | ".join(self._worded(value) for value in (min(one.values), one.median, max(one.values)))
            ratio = f"{one.median / first:.2f}" if first else ""
            lines.append(f"| {one.name} | {values} | {self._worded(one.median - first)} | {ratio} |")
        return "\n".join(lines)

    def _worded(self, value: float) -> str:
        digits = 0 if abs(value) >= 100 or value == int(value) else 1
        return f"{value:.{digits}f} {self.unit}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        return asdict(self)


def from_json(found: dict[str, Any]) -> Group:
    """Return the group that `to_json` wrote."""
    return Group(found["title"], found["unit"], [Series(**one) for one in found["series"]])
