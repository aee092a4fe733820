"""How figures look, and the pictures that `evaluate` and `prepare` write (PNG)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ace_jax.evaluation.effects import effect_table
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.survey.dataset import Dataset
from ace_jax.survey.pairs import count_pairs

COLUMN = 3.5  # inches: the width of a paper's column
# Okabe and Ito's colours, which colour-blind readers can tell apart; wine for their yellow.
COLOURS = (
    *("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#882255"),
)
MARKERS = "os^DvP*"
STYLE: Any = {
    "font.size": 8,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "figure.titlesize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "ace_jax",  # the same figures give the same bytes
}


@contextmanager
def drawn(
    path: Path, size: tuple[float, float], formats: Sequence[str] = ("png", "svg"), **grid: Any
) -> Iterator[tuple[Figure, Any]]:
    """Yields a figure and its axes (rows x columns); writes it beside `path` in every format."""
    with plt.rc_context(STYLE):
        options = {"layout": "constrained"} | grid
        figure, axes = plt.subplots(figsize=size, squeeze=False, **options)
        yield figure, axes
        for kind in formats:
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(path.with_suffix(f".{kind}"), dpi=200, metadata=metadata)
            figure.set_layout_engine("none")  # the layout is done, and repeating it is slow
        plt.close(figure)


def plain(text: object) -> str:
    """Returns text that matplotlib does not read as mathematics."""
    return str(text).replace("$", r"\$")


def looks_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the colour and marker of each method; both differ, for readers without colours."""
    return {
        name: {"color": colour, "marker": marker, "label": plain(name)}
        for name, colour, marker in zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    }


def legend_below(figure: Figure, axes: Axes) -> None:
    """Puts the legend of some axes, if any, at the foot, on as many lines as needed."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        fit = int(figure.get_figwidth() / (0.45 + 0.075 * max(map(len, labels))))
        across = max(1, min(len(handles), fit))
        place: Any = {"loc": "outside lower center", "ncols": across, "columnspacing": 1.2}
        figure.legend(handles, labels, **place)


def score_lines(axes: Axes, scores: pd.DataFrame, looks: Mapping[str, dict[str, Any]]) -> None:
    """Draws scores with intervals against granularity, one line a method."""
    # Points of several methods stand side by side, so that their intervals can be read.
    offsets = min(0.07, 0.6 / len(looks)) * (np.arange(len(looks)) - (len(looks) - 1) / 2)
    for (name, look), offset in zip(looks.items(), offsets, strict=True):
        rows = scores[scores["run"] == name]
        error = np.abs(rows[["ci_low", "ci_high"]].to_numpy().T - rows["score"].to_numpy())
        axes.errorbar(rows["granularity"] + offset, rows["score"], yerr=error, capsize=1.5, **look)
    axes.set_xticks(sorted(scores["granularity"].unique()))
    axes.set_xlabel("persona granularity G (attributes named)")
    axes.set_ylabel("alignment score")
    axes.grid(axis="y", alpha=0.3)


def score_by_granularity(runs: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draws the scores (`alignment.score_table`) over all countries, one line a run."""
    tables = [table[table["country"] == ALL].assign(run=name) for name, table in runs.items()]
    scores = pd.concat(tables, ignore_index=True)
    percent = ["score", "ci_low", "ci_high"]
    scores[percent] *= 100
    with drawn(path, (1.3 * COLUMN, 3.2), ("png",)) as (_, [[axes]]):
        score_lines(axes, scores, looks_of(list(runs)))
        axes.set_title("Alignment with the survey, 95 % intervals over questions")
        axes.legend()


def effect_sizes(dataset: Dataset, path: Path) -> None:
    """Draws how far each attribute moves answers, by topic (as the paper's Fig. 5).

    A field is the mean distance (0-100) between the answers of two levels of the attribute, with
    nothing else named (G = 1), over countries and questions. It includes sampling noise, more so
    where few respondents answered.
    """
    topic = dataset.questions.set_index("question_id")["topic"]
    cells = dataset.cells[dataset.cells["granularity"] == 1].reset_index(drop=True)
    cells = cells.assign(p_data=cells["p"], p_model=cells["p"])
    columns = {attribute.name: pd.Series(dtype=float) for attribute in dataset.attributes}
    for attribute in dataset.attributes:
        if count_pairs(cells, (attribute,), min_n=1)[1]:
            pairs = effect_table(cells, (attribute,), min_n=1)
            sizes = pairs.groupby("question_id")["data_size"].mean()
            columns[attribute.name] = sizes.groupby(topic).mean()
    table = pd.DataFrame(columns).reindex(topic.drop_duplicates())
    highest = np.nanmax(table.to_numpy())
    size = (2.4 + 0.6 * len(columns), 1.2 + 0.25 * len(table))
    with drawn(path, size, ("png",)) as (figure, [[axes]]):
        image = axes.imshow(table, cmap="viridis", vmin=0, vmax=highest, aspect="auto")
        names = [plain(name).replace("_", " ") for name in table.columns]
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(table)), list(map(plain, table.index)))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            colour = "black" if value > 0.6 * highest else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
        axes.set_title("How far an attribute moves answers")
        figure.colorbar(image, label="distance of answers (0-100)")
