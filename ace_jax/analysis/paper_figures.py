"""The paper's figures (3 to 16) of any runs, as PNG and SVG. Each function draws one or a set."""

from collections.abc import Iterator, Sequence
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
from matplotlib.lines import Line2D

from ace_jax.analysis.effects import CLASSES
from ace_jax.analysis.equity import TIERS
from ace_jax.analysis.figures import COLOURS
from ace_jax.analysis.findings import ALL, EPSILON, Findings
from ace_jax.prompts.encode import country_name

MARKERS = "os^DvP*"
CLASS_COLOURS = dict(zip(CLASSES, ("#0072B2", "#D55E00", "#E9B44C", "#8FB8D4"), strict=True))
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "svg.hashsalt": "ace_jax",  # the same figures come out as the same bytes
}
PANELS = 5  # beside each other
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


@contextmanager
def _figure(
    directory: Path, name: str, size: tuple[float, float], **grid: Any
) -> Iterator[tuple[Figure, Any]]:
    figure, axes = plt.subplots(figsize=size, squeeze=False, **({"layout": "constrained"} | grid))
    yield figure, axes
    figure.savefig(directory / f"{name}.png", dpi=150)
    figure.set_layout_engine("none")  # it is laid out, and that takes longer than drawing
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def _plain(text: object) -> str:
    return str(text).replace("$", r"\$")  # else matplotlib takes it for mathematics


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each method: both differ, for whoever cannot tell colours apart."""
    return {
        name: {"color": colour, "marker": marker, "label": _plain(name)}
        for name, colour, marker in zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    }


def _over_countries(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["country"] == ALL]


def _scores(findings: Findings, directory: Path) -> None:
    """All methods and references on one axis, at the finest granularity, with the ceiling."""
    scores = _over_countries(findings.tables["scores"])
    rows = scores[scores["granularity"] == scores["granularity"].max()].sort_values("score")
    looks = _looks(findings.names)
    with _figure(directory, "scores", (6.0, 0.8 + 0.32 * len(rows))) as (_, [[axes]]):
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
        axes.set_yticks(range(len(rows)), [_plain(name) for name in rows["run"]])
        axes.set_xlabel(f"alignment score, G = {rows['granularity'].iloc[0]} (95 % intervals)")
        axes.grid(axis="x", alpha=0.3)


def _lines(findings: Findings, directory: Path) -> None:
    """Score over granularity, with intervals, references and the ceiling."""
    scores = _over_countries(findings.tables["scores"])
    looks = _looks(findings.names)
    offsets = 0.07 * (np.arange(len(looks)) - (len(looks) - 1) / 2)
    with _figure(directory, "granularity", (5.6, 3.8)) as (_, [[axes]]):
        for name in findings.references:
            rows = scores[scores["run"] == name]
            axes.plot(rows["granularity"], rows["score"], color="0.6", linestyle=":")
            axes.annotate(
                _plain(name), (rows["granularity"].iloc[-1], rows["score"].iloc[-1]),
                xytext=(6, 0), textcoords="offset points", color="0.45", va="center",
            )  # fmt: skip
        for (name, look), offset in zip(looks.items(), offsets, strict=True):
            rows = scores[scores["run"] == name]
            error = np.abs(rows[["ci_low", "ci_high"]].to_numpy().T - rows["score"].to_numpy())
            axes.errorbar(
                rows["granularity"] + offset, rows["score"], yerr=error, capsize=2, **look
            )
        first = scores[scores["run"] == findings.names[0]]
        axes.plot(first["granularity"], first["ceiling"], "--", color="0.4", label="ceiling")
        axes.set_xticks(sorted(scores["granularity"].unique()))
        axes.set_xlabel("persona granularity G (attributes named)")
        axes.set_ylabel("alignment score")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1.08, 1))


def _tiers(findings: Findings, directory: Path) -> None:
    """Fig. 3: the first method's ranking of countries, gains of each tier, tiers side by side."""
    tables, names = findings.tables, findings.names
    colours: dict[Any, str] = {1: COLOURS[1], 2: COLOURS[5], 3: COLOURS[2]}
    panels = 3 if "tier_gains" in tables else 2
    with _figure(directory, "tiers", (4.2 * panels, 3.8), ncols=panels) as (_, [axes]):
        _ranking(findings, axes[0], colours)
        tiers = tables["tiers"][tables["tiers"]["granularity"] == "mean"]
        for tier, rows in tiers.groupby("tier"):
            at = rows.set_index("run")["score"].reindex(names)
            axes[1].plot(
                range(len(names)), at, marker="o", color=colours[tier], label=f"Tier {tier}"
            )
        axes[1].set_xticks(range(len(names)), [_plain(n) for n in names], rotation=30, ha="right")
        axes[1].set_title("Tiers, mean over G")
        axes[1].legend()
        if panels > 2:
            _gains_of_tiers(findings, axes[2], colours)


def _ranking(findings: Findings, axes: Axes, colours: dict[Any, str]) -> None:
    scores = findings.tables["scores"]
    first = scores[(scores["run"] == findings.names[0]) & (scores["country"] != ALL)]
    mean = first.groupby("country")["score"].mean().sort_values()
    axes.barh(
        [_plain(code) for code in mean.index],
        mean,
        color=[colours.get(TIERS.get(code, 0), "0.7") for code in mean.index],
    )
    axes.set_xlim(left=max(0, mean.min() - 0.3 * (100 - mean.min())))
    axes.set_title(f"{_plain(findings.names[0])}, mean over G")


def _gains_of_tiers(findings: Findings, axes: Axes, colours: dict[Any, str]) -> None:
    best = findings.best(findings.granularities[-1])
    name = best if best != findings.names[0] else findings.names[-1]
    gains = findings.tables["tier_gains"]
    gains = gains[(gains["run"] == name) & (gains["granularity"] != "mean")]
    for tier, rows in gains.groupby("tier"):
        axes.plot(
            rows["granularity"].astype(int), rows["gain"], marker="o", color=colours[tier],
            label=f"Tier {tier}",
        )  # fmt: skip
    axes.set_xticks(sorted(gains["granularity"].astype(int).unique()))
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel("G")
    axes.set_title(f"Gain of {_plain(name)}")


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
    size = (2.2 + 0.55 * change.shape[1], 1.8 + 0.3 * len(change))
    with _figure(directory, f"changes_g{granularity}", size) as (figure, [[axes]]):
        row, column = np.indices(change.shape)
        value = change.to_numpy()
        largest = max(np.nanmax(np.abs(value)), 1e-9)
        points = axes.scatter(
            column, row, s=260 * np.abs(value) / largest, c=value, cmap="RdBu_r",
            vmin=-largest, vmax=largest, edgecolors="0.35", linewidths=0.5,
        )  # fmt: skip
        axes.set_xticks(
            range(change.shape[1]), map(_plain, change.columns), rotation=40, ha="right"
        )
        axes.set_yticks(range(len(change)), [country_name(code) for code in change.index])
        axes.invert_yaxis()
        axes.margins(0.08)
        axes.set_title(f"{_plain(base)} to {_plain(name)}, G = {granularity}")
        figure.colorbar(points, label="change in points", shrink=0.7)


def _radars(findings: Findings, granularity: int, directory: Path) -> None:
    """Figs. 11-14: score by topic, a panel a country, a curve a method."""
    topics = findings.tables["topics"]
    topics = topics[(topics["granularity"] == granularity) & topics["run"].isin(findings.names)]
    panels = [
        (country_name(str(country)) if country != ALL else "All countries", rows)
        for country, rows in topics.groupby("country")
        if rows["topic"].nunique() >= FEWEST_AXES
    ]
    _radar_grid(panels, findings.names, directory, f"topics_g{granularity}", f"G = {granularity}")


def _composition(findings: Findings, directory: Path) -> None:
    """Fig. 4: score by topic of personas that training never saw."""
    table = findings.tables["composition"]
    table = _over_countries(table[table["topic"] != ALL])
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
    across = min(PANELS, len(panels))
    down = -(-len(panels) // across)
    looks = _looks(names)
    lowest = max(0, 5 * (min(rows["score"].min() for _, rows in panels) // 5) - 5)
    size = (3.1 * across, 3.1 * down + 0.7)
    with _figure(directory, name, size, nrows=down, ncols=across, layout=None) as (figure, axes):
        edge = 0.45 / size[1]
        figure.subplots_adjust(0, edge, 1, 1 - edge, wspace=0.02, hspace=0.02)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, (heading, rows) in zip(axes.flat, panels, strict=False):
            wide = rows.pivot(index="topic", columns="run", values="score")[list(names)]
            _radar(axis, wide, looks, lowest)
            axis.set_title(_plain(heading), y=0.93)
        handles = [Line2D([], [], **look) for look in looks.values()]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles))
        figure.suptitle(f"Alignment score by topic, {title}", y=1 - 0.1 / size[1], va="top")


def _radar(axis: Axes, scores: pd.DataFrame, looks: dict[str, Any], lowest: float) -> None:
    """Draws rows as spokes, columns as closed curves, from `lowest` in the middle to 100."""
    # matplotlib's own polar axes lay out every label anew and take ten times as long.
    angles = np.pi / 2 - np.linspace(0, 2 * np.pi, len(scores), endpoint=False)
    spokes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    closed = np.append(np.arange(len(scores)), 0)
    for ring in np.linspace(lowest, 100, 4)[1:]:
        reach = (ring - lowest) / (100 - lowest)
        axis.plot(*(reach * spokes[closed]).T, color="0.85", linewidth=0.7)
        axis.text(0.02, reach, f"{ring:.0f}", fontsize=6, color="0.45", va="bottom")
    for spoke, topic in zip(spokes, scores.index, strict=True):
        axis.plot([0, spoke[0]], [0, spoke[1]], color="0.9", linewidth=0.7)
        side = "center" if abs(spoke[0]) < 0.2 else "left" if spoke[0] > 0 else "right"
        axis.text(1.1 * spoke[0], 1.1 * spoke[1], _broken(topic), fontsize=6, ha=side, va="center")
    for run, look in looks.items():
        reach = (scores[run].to_numpy() - lowest) / (100 - lowest)
        axis.plot(*(reach[:, None] * spokes)[closed].T, linewidth=1.2, markersize=2.5, **look)
    axis.set(xlim=(-1.55, 1.55), ylim=(-1.3, 1.45), aspect="equal")


def _broken(text: object) -> str:
    words = _plain(text).split()
    middle = -(-len(words) // 2)
    return "\n".join(part for part in (" ".join(words[:middle]), " ".join(words[middle:])) if part)


def _heatmaps(findings: Findings, directory: Path) -> None:
    """Figs. 5 and 15: how far each attribute moves the survey's answers, a panel a country."""
    table = findings.tables["influence"]
    order = [attribute.name for attribute in findings.attributes]
    groups = [(str(country), rows) for country, rows in table.groupby("country")]
    across = min(PANELS, len(groups))
    down = -(-len(groups) // across)
    topics = sorted(table["topic"].unique())
    size = (2 + 2.1 * across, (0.8 + 0.24 * len(topics)) * down + 0.8)
    with _figure(
        directory, "influence", size, nrows=down, ncols=across, sharex=True, sharey=True
    ) as (figure, axes):
        image: Any = None
        for axis in axes.flat[len(groups) :]:
            axis.set_axis_off()
        for axis, (country, rows) in zip(axes.flat, groups, strict=False):
            wide = rows.pivot(index="topic", columns="attribute", values="data_size")
            wide = wide.reindex(index=topics, columns=order)
            image = axis.imshow(
                wide, cmap="viridis", vmin=0, vmax=table["data_size"].max(), aspect="auto"
            )
            names = [name.replace("_", " ") for name in order]
            axis.set_xticks(range(len(order)), names, rotation=40, ha="right")
            axis.set_yticks(range(len(topics)), map(_plain, topics))
            axis.spines[:].set_visible(False)
            axis.set_title("All countries" if country == ALL else country_name(country))
        figure.colorbar(image, ax=axes, label="distance of the two levels' answers (0-100)")


def _classes(findings: Findings, directory: Path) -> None:
    """Figs. 6 and 16: shares of the classes of effects, a panel a country."""
    table = findings.tables["classes"]
    table = table[table["epsilon"] == EPSILON]
    groups = [(str(country), rows) for country, rows in table.groupby("country")]
    across = min(PANELS, len(groups))
    down = -(-len(groups) // across)
    names = findings.names[::-1]
    size = (1 + 2.2 * across, (0.6 + 0.26 * len(names)) * down + 0.7)
    shown = ("Aligned", "Erasure", "Stereotyping", "Flipped")
    with _figure(
        directory, "classes", size, nrows=down, ncols=across, sharex=True, sharey=True
    ) as (figure, axes):
        for axis in axes.flat[len(groups) :]:
            axis.set_axis_off()
        for axis, (country, rows) in zip(axes.flat, groups, strict=False):
            wide = rows.pivot(index="run", columns="class", values="share").reindex(names)
            left = np.zeros(len(wide))
            for kind in shown:
                axis.barh(
                    [_plain(name) for name in names], wide[kind], left=left,
                    color=CLASS_COLOURS[kind], label=kind, edgecolor="white", linewidth=0.5,
                )  # fmt: skip
                left += wide[kind].to_numpy()
            axis.set_xlim(0, 100)
            axis.set_title("All countries" if country == ALL else country_name(country))
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(shown))
        figure.suptitle(f"Per cent of effects, threshold {EPSILON:g} points")
