"""The paper's figures (Figs. 4, 6, 11 to 14 and 16) for any runs, as PNG and SVG."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ace_jax.evaluation.effects import CLASSES, ERRORS
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.prompts.encode import country_name
from ace_jax.report.figures import COLUMN, drawn, legend_below, looks_of, plain, score_lines
from ace_jax.report.findings import Findings

PAGE = 7.0  # inches: the width of a paper's page
PANELS = 4  # side by side
DASHES = (":", "-.", (0, (5, 1, 1, 1, 1, 1)))
CEILING = "ceiling"
CLASS_COLOURS = dict(zip(CLASSES, ("#0072B2", "#D55E00", "#E9B44C", "#8FB8D4"), strict=True))
Panels = Sequence[tuple[str, pd.DataFrame]]


def write_figures(findings: Findings, directory: Path) -> None:
    """Writes every figure that the findings allow into the directory."""
    tables, looks = findings.tables, looks_of(findings.names)
    _scores(findings, directory)
    topics = sorted(set(tables["topics"]["topic"]), reverse=True)
    for g, of in tables["topics"].groupby("granularity"):  # Figs. 11-14
        title = f"Alignment score by topic, G = {g}"
        _dots(directory / f"topics_g{g}", _by_country(of), title, topics, looks, "topic")
    if "composition" in tables:  # Fig. 4
        unseen = findings.over_countries("composition").query("topic != @ALL").groupby("persona")
        panels = [(str(who).replace("/", ", "), of) for who, of in unseen]
        title = "Alignment score by topic, personas not seen in training"
        _dots(directory / "composition", panels, title, topics, looks, "topic")
    if "effects" in tables:
        distances = pd.concat([tables["effect_distances"], findings.yardsticks])
        panels = _by_country(distances.rename(columns={"distance": "score"}))
        rows = [ALL, *(attribute.name for attribute in reversed(findings.first.attributes))]
        looks |= _hollow(findings.yardsticks["run"].unique())
        title = "Distance between the model's and the survey's effects"
        _dots(directory / "effects", panels, title, rows, looks, "attribute")
        _classes(findings, directory / "classes")


def _scores(findings: Findings, directory: Path) -> None:
    """Scores with intervals: against granularity, and all at the finest one."""
    scores, finest = findings.over_countries("scores"), findings.granularities[-1]
    first = scores[scores["run"] == findings.names[0]]
    ceiling = first.assign(run=CEILING, score=first["ceiling"], ci_low=np.nan, ci_high=np.nan)
    scores = pd.concat([scores, ceiling])
    looks = looks_of(findings.names) | _hollow([CEILING, *findings.references])
    with drawn(directory / "granularity", (COLUMN, 3.6)) as (figure, [[axes]]):
        score_lines(axes, scores, looks)
        legend_below(figure, axes)
    rows = scores[scores["granularity"] == finest].sort_values("score")
    title, order = f"Alignment score, G = {finest}, 95 % intervals", list(rows["run"])
    _dots(directory / "scores", [("", rows)], title, order, looks, "run")


def _hollow(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the looks of what is no model."""
    grey = {"color": "0.45", "markerfacecolor": "white"}
    looks = zip(names, cycle("osv^DP*X"), cycle(DASHES), strict=False)
    return {
        name: grey | {"marker": marker, "linestyle": dash, "label": plain(name)}
        for name, marker, dash in looks
    }


def _by_country(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Returns heading and rows of each country, and of all countries if there are several."""
    panels = {str(country): rows for country, rows in table.groupby("country")}
    if len(panels) == 2:
        del panels[ALL]  # the same as the single country
    return [
        ("All countries" if country == ALL else country_name(country), rows)
        for country, rows in panels.items()
    ]


def _panels(
    path: Path,
    panels: Panels,
    title: str,
    rows: list[str],
    draw: Callable[[Axes, pd.DataFrame], None],
) -> None:
    """Draws every panel on axes whose y axis has these labels; the legend is below all."""
    across = min(PANELS, len(panels))
    down = -(-len(panels) // across)
    # The labels at the left take as much room as a panel.
    width = max(COLUMN, PAGE * (1 + across) / (1 + PANELS))
    size = (width, (0.35 + 0.16 * len(rows)) * down + 0.9)
    with drawn(path, size, nrows=down, ncols=across, sharex=True, sharey=True) as (figure, axes):
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for place, (heading, table) in enumerate(panels):
            axis = axes.flat[place]
            draw(axis, table)
            axis.set_yticks(range(len(rows)), list(map(plain, rows)))
            axis.set_ylim(-0.5, len(rows) - 0.5)
            axis.set_title(textwrap.fill(plain(heading), 28), fontsize=7)
            axis.tick_params(labelbottom=place + across >= len(panels))
        figure.suptitle(title)
        legend_below(figure, axes[0, 0])


def _dots(
    path: Path,
    panels: Panels,
    title: str,
    rows: list[str],
    looks: Mapping[str, dict[str, Any]],
    by: str,
) -> None:
    """Draws each run's scores in rows by a column; rows by run have intervals."""

    def draw(axes: Axes, table: pd.DataFrame) -> None:
        for name, look in looks.items():
            of = table[table["run"] == name].set_index(by, drop=False).reindex(rows)
            mark = look | {"linestyle": "none", "capsize": 2}
            if by == "run":
                error = np.abs(of[["ci_low", "ci_high"]].T - of["score"])
                mark |= {"xerr": error, "label": ""}
            axes.errorbar(of["score"], range(len(rows)), **mark)
        axes.margins(x=0.1)
        axes.grid(alpha=0.3)

    _panels(path, panels, title, rows, draw)


def _classes(findings: Findings, path: Path) -> None:
    """Figs. 6 and 16: shares of the classes of effects, a panel a country."""
    table = findings.tables["classes"]
    names = list(dict.fromkeys(table["run"]))[::-1]

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        wide = rows.pivot(index="run", columns="class", values="share").reindex(names)
        left = np.zeros(len(wide))
        for kind in ("Aligned", "Erasure", "Stereotyping", "Flipped"):
            bars = axes.barh(range(len(names)), wide[kind], left=left, label=kind)
            plt.setp(bars, color=CLASS_COLOURS[kind], edgecolor="white", linewidth=0.5)
            left += wide[kind].to_numpy()
        axes.set_xlim(0, 100)

    title = f"Per cent of effects, threshold {ERRORS:g} standard errors"
    _panels(path, _by_country(table), title, names, draw)
