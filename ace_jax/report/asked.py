"""Answers to new questions, as a picture and as text for a terminal."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from ace_jax.prompts.encode import Question
from ace_jax.report.figures import drawn, plain

MOST_PANELS, MOST_LINES = 12, 12
WIDE, LABEL, LEGEND, TITLE = 3.6, 44, 24, 52  # inches of a panel; characters of its texts


def groups(answers: pd.DataFrame) -> pd.DataFrame:
    """Returns mean answers of who is shown: each persona, or, of many, each country and level.

    `answers` are a table of `ask`. Columns are question_id, group, option and p, in its order.
    """
    names = [*answers.columns[: answers.columns.get_loc("question_id")]]
    people = [name for name in names if name != "model"]
    several = answers["model"].nunique() > 1
    lines = [["country"]] + [[name] for name in people[1:]]
    if len(answers[names].drop_duplicates()) <= MOST_LINES:
        lines = [people]
    tables = []
    for which in lines:
        shown = [*which, *(["model"] if several else [])]
        named = answers.dropna(subset=which) if len(lines) > 1 else answers
        label = named[shown].apply(lambda row: ", ".join(row.dropna().astype(str)), axis=1)
        tables.append(named[["question_id", "option", "p"]].assign(group=label))
    every = pd.concat(tables, ignore_index=True)
    keys = ["question_id", "group", "option"]
    return every.groupby(keys, sort=False)["p"].mean().reset_index()


def draw_answers(answers: pd.DataFrame, questions: Sequence[Question], path: Path) -> None:
    """Draws a panel a question: a bar a group, cut into its options (PNG)."""
    table, chosen = groups(answers), questions[:MOST_PANELS]
    across = min(len(chosen), 2)
    down = -(-len(chosen) // across)
    lines = table["group"].nunique()
    labels = 0.075 * min(table["group"].map(len).max(), LABEL) + 0.2
    size = (labels + WIDE * across, down * (1.3 + 0.2 * lines))
    with drawn(path, size, ("png",), ncols=across, nrows=down, sharey=True) as (figure, panels):
        for axes, question in zip(panels.flat, chosen, strict=False):
            _panel(axes, table, question)
        for axes in panels.flat[len(chosen) :]:
            axes.set_visible(False)
        if len(chosen) < len(questions):
            figure.suptitle(f"The first {len(chosen)} of {len(questions)} questions")


def shown(answers: pd.DataFrame, questions: Sequence[Question], width: int) -> str:
    """Returns the answers as text: a block a question, a line a group, percentages by option."""
    table, blocks = groups(answers), []
    label = min(max(map(len, table["group"])), width // 3)
    for question in questions:
        column = max((width - label) // len(question.options) - 1, 4)
        its = 100 * _by_option(table, question)
        texts = its.set_axis(its.index.str[:label].str.ljust(label)).to_string(
            header=[option[:column] for option in question.options],
            index_names=False,
            float_format="{:.0f}".format,
            col_space=column,
        )
        blocks.append("\n".join([*wrap(question.text, width), texts]))
    return "\n\n".join(blocks)


def _by_option(table: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Returns shares of `groups` for one question: groups in rows, options in columns."""
    its = table[table["question_id"] == question.id]
    return its.pivot(index="group", columns="option", values="p").loc[
        its["group"].unique(), list(question.options)
    ]


def _panel(axes: Axes, table: pd.DataFrame, question: Question) -> None:
    shares = _by_option(table, question)
    names = [shorten(each, LEGEND, placeholder="...") or each[:LEGEND] for each in question.options]
    shares = shares.set_axis(list(map(plain, names)), axis=1)
    colours = colormaps["cividis"](np.linspace(0.05, 0.95, len(names)))
    look: Any = {"color": colours, "width": 0.8, "xlabel": "", "ylabel": "", "legend": False}
    shares.plot.barh(stacked=True, ax=axes, **look)
    containers: Any = axes.containers
    for bars, colour in zip(containers, colours, strict=True):
        ink = "white" if colour[:3].mean() < 0.5 else "black"
        axes.bar_label(bars, fmt=_per_cent, label_type="center", color=ink, fontsize=7)
    axes.set_yticks(range(len(shares)), [plain(str(each)[:LABEL]) for each in shares.index])
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("\n".join(wrap(plain(question.text), TITLE)), loc="left")
    fit = int(WIDE / (0.3 + 0.06 * max(map(len, names))))
    rows = max(1, min(len(names), fit))
    place: Any = {"loc": "upper left", "bbox_to_anchor": (0, 0), "ncols": rows, "fontsize": 7}
    axes.legend(handlelength=0.8, columnspacing=1.0, **place)


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f}" if share > 0.08 else ""
