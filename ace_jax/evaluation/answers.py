"""Answers to cells, alone and beside the survey's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.evaluation.alignment import Distributions, alignment_distances


@dataclass(frozen=True)
class Answers:
    """Answers to some cells, in their order.

    `p` is the distribution over each question's options (float64), `option_mass` the probability of
    all options before renormalising (1 for a reference), `marks` what a reader of them must know.
    """

    p: list[Float[np.ndarray, "_"]]
    option_mass: Float[np.ndarray, "cells"]
    marks: tuple[str, ...] = ()

    def take(self, rows: Sequence[int]) -> "Answers":
        """Returns some answers, in the given order."""
        return Answers([self.p[row] for row in rows], self.option_mass[list(rows)])


def mean_of(several: Sequence[Answers]) -> Answers:
    """Returns the mean of several answers to the same prompts; of one, itself."""
    if len(several) == 1:
        return several[0]
    p = [np.mean(alike, axis=0) for alike in zip(*(each.p for each in several), strict=True)]
    return Answers(p, np.mean([each.option_mass for each in several], axis=0))


def predictions_table(cells: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """Returns the columns of predictions.parquet: cells and answers, their distance and score."""
    p_model = pd.Series(answers.p, cells.index, object)
    distance = alignment_distances(*map(Distributions.of, (cells["p"], p_model)))
    return cells.rename(columns={"p": "p_data"}).assign(
        p_model=p_model, option_mass=answers.option_mass, distance=distance, score=1 - distance
    )


def answers_table(predictions: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """Returns answers.csv: a row a cell and option.

    Columns are those of `predictions_table` that say who answers what, then option (1..K),
    option_text, p_data, p_model and option_mass.
    """
    labels = questions.set_index("question_id")["option_labels"]
    who = predictions.columns.drop(["p_data", "p_model", "distance", "score"])
    table = predictions[[*who, "p_data", "p_model"]].assign(
        option=predictions["p_data"].map(lambda p: np.arange(1, len(p) + 1)),
        option_text=predictions["question_id"].map(labels).map(list),
    )
    columns = ["option", "option_text", "p_data", "p_model"]
    long = table.explode(columns, ignore_index=True)
    return long[[*who.drop("option_mass"), *columns, "option_mass"]]
