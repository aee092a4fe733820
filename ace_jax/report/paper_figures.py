"""The paper's figures (3 to 16) for any runs, as PNG and SVG, one function a figure or set."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ace_jax.evaluation.comparison import MEAN
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.report.figures import (
    CLASS_COLOURS,
    COLUMN,
    PAGE,
    TIER_LOOKS,
    by_country,
    drawn,
    heatmap,
    legend_below,
    looks_of,
    plain,
    score_lines,
)
from ace_jax.report.findings import EPSILON, Findings

PANELS = 4  # side by side
DASHES = (":", "-.", (0, (5, 1, 1, 1, 1, 1)))

Panels = Sequence[tuple[str, pd.DataFrame]]


def write_figures(findings: Findings, directory: Path) -> None:
    """Writes every figure that the findings allow into the directory."""
    _scores(findings, directory / "scores")
    if len(findings.granularities) > 1:
        _lines(findings, directory / "granularity")
    if "tiers" in findings.tables:
        _tiers(findings, directory / "tiers")
    for granularity in findings.granularities:
        topics = findings.tables["topics"].query("granularity == @granularity")
        path = directory / f"topics_g{granularity}"
        _topics(findings, by_country(topics), path, f"G = {granularity}")  # Figs. 11-14
    if "effects" in findings.tables:
        _influence(findings, directory / "influence")
        _classes(findings, directory / "classes")
    if "composition" in findings.tables:
        table = findings.over_countries("composition")
        personas = table[table["topic"] != ALL].groupby("persona")
        panels = [(str(persona).replace("/", ", "), rows) for persona, rows in personas]
        title = "personas not seen in training"
        _topics(findings, panels, directory / "composition", title)  # Fig. 4


def _scores(findings: Findings, path: Path) -> None:
    """All methods and references on one axis, at the finest granularity, with the ceiling."""
    scores = findings.over_countries("scores")
    rows = scores[scores["granularity"] == scores["granularity"].max()].sort_values("score")
    looks = looks_of(findings.names)
    with drawn(path, (COLUMN, 0.7 + 0.2 * len(rows))) as (_, [[axes]]):
        for place, row in enumerate(rows.to_dict("records")):
            hollow = {"color": "0.45", "marker": "o", "markerfacecolor": "white"}
            error = np.array([[row["score"] - row["ci_low"]], [row["ci_high"] - row["score"]]])
            look = looks.get(row["run"], hollow) | {"label": None}
            axes.errorbar(row["score"], place, xerr=error, capsize=2, **look)
        ceiling = rows["ceiling"].iloc[0]
        axes.axvline(ceiling, color="0.4", linestyle="--", linewidth=1)
        above = axes.get_xaxis_transform()
        axes.text(ceiling, 1.01, "ceiling", transform=above, ha="center", color="0.4")
        axes.set_yticks(range(len(rows)), [plain(name) for name in rows["run"]])
        axes.set_xlabel(
            f"alignment score, G = {rows['granularity'].iloc[0]}\n95 % intervals"
            + ("; hollow: no model" if findings.references else "")
        )
        axes.grid(axis="x", alpha=0.3)


def _lines(findings: Findings, path: Path) -> None:
    """Score against granularity, with intervals, references and the ceiling."""
    scores = findings.over_countries("scores")
    with drawn(path, (COLUMN, 3.6)) as (figure, [[axes]]):
        score_lines(axes, scores, looks_of(findings.names))
        for name, dash in zip(findings.references, cycle(DASHES), strict=False):
            rows = scores[scores["run"] == name]
            line = {"color": "0.45", "linestyle": dash, "label": plain(name)}
            axes.plot(rows["granularity"], rows["score"], **line)
        first = scores[scores["run"] == findings.names[0]]
        axes.plot(first["granularity"], first["ceiling"], "--", color="0.4", label="ceiling")
        legend_below(figure, axes.get_legend_handles_labels()[0])


def _tiers(findings: Findings, path: Path) -> None:
    """Fig. 3: the mean score of each tier, methods side by side."""
    names, tiers = findings.names, findings.tables["tiers"]
    with drawn(path, (COLUMN, 3.0)) as (_, [[axes]]):
        for tier, rows in tiers[tiers["granularity"] == MEAN].groupby("tier"):
            at = rows.set_index("run")["score"].reindex(names)
            axes.plot(range(len(names)), at, **TIER_LOOKS[tier])
        axes.set_xticks(range(len(names)), [plain(name) for name in names], rotation=30, ha="right")
        axes.set(ylabel="alignment score", title="Tiers of countries, mean over G")
        axes.legend()


@contextmanager
def _panels(
    path: Path, panels: Panels, margin: float, row: float, rest: float
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yields a figure with the same axes for every panel; labels are at its left and foot.

    `margin` is the width of the labels at the left, in panels; `row` and `rest` are the heights of
    a row of panels and of all else, in inches.
    """
    across = min(PANELS, len(panels))
    down = -(-len(panels) // across)
    size = (max(COLUMN, PAGE * (margin + across) / (margin + PANELS)), row * down + rest)
    with drawn(path, size, nrows=down, ncols=across, sharex=True, sharey=True) as (figure, axes):
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        yield figure, list(axes.flat[: len(panels)])
        for place, (heading, _) in enumerate(panels):
            axes.flat[place].set_title(textwrap.fill(plain(heading), 28), fontsize=7)
            axes.flat[place].tick_params(labelbottom=place + across >= len(panels))


def _topics(findings: Findings, panels: Panels, path: Path, title: str) -> None:
    """Figs. 4 and 11-14: score by topic, a mark a method."""
    looks = looks_of(findings.names)
    topics = sorted(set(pd.concat([rows for _, rows in panels])["topic"]), reverse=True)
    with _panels(path, panels, 1.0, 0.3 + 0.16 * len(topics), 0.9) as (figure, axes):
        for axis, (_, rows) in zip(axes, panels, strict=True):
            for name, look in looks.items():
                of = rows[rows["run"] == name].set_index("topic")["score"].reindex(topics)
                axis.plot(of, range(len(topics)), linestyle="none", **look)
            axis.set_yticks(range(len(topics)), map(plain, topics))
            axis.set_ylim(-0.5, len(topics) - 0.5)
            axis.margins(x=0.1)
            axis.grid(alpha=0.3)
        legend_below(figure, [Line2D([], [], linestyle="none", **look) for look in looks.values()])
        figure.suptitle(f"Alignment score by topic, {title}")


def _influence(findings: Findings, path: Path) -> None:
    """Figs. 5 and 15: how far each attribute moves the survey's answers, a panel a country."""
    table = findings.tables["effects"]
    table = table[table["run"] == findings.names[0]]
    order = [attribute.name for attribute in findings.first.attributes]
    panels = by_country(table)
    topics = sorted(table["topic"].unique())
    with _panels(path, panels, 1.0, 0.3 + 0.16 * len(topics), 1.0) as (figure, axes):
        for axis, (_, rows) in zip(axes, panels, strict=True):
            wide = rows.pivot(index="topic", columns="attribute", values="data_size")
            wide = wide.reindex(index=topics, columns=order)
            image = heatmap(axis, wide, table["data_size"].max())
        label, aspect = "distance of answers (0-100)", 5 + 15 * -(-len(panels) // PANELS)
        figure.colorbar(image, ax=axes, label=label, aspect=aspect)


def _classes(findings: Findings, path: Path) -> None:
    """Figs. 6 and 16: shares of the classes of effects, a panel a country."""
    table = findings.tables["classes"]
    table = table[table["epsilon"] == EPSILON]
    panels, names = by_country(table), findings.names[::-1]
    with _panels(path, panels, 0.7, 0.35 + 0.16 * len(names), 0.7) as (figure, axes):
        for axis, (_, rows) in zip(axes, panels, strict=True):
            wide = rows.pivot(index="run", columns="class", values="share").reindex(names)
            left = np.zeros(len(wide))
            for kind in ("Aligned", "Erasure", "Stereotyping", "Flipped"):
                axis.barh(
                    [plain(name) for name in names], wide[kind], left=left,
                    color=CLASS_COLOURS[kind], label=kind, edgecolor="white", linewidth=0.5,
                )  # fmt: skip
                left += wide[kind].to_numpy()
            axis.set_xlim(0, 100)
        legend_below(figure, axes[0].get_legend_handles_labels()[0])
        figure.suptitle(f"Per cent of effects, threshold {EPSILON:g} point")
