"""Both orders of the options: what an evaluation asks, and how far the order moves its answers.

A model that answers the question and not its form gives the same distributions in both orders. The
order gap is how far they lie apart. It is always measured, over the coarsest cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from ace_jax.evaluation.alignment import Distributions, alignment_distances
from ace_jax.evaluation.answers import Answers, mean_of
from ace_jax.prompts.encode import PromptStyle, PromptText, render_cells
from ace_jax.survey.dataset import Dataset

FIRST, OTHER = "first order", "other order"
GAP_CELLS = 400  # of the order gap, at most


@dataclass(frozen=True)
class Orders:
    """The cells of an evaluation, all asked in the style's first order and some in the other.

    `turned` are the rows of those: all cells if a style's answers are means over both orders.
    """

    style: PromptStyle
    cells: pd.DataFrame
    turned: Int[np.ndarray, "_"]

    @classmethod
    def of(cls, style: PromptStyle, cells: pd.DataFrame) -> "Orders":
        """Chooses the cells that are asked in both orders."""
        both = len(style.listings) > 1
        return cls(style, cells, np.arange(len(cells)) if both else coarsest(cells, GAP_CELLS))

    def texts(self, dataset: Dataset) -> dict[str, list[PromptText]]:
        """Returns the prompts of each order, by FIRST and OTHER."""
        last_first = self.style.listings[0]
        turned = self.cells.iloc[self.turned]
        return {
            FIRST: render_cells(self.cells, dataset, self.style, last_first),
            OTHER: render_cells(turned, dataset, self.style, not last_first),
        }

    def settle(self, answers: Mapping[str, Answers]) -> Answers:
        """Returns the answers to the cells: those of the first order, or the mean over both."""
        return mean_of([answers[name] for name in (FIRST, OTHER)[: len(self.style.listings)]])

    def gap(self, answers: Mapping[str, Answers]) -> dict[str, Any]:
        """Returns the mean alignment distance between the two orders, in all and by question."""
        rows = coarsest(self.cells, GAP_CELLS)
        places = np.searchsorted(self.turned, rows)
        one, other = answers[FIRST].take(rows.tolist()), answers[OTHER].take(places.tolist())
        both = (Distributions.of(pd.Series(each.p, dtype=object)) for each in (one, other))
        moved = pd.Series(alignment_distances(*both))
        by_question = moved.groupby(self.cells["question_id"].to_numpy()[rows]).mean()
        return {
            "mean": round(float(by_question.mean()), 6),
            "n_cells": len(rows),
            "questions": {str(name): round(float(gap), 6) for name, gap in by_question.items()},
        }


def described(gap: Mapping[str, Any]) -> str:
    """Returns an order gap in one line."""
    most = max(gap["questions"], key=gap["questions"].__getitem__)
    return (
        f"order gap: answers move by {100 * gap['mean']:.1f} of 100 points when the options are "
        f"listed in the other order ({len(gap['questions'])} questions, {gap['n_cells']} cells; "
        f"most: {most}, {100 * gap['questions'][most]:.1f})"
    )


def coarsest(cells: pd.DataFrame, most: int) -> Int[np.ndarray, "_"]:
    """Returns the rows of the coarsest cells, at most so many, evenly spread; ascending."""
    rows = np.flatnonzero(cells["granularity"] == cells["granularity"].min())
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int)]
