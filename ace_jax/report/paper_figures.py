"""The paper's figures (3 to 16) of any runs, as PNG and SVG. Each function draws one or a set.

They are as wide as a column or a page of a paper.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ace_jax.evaluation.equity import TIERS
from ace_jax.prompts.encode import country_name
from ace_jax.report.findings import ALL, EPSILON, Findings
from ace_jax.report.paper_style import (
    CLASS_COLOURS,
    COLUMN,
    DASHES,
    PAGE,
    STYLE,
    TIER_LOOKS,
    by_country,
    drawn,
    legend_below,
    looks_of,
    over_countries,
    plain,
)

PANELS = 4  # beside each other
RADARS = 3  # with words around them
FEWEST_AXES = 3  # of a radar


def write_figures(findings: Findings, directory: Path) -> None:
    """Writes every figure that the findings allow into the directory."""
    with plt.rc_context(STYLE):
        _scores(findings, directory)
        if len(findings.granularities) > 1:
            _lines(findings, directory)
        if "tiers" in findings.tables:
            _tiers(findings, directory)
        for granularity in findings.granularities:
            if len(findings.methods) > 1:
                _bubbles(findings, granularity, directory)
            _radars(findings, granularity, directory)
        if "effects" in findings.tables:
            _heatmaps(findings, directory)
            _classes(findings, directory)
        if "composition" in findings.tables:
            _composition(findings, directory)


def _scores(findings: Findings, directory: Path) -> None:
    """All methods and references on one axis, at the finest granularity, with the ceiling."""
    scores = over_countries(findings.tables["scores"])
    rows = scores[scores["granularity"] == scores["granularity"].max()].sort_values("score")
    looks = looks_of(findings.names)
    with drawn(directory, "scores", (COLUMN, 0.7 + 0.2 * len(rows))) as (_, [[axes]]):
        for place, row in enumerate(rows.to_dict("records")):
            look = looks.get(row["run"], {"color": "0.45", "marker": "o"}) | {"label": None}
            filled = {} if row["run"] in looks else {"markerfacecolor": "white"}
            error = np.array([[row["score"] - row["ci_low"]], [row["ci_high"] - row["score"]]])
            axes.errorbar(row["score"], place, xerr=error, capsize=2, **look, **filled)
        axes.axvline(rows["ceiling"].iloc[0], color="0.4", linestyle="--", linewidth=1)
        axes.annotate(
            "ceiling", (rows["ceiling"].iloc[0], 1.01), xycoords=("data", "axes fraction"),
            ha="center", color="0.4",
        )  # fmt: skip
        axes.set_yticks(range(len(rows)), [plain(name) for name in rows["run"]])
        axes.set_xlabel(
            f"alignment score, G = {rows['granularity'].iloc[0]}\n95 % intervals"
            + ("; hollow: no model" if findings.references else "")
        )
        axes.grid(axis="x", alpha=0.3)


def _lines(findings: Findings, directory: Path) -> None:
    """Score over granularity, with intervals, references and the ceiling."""
    scores = over_countries(findings.tables["scores"])
    looks = looks_of(findings.names)
    offsets = 0.07 * (np.arange(len(looks)) - (len(looks) - 1) / 2)
    size = (COLUMN, 3.6)
    with drawn(directory, "granularity", size) as (figure, [[axes]]):
        for (name, look), offset in zip(looks.items(), offsets, strict=True):
            rows = scores[scores["run"] == name]
            error = np.abs(rows[["ci_low", "ci_high"]].to_numpy().T - rows["score"].to_numpy())
            axes.errorbar(
                rows["granularity"] + offset, rows["score"], yerr=error, capsize=1.5, **look
            )
        for name, dash in zip(findings.references, cycle(DASHES), strict=False):
            rows = scores[scores["run"] == name]
            line = {"color": "0.45", "linestyle": dash, "label": plain(name)}
            axes.plot(rows["granularity"], rows["score"], **line)
        first = scores[scores["run"] == findings.names[0]]
        axes.plot(first["granularity"], first["ceiling"], "--", color="0.4", label="ceiling")
        axes.set_xticks(sorted(scores["granularity"].unique()))
        axes.set_xlabel("persona granularity G (attributes named)")
        axes.set_ylabel("alignment score")
        axes.grid(axis="y", alpha=0.3)
        named = {str(line.get_label()): line for line in axes.get_legend_handles_labels()[0]}
        order = [*map(plain, (*findings.names, *findings.references)), "ceiling"]
        legend_below(figure, [named[label] for label in order], size[0])


def _tiers(findings: Findings, directory: Path) -> None:
    """Fig. 3: the first method's ranking of countries, gains of each tier, tiers side by side."""
    tables, names = findings.tables, findings.names
    panels = 3 if "tier_gains" in tables else 2
    with drawn(directory, "tiers", (PAGE, 2.8), ncols=panels) as (_, [axes]):
        _ranking(findings, axes[0])
        tiers = tables["tiers"][tables["tiers"]["granularity"] == "mean"]
        for tier, rows in tiers.groupby("tier"):
            at = rows.set_index("run")["score"].reindex(names)
            axes[1].plot(range(len(names)), at, label=f"Tier {tier}", **TIER_LOOKS[tier])
        axes[1].set_xticks(range(len(names)), [plain(n) for n in names], rotation=30, ha="right")
        axes[1].set_ylabel("alignment score")
        axes[1].set_title("Tiers, mean over G")
        axes[1].legend()
        if panels > 2:
            _gains_of_tiers(findings, axes[2])


def _ranking(findings: Findings, axes: Axes) -> None:
    scores = findings.tables["scores"]
    first = scores[(scores["run"] == findings.names[0]) & (scores["country"] != ALL)]
    mean = first.groupby("country")["score"].mean().sort_values()
    for place, (code, score) in enumerate(mean.items()):
        untiered: dict[str, Any] = {"color": "0.6", "marker": "D"}
        axes.plot(score, place, **TIER_LOOKS.get(TIERS.get(str(code)), untiered))
    axes.set_yticks(range(len(mean)), map(plain, mean.index))
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("alignment score")
    axes.set_title(f"{plain(findings.names[0])}, mean over G")


def _gains_of_tiers(findings: Findings, axes: Axes) -> None:
    best = findings.best(findings.granularities[-1])
    name = best if best != findings.names[0] else findings.names[-1]
    gains = findings.tables["tier_gains"]
    gains = gains[(gains["run"] == name) & (gains["granularity"] != "mean")]
    for tier, rows in gains.groupby("tier"):
        axes.plot(
            rows["granularity"].astype(int), rows["gain"], label=f"Tier {tier}", **TIER_LOOKS[tier]
        )
    axes.set_xticks(sorted(gains["granularity"].astype(int).unique()))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel("persona granularity G")
    axes.set_ylabel("points")
    axes.set_title(f"Gain of {plain(name)}")


def _bubbles(findings: Findings, granularity: int, directory: Path) -> None:
    """Figs. 7-10: change of the score by country and level, from the first to the best method."""
    base, best = findings.names[0], findings.best(granularity)
    name = best if best != base else findings.names[-1]
    levels = findings.tables["levels"]
    levels = levels[(levels["granularity"] == granularity) & (levels["country"] != ALL)]
    wide = levels.pivot(index=["country", "level"], columns="run", values="score")
    change = (wide[name] - wide[base]).unstack()
    order = [level for attribute in findings.attributes for level in attribute.levels]
    change = change.reindex(columns=[level for level in order if level in change])
    size = (min(PAGE, 1.9 + 0.5 * change.shape[1]), max(2.4, 1.4 + 0.24 * len(change)))
    with drawn(directory, f"changes_g{granularity}", size) as (figure, [[axes]]):
        row, column = np.indices(change.shape)
        value = change.to_numpy()
        largest = max(np.nanmax(np.abs(value)), 1e-9)
        points = axes.scatter(
            column, row, s=170 * np.abs(value) / largest, c=value, cmap="RdBu",
            vmin=-largest, vmax=largest, edgecolors="0.35", linewidths=0.5,
        )  # fmt: skip
        axes.set_xticks(range(change.shape[1]), map(plain, change.columns), rotation=40, ha="right")
        axes.set_yticks(range(len(change)), [country_name(code) for code in change.index])
        axes.invert_yaxis()
        axes.margins(0.08)
        axes.set_title(f"{plain(base)} to {plain(name)}, G = {granularity}")
        figure.colorbar(points, label="change in points")


def _radars(findings: Findings, granularity: int, directory: Path) -> None:
    """Figs. 11-14: score by topic, a panel a country, a curve a method."""
    topics = findings.tables["topics"]
    topics = topics[(topics["granularity"] == granularity) & topics["run"].isin(findings.names)]
    panels = [
        (heading, rows)
        for heading, rows in by_country(topics)
        if rows["topic"].nunique() >= FEWEST_AXES
    ]
    _radar_grid(panels, findings.names, directory, f"topics_g{granularity}", f"G = {granularity}")


def _composition(findings: Findings, directory: Path) -> None:
    """Fig. 4: score by topic of personas that training never saw."""
    table = findings.tables["composition"]
    table = over_countries(table[table["topic"] != ALL])
    panels = [
        (str(persona).replace("/", ", "), rows)
        for persona, rows in table.groupby("persona")
        if rows["topic"].nunique() >= FEWEST_AXES
    ]
    _radar_grid(panels, findings.names, directory, "composition", "personas not seen in training")


def _radar_grid(
    panels: Sequence[tuple[str, pd.DataFrame]],
    names: Sequence[str],
    directory: Path,
    name: str,
    title: str,
) -> None:
    if not panels:
        return
    across = min(RADARS, len(panels))
    down = -(-len(panels) // across)
    looks = looks_of(names)
    # Three rings, each at a multiple of five.
    lowest = max(
        0, 100 - 15 * int(np.ceil((100 - min(of["score"].min() for _, of in panels)) / 15))
    )
    side = PAGE / RADARS
    size = (max(COLUMN, side * across), 0.83 * side * down + 0.3)
    with drawn(directory, name, size, nrows=down, ncols=across, layout=None) as (figure, axes):
        foot = legend_below(figure, [Line2D([], [], **look) for look in looks.values()], size[0])
        figure.set_figheight(size[1] + foot)
        edge, foot = 0.3 / (size[1] + foot), foot / (size[1] + foot)
        figure.subplots_adjust(0, foot, 1, 1 - edge, wspace=0.02, hspace=0.02)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, (heading, rows) in zip(axes.flat, panels, strict=False):
            wide = rows.pivot(index="topic", columns="run", values="score")[list(names)]
            _radar(axis, wide, looks, lowest)
            axis.set_title(plain(heading), y=0.9)
        figure.suptitle(f"Alignment score by topic, {title}", y=1 - 0.3 * edge, va="top")


def _radar(axis: Axes, scores: pd.DataFrame, looks: dict[str, Any], lowest: float) -> None:
    """Draws rows as spokes, columns as closed curves, from `lowest` in the middle to 100."""
    # matplotlib's own polar axes lay out every label anew and take ten times as long.
    angles = np.pi / 2 - np.linspace(0, 2 * np.pi, len(scores), endpoint=False)
    spokes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    closed = np.append(np.arange(len(scores)), 0)
    for ring in np.linspace(lowest, 100, 4)[1:]:
        reach = (ring - lowest) / (100 - lowest)
        axis.plot(*(reach * spokes[closed]).T, color="0.85", linewidth=0.7)
        # Half way between two spokes, so that neither a topic nor a curve's corner is below it.
        across, up = reach * (spokes[0] + spokes[-1]) / 2
        axis.text(across, up, f"{ring:.0f}", fontsize=5, color="0.4", ha="center", va="center")
    for spoke, topic in zip(spokes, scores.index, strict=True):
        axis.plot([0, spoke[0]], [0, spoke[1]], color="0.9", linewidth=0.7)
        side = "center" if abs(spoke[0]) < 0.2 else "left" if spoke[0] > 0 else "right"
        axis.text(1.1 * spoke[0], 1.1 * spoke[1], _broken(topic), fontsize=6, ha=side, va="center")
    for run, look in looks.items():
        reach = (scores[run].to_numpy() - lowest) / (100 - lowest)
        axis.plot(*(reach[:, None] * spokes)[closed].T, linewidth=0.9, markersize=1.8, **look)
    axis.set(xlim=(-1.8, 1.8), ylim=(-1.3, 1.5), aspect="equal")


def _broken(text: object) -> str:
    words = plain(text).split()
    middle = -(-len(words) // 2)
    return "\n".join(part for part in (" ".join(words[:middle]), " ".join(words[middle:])) if part)


def _heatmaps(findings: Findings, directory: Path) -> None:
    """Figs. 5 and 15: how far each attribute moves the survey's answers, a panel a country."""
    table = findings.tables["influence"]
    order = [attribute.name for attribute in findings.attributes]
    groups = by_country(table)
    across = min(PANELS, len(groups))
    down = -(-len(groups) // across)
    topics = sorted(table["topic"].unique())
    size = (max(COLUMN, PAGE * (1 + across) / (1 + PANELS)), (0.3 + 0.16 * len(topics)) * down + 1)
    with drawn(
        directory, "influence", size, nrows=down, ncols=across, sharex=True, sharey=True
    ) as (figure, axes):
        image: Any = None
        for axis in axes.flat[len(groups) :]:
            axis.set_axis_off()
        for place, (axis, (heading, rows)) in enumerate(zip(axes.flat, groups, strict=False)):
            wide = rows.pivot(index="topic", columns="attribute", values="data_size")
            wide = wide.reindex(index=topics, columns=order)
            image = axis.imshow(
                wide, cmap="viridis", vmin=0, vmax=table["data_size"].max(), aspect="auto"
            )
            names = [name.replace("_", " ") for name in order]
            axis.set_xticks(range(len(order)), names, rotation=40, ha="right")
            axis.set_yticks(range(len(topics)), map(plain, topics))
            axis.tick_params(length=0, labelbottom=place + across >= len(groups))
            axis.spines[:].set_visible(False)
            axis.set_title(heading, fontsize=7)
        figure.colorbar(image, ax=axes, label="distance of answers (0-100)", aspect=5 + 15 * down)


def _classes(findings: Findings, directory: Path) -> None:
    """Figs. 6 and 16: shares of the classes of effects, a panel a country."""
    table = findings.tables["classes"]
    table = table[table["epsilon"] == EPSILON]
    groups = by_country(table)
    across = min(PANELS, len(groups))
    down = -(-len(groups) // across)
    names = findings.names[::-1]
    size = (
        max(COLUMN, PAGE * (0.7 + across) / (0.7 + PANELS)),
        (0.35 + 0.16 * len(names)) * down + 0.7,
    )
    shown = ("Aligned", "Erasure", "Stereotyping", "Flipped")
    with drawn(directory, "classes", size, nrows=down, ncols=across, sharex=True, sharey=True) as (
        figure,
        axes,
    ):
        for axis in axes.flat[len(groups) :]:
            axis.set_axis_off()
        for place, (axis, (heading, rows)) in enumerate(zip(axes.flat, groups, strict=False)):
            wide = rows.pivot(index="run", columns="class", values="share").reindex(names)
            left = np.zeros(len(wide))
            for kind in shown:
                axis.barh(
                    [plain(name) for name in names], wide[kind], left=left,
                    color=CLASS_COLOURS[kind], label=kind, edgecolor="white", linewidth=0.5,
                )  # fmt: skip
                left += wide[kind].to_numpy()
            axis.set(xlim=(0, 100), title=heading)
            axis.tick_params(labelbottom=place + across >= len(groups))
        legend_below(figure, axes.flat[0].get_legend_handles_labels()[0], size[0])
        figure.suptitle(f"Per cent of effects, threshold {_points(EPSILON)}")


def _points(number: float) -> str:
    return f"{number:g} point{'' if number == 1 else 's'}"
