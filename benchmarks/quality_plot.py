"""The figure of docs/experiments.md: every training a point, every arm a row, every cell a panel."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

Cells = Mapping[tuple[str, str], Mapping[str, list[dict[str, Any]]]]
ROW, MARGIN, WIDTH = 0.22, 0.75, 7.5  # inches
COLOURS = {"uniform": "#555555", "random": "#999999", "seed": "#000000"}
FOUND = "#1f6fb4"


def plot(cells: Cells, path: Path) -> None:
    """Write the figure; `cells` is (network, budget) to arm to lines."""
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "morphsearch", "font.size": 9})
    shown = {key: arms for key, arms in cells.items() if len(arms) > 1}
    heights = [ROW * len(arms) for arms in shown.values()]
    figure, axes = plt.subplots(
        len(shown),
        1,
        figsize=(WIDTH, sum(heights) + MARGIN * len(shown)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for panel, ((network, budget), arms) in zip(axes[:, 0], shown.items(), strict=True):
        alike = [other for key, other in cells.items() if key[0] == network]
        epochs = {line["epochs"] for lines in arms.values() for line in lines}
        seeds = [line for other in alike for line in other.get("seed", []) if line["epochs"] in epochs]
        if seeds:
            panel.axvline(100 * statistics.mean(line["accuracy"] for line in seeds), color="#000000", lw=0.8, ls=":")
        for row, (arm, lines) in enumerate(arms.items()):
            values = [100 * line["accuracy"] for line in lines]
            colour = COLOURS.get(arm, FOUND)
            panel.plot(values, [row] * len(values), "o", color=colour, ms=4, alpha=0.55, mew=0)
            panel.plot([statistics.mean(values)], [row], "|", color=colour, ms=13, mew=1.8)
        panel.set_yticks(range(len(arms)), list(arms))
        panel.set_ylim(len(arms) - 0.4, -0.6)
        panel.set_title(f"{network}, {budget}", loc="left", fontsize=9)
        panel.grid(axis="x", lw=0.4, alpha=0.6)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
        panel.tick_params(left=False)
    axes[-1, 0].set_xlabel("test accuracy, %; dotted: the seed, trained as long")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
