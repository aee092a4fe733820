"""Pictures. Each function draws one figure and writes it as PNG."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from ace_jax.evaluation.alignment import alignment_distance
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.pairs import count_pairs, toggle_pairs
from ace_jax.survey.personas import Attribute

# Okabe and Ito's colours, which colour-blind readers can tell apart; wine for their yellow.
COLOURS = (
    *("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#882255"),
)


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


def effect_sizes(dataset: Dataset, path: Path) -> None:
    """Draws how far each attribute moves answers, by topic (as the paper's Fig. 5).

    A field is the mean, over countries and questions, of the distance between the answers of two
    levels of the attribute, nothing else named (G = 1), on the scale of 0 to 100. Sampling noise
    is part of it, more so where few were asked.

    Args:
      dataset: cells and topics.
      path: of the PNG.
    """
    topic = dataset.questions.set_index("question_id")["topic"]
    columns = {
        attribute.name.replace("_", " "): _moved(dataset, attribute).groupby(topic).mean()
        for attribute in dataset.attributes
    }
    table = pd.DataFrame(columns).reindex(topic.drop_duplicates())
    figure, axes = plt.subplots(
        figsize=(3 + 0.9 * len(columns), 1.2 + 0.35 * len(table)), layout="constrained"
    )
    image = axes.imshow(table, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_yticks(range(len(table)), list(table.index))
    middle = 0.6 * np.nanmax(table.to_numpy())
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        colour = "white" if value > middle else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
    axes.set_title("How far an attribute moves answers (0-100)", fontsize=11)
    figure.colorbar(image, label="distance of the answers of two levels")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _moved(dataset: Dataset, attribute: Attribute) -> pd.Series:
    """Returns the mean distance by question_id, over countries and pairs of levels at G = 1."""
    cells = dataset.cells[dataset.cells["granularity"] == 1].reset_index(drop=True)
    if not count_pairs(cells, (attribute,), min_n=1)[1]:
        return pd.Series(dtype=float)
    pairs = toggle_pairs(cells, (attribute,), min_n=1)
    ends = zip(cells["p"].iloc[pairs["cell_0"]], cells["p"].iloc[pairs["cell_1"]], strict=True)
    distance = pd.Series([100 * alignment_distance(*pair) for pair in ends])
    return distance.groupby(pairs["question_id"]).mean()
