"""Figures over all countries, as the paper's Figs. 6 and 11 to 14, and how they look."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from ace_jax.evaluation.effects import ERRORS
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.report.findings import Findings

COLUMN = 3.5  # inches: the width of a paper's column
# Okabe and Ito's colours, which colour-blind readers can tell apart; wine for their yellow.
COLOURS = (
    *("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#882255"),
)
MARKERS = "os^DvP*"
DASHES = (":", "-.", (0, (5, 1, 1, 1, 1, 1)))
CLASS_COLOURS = {
    "Aligned": "#0072B2",
    "Erasure": "#8FB8D4",
    "Stereotyping": "#E9B44C",
    "Flipped": "#D55E00",
}
CEILING = "ceiling"
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
Looks = Mapping[str, dict[str, Any]]


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


def write_figures(findings: Findings, directory: Path) -> None:
    """Writes every figure that the findings allow into the directory, over all countries."""
    tables, looks = findings.tables, looks_of(findings.names)
    _scores(findings, directory)
    topics = sorted(set(tables["topics"]["topic"]), reverse=True)
    for g, of in findings.over_countries("topics").groupby("granularity"):
        title = f"Alignment score by topic, G = {g}"
        _dots(directory / f"topics_g{g}", of.set_index("topic"), title, topics, looks)
    if "effects" in tables:
        distances = pd.concat([tables["effect_distances"], findings.yardsticks])
        of = distances.query("country == @ALL").rename(columns={"distance": "score"})
        rows = [ALL, *(attribute.name for attribute in reversed(findings.first.attributes))]
        looks |= _hollow(findings.yardsticks["run"].unique())
        title = "Distance between the model's and the survey's effects"
        _dots(directory / "effects", of.set_index("attribute"), title, rows, looks)
        _classes(findings, directory / "classes")


def _scores(findings: Findings, directory: Path) -> None:
    """Scores with intervals: against granularity, and all at the finest one."""
    scores, finest = findings.over_countries("scores"), findings.granularities[-1]
    first = scores[scores["run"] == findings.names[0]]
    ceiling = first.assign(run=CEILING, score=first["ceiling"], ci_low=np.nan, ci_high=np.nan)
    scores = pd.concat([scores, ceiling])
    looks = looks_of(findings.names) | _hollow([CEILING, *findings.references])
    with drawn(directory / "granularity", (COLUMN, 3.6)) as (figure, [[axes]]):
        _score_lines(axes, scores, looks)
        _legend_below(figure, axes)
    rows = scores[scores["granularity"] == finest].sort_values("score")
    title, order = f"Alignment score, G = {finest}, 95 % intervals", list(rows["run"])
    _dots(directory / "scores", rows.set_index("run", drop=False), title, order, looks)


def _hollow(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the looks of what is no model."""
    grey = {"color": "0.45", "markerfacecolor": "white"}
    looks = zip(names, cycle("osv^DP*Xph"), cycle(DASHES), strict=False)
    return {
        name: grey | {"marker": marker, "linestyle": dash, "label": plain(name)}
        for name, marker, dash in looks
    }


@contextmanager
def _rows(path: Path, title: str, names: list[str]) -> Iterator[Axes]:
    """Yields axes whose y axis has these labels, upwards; the legend is below."""
    with drawn(path, (COLUMN, 1.25 + 0.16 * len(names))) as (figure, [[axes]]):
        yield axes
        axes.set_yticks(range(len(names)), list(map(plain, names)))
        axes.set_ylim(-0.5, len(names) - 0.5)
        figure.suptitle(textwrap.fill(title, 48))
        _legend_below(figure, axes)


def _dots(path: Path, table: pd.DataFrame, title: str, rows: list[str], looks: Looks) -> None:
    """Draws each run's scores in rows, by the table's index; rows by run have intervals."""
    with _rows(path, title, rows) as axes:
        for name, look in looks.items():
            of = table[table["run"] == name].reindex(rows)
            mark = look | {"linestyle": "none", "capsize": 2}
            if table.index.name == "run":
                error = np.abs(of[["ci_low", "ci_high"]].T - of["score"])
                mark |= {"xerr": error, "label": ""}
            axes.errorbar(of["score"], range(len(rows)), **mark)
        axes.margins(x=0.1)
        axes.grid(alpha=0.3)


def _classes(findings: Findings, path: Path) -> None:
    """Draws the shares of the classes of effects (as Fig. 6)."""
    table = findings.over_countries("classes")
    names = list(dict.fromkeys(table["run"]))[::-1]
    wide = table.pivot(index="run", columns="class", values="share").loc[names, list(CLASS_COLOURS)]
    with _rows(path, f"Per cent of effects, threshold {ERRORS:g} standard errors", names) as axes:
        look: Any = {"color": CLASS_COLOURS, "width": 0.8, "edgecolor": "white", "linewidth": 0.5}
        wide.plot.barh(stacked=True, ax=axes, legend=False, xlabel="", ylabel="", **look)
        axes.set_xlim(0, 100)


def _score_lines(axes: Axes, scores: pd.DataFrame, looks: Looks) -> None:
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


def _legend_below(figure: Figure, axes: Axes) -> None:
    """Puts the legend of some axes, if any, at the foot, on as many lines as needed."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        fit = int(figure.get_figwidth() / (0.45 + 0.075 * max(map(len, labels))))
        across = max(1, min(len(handles), fit))
        place: Any = {"loc": "outside lower center", "ncols": across, "columnspacing": 1.2}
        figure.legend(handles, labels, **place)
