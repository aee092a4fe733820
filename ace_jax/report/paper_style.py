"""What the paper's figures have in common: sizes, colours, marks, legends, files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ace_jax.evaluation.effects import CLASSES
from ace_jax.prompts.encode import country_name
from ace_jax.report.figures import COLOURS
from ace_jax.report.findings import ALL

COLUMN, PAGE = 3.5, 7.0  # inches: text is read at the size that it has
MARKERS = "os^DvP*"
DASHES = (":", "-.", (0, (5, 1, 1, 1, 1, 1)))
CLASS_COLOURS = dict(zip(CLASSES, ("#0072B2", "#D55E00", "#E9B44C", "#8FB8D4"), strict=True))
TIER_LOOKS: dict[Any, dict[str, Any]] = {
    1: {"color": COLOURS[1], "marker": "o"},
    2: {"color": COLOURS[5], "marker": "s"},
    3: {"color": COLOURS[2], "marker": "^"},
}
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
    "svg.hashsalt": "ace_jax",  # the same figures come out as the same bytes
}


@contextmanager
def drawn(
    directory: Path, name: str, size: tuple[float, float], **grid: Any
) -> Iterator[tuple[Figure, Any]]:
    """Yields a figure and its axes (rows x columns), and writes it as NAME.png and NAME.svg."""
    figure, axes = plt.subplots(figsize=size, squeeze=False, **({"layout": "constrained"} | grid))
    yield figure, axes
    figure.savefig(directory / f"{name}.png", dpi=200)
    figure.set_layout_engine("none")  # it is laid out, and that takes longer than drawing
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def plain(text: object) -> str:
    """Returns text that matplotlib does not take for mathematics."""
    return str(text).replace("$", r"\$")


def looks_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns colour and marker of each method: both differ, where colours cannot be told apart."""
    return {
        name: {"color": colour, "marker": marker, "label": plain(name)}
        for name, colour, marker in zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    }


def over_countries(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows that are means over countries."""
    return table[table["country"] == ALL]


def by_country(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Returns heading and rows of each country, and of all of them where there are several."""
    panels = {str(country): rows for country, rows in table.groupby("country")}
    if len(panels) == 2:
        del panels[ALL]  # the one country again
    return [
        ("All countries" if country == ALL else country_name(country), rows)
        for country, rows in panels.items()
    ]


def legend_below(figure: Figure, handles: Sequence[Any], width: float) -> float:
    """Puts a legend at the foot, on as many lines as it takes; returns its height in inches."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    across = max(1, min(len(handles), int(width / (0.45 + 0.075 * longest))))
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=across, columnspacing=1.2
    )
    return 0.17 * -(-len(handles) // across) + 0.1
