"""Draws what integration/bench measured, with the library that the development tools have."""

import json
import sys
from typing import Any

from integration.guestlib.series import Group, from_json


def draw(groups: list[Group], path: str) -> None:
    """Write a PNG: for each group of times a panel, for each series a box over its spread, and its single values."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    shown = [group for group in groups if group.unit == "ms" and len(group.series) > 1]
    heights = [len(group.series) for group in shown]
    figure, panels = plt.subplots(
        len(shown), 1, figsize=(9, 0.42 * sum(heights) + 0.9 * len(shown)), squeeze=False,
        height_ratios=heights, layout="constrained",
    )  # fmt: skip
    for panel, group in zip(panels[:, 0], shown, strict=True):
        _panel(panel, group)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


def _panel(panel: Any, group: Group) -> None:
    series = group.series[::-1]  # the first one on top
    panel.boxplot([one.values for one in series], orientation="horizontal", whis=(0, 100), widths=0.5)
    for row, one in enumerate(series, start=1):
        panel.plot(one.values, [row] * len(one.values), ".", color="tab:blue", alpha=0.5)
    panel.set_yticks(range(1, len(series) + 1), [one.name.replace("`", "") for one in series], fontsize=8)
    panel.set_xlim(left=0)
    panel.set_title(f"{group.title} ({group.unit})", fontsize=9, loc="left")


def main(argv: list[str]) -> int:
    """Draw the groups on standard input into the file that is named."""
    draw([from_json(found) for found in json.load(sys.stdin)], argv[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
