"""Pictures. Each function draws one figure and writes it as PNG."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def score_by_granularity(runs: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draws the alignment score over all countries against granularity, one line a run.

    Args:
      runs: name -> table of `alignment.score_table`.
      path: of the PNG.
    """
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    # Points of several runs stand side by side, so that their intervals can be read.
    offsets = 0.06 * (np.arange(len(runs)) - (len(runs) - 1) / 2)
    for (name, table), colour, offset in zip(runs.items(), COLOURS, offsets, strict=False):
        rows = table[table["country"] == "ALL"]
        score = 100 * rows["score"].to_numpy()
        interval = 100 * rows[["ci_low", "ci_high"]].to_numpy().T
        axes.errorbar(
            rows["granularity"] + offset,
            score,
            yerr=np.abs(interval - score),
            marker="o",
            capsize=3,
            color=colour,
            label=name,
        )
    axes.set_xticks(sorted({g for table in runs.values() for g in table["granularity"]}))
    axes.set_xlabel("persona granularity G (attributes named)")
    axes.set_ylabel("alignment score")
    axes.set_title("Alignment with the survey, 95 % intervals over questions", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
