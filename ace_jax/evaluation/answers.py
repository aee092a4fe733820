"""Answers to cells, and answers beside the survey's."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.evaluation.alignment import alignment_distance


@dataclass(frozen=True)
class Answers:
    """Answers to some cells, in their order.

    Attributes:
      p: the distribution over each question's options, float64.
      option_mass: probability of the options before renormalising; 1 for a reference.
    """

    p: list[Float[np.ndarray, "_"]]
    option_mass: Float[np.ndarray, "cells"]


def predictions_table(cells: pd.DataFrame, answers: Answers) -> pd.DataFrame:
    """Returns the columns of predictions.parquet: cells and answers, their distance and score."""
    predictions = cells.rename(columns={"p": "p_data"}).assign(
        p_model=pd.Series(answers.p, cells.index, object), option_mass=answers.option_mass
    )
    distance = [
        alignment_distance(*pair)
        for pair in zip(predictions["p_data"], predictions["p_model"], strict=True)
    ]
    return predictions.assign(distance=distance, score=1 - np.asarray(distance))


def answers_table(predictions: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """Returns answers.csv: a row a cell and option.

    Args:
      predictions: of `predictions_table`.
      questions: columns question_id, option_labels.

    Returns:
      The columns of a cell that say who answers what, then option (1..K), option_text, p_data,
      p_model and option_mass.
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


def shifts_table(answers: pd.DataFrame, attribute: str, levels: Sequence[str]) -> pd.DataFrame:
    """Returns how answers shift between every two levels of an attribute.

    Args:
      answers: a row a persona, question and option, as `LanguageModel.answer` gives them; each
        persona once for each level, in the same order.
      attribute: the column that differs.
      levels: its levels.

    Returns:
      The columns that say who answers what, without the attribute, then from_level, to_level,
      option, effect (p at to_level less p at from_level) and cumulative_effect (its sum up to the
      option).
    """
    who = [name for name in answers if name not in (attribute, "option", "p", "option_mass")]
    tables = []
    for before, after in combinations(levels, 2):
        one, two = (
            answers[answers[attribute] == level].reset_index(drop=True) for level in (before, after)
        )
        shift = one[[*who, "option"]].assign(effect=two["p"] - one["p"])
        tables.append(shift.assign(from_level=before, to_level=after))
    table = pd.concat(tables, ignore_index=True)
    group = [*who, "from_level", "to_level"]
    running = table.groupby(group, dropna=False, sort=False)["effect"].cumsum()
    return table.assign(cumulative_effect=running)[
        [*group, "option", "effect", "cumulative_effect"]
    ]
