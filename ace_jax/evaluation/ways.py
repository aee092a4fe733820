"""The ways in which an evaluation asks its cells: as configured, and otherwise to see the harm.

A model that answers the question and not its form gives the same distributions. The order gap is
how far answers move when the options are listed in the other order. It is always measured, over the
coarsest cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from ace_jax.evaluation.alignment import Distributions, alignment_distances
from ace_jax.evaluation.answers import UNALTERED, Answers, mean_of
from ace_jax.prompts.encode import PromptStyle, PromptText, render_cells
from ace_jax.prompts.options import STYLES
from ace_jax.survey.dataset import Dataset

TEMPLATES = ("persona_first", "question_first")
OTHER = "reversed_options"
GAP_CELLS = 400  # of the order gap, at most


@dataclass(frozen=True)
class Way:
    """A style, the order in which it lists the options, and the cells that are asked so."""

    style: PromptStyle
    last_first: bool
    rows: Int[np.ndarray, "_"]


@dataclass(frozen=True)
class Ways:
    """All ways of one evaluation, by name; `UNALTERED` and `OTHER` are always among them."""

    cells: pd.DataFrame
    ways: dict[str, Way]
    both: bool
    """Whether the answer is the mean over both orders."""
    audit: bool
    """Whether the other ways are scored too."""

    @classmethod
    def of(cls, style: PromptStyle, cells: pd.DataFrame, audit: bool) -> "Ways":
        """Chooses the ways; an audit asks all cells with other labels and templates too."""
        every, first = np.arange(len(cells)), style.listings[0]
        both = len(style.listings) > 1
        ways = {
            UNALTERED: Way(style, first, every),
            OTHER: Way(style, not first, every if both or audit else coarsest(cells, GAP_CELLS)),
        }
        if audit:
            for labels in (other for other in STYLES if other != style.option_style):
                ways[f"{labels}_labels"] = Way(replace(style, option_style=labels), first, every)
            english = TEMPLATES if style.language == "en" else ()  # they are in no other language
            for name in (other for other in english if other != style.template.name):
                template = PromptStyle.of(name).template
                ways[name] = Way(replace(style, template=template), first, every)
        return cls(cells, ways, both, audit)

    def texts(self, dataset: Dataset) -> dict[str, list[PromptText]]:
        """Returns the prompts of each way."""
        return {
            name: render_cells(self.cells.iloc[way.rows], dataset, way.style, way.last_first)
            for name, way in self.ways.items()
        }

    def settle(self, answers: Mapping[str, Answers]) -> dict[str, Answers]:
        """Returns the answers that are scored, by way: of an audit all, else as configured."""
        orders = [UNALTERED, OTHER] if self.both else [UNALTERED]
        answer = mean_of([answers[name] for name in orders])
        return {**(answers if self.audit else {}), UNALTERED: answer}

    def order_gap(self, answers: Mapping[str, Answers]) -> dict[str, Any]:
        """Returns the mean alignment distance between the two orders, in all and by question."""
        rows = coarsest(self.cells, GAP_CELLS)
        places = np.searchsorted(self.ways[OTHER].rows, rows)
        one, other = (
            answers[name].take(where.tolist())
            for name, where in ((UNALTERED, rows), (OTHER, places))
        )
        both = (pd.Series(each.p, dtype=object) for each in (one, other))
        moved = pd.Series(alignment_distances(*map(Distributions.of, both)))
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
