"""A table of averages, moved by what a model knows of countries or questions that it has not seen.

For countries, the table is the persona's mean over the countries that training saw. The model's
answer in one country, less its mean over the seen ones, is added in log odds:

    log p(country) = log table + weight (log model(country) - mean of log model) + constant

The weight is fitted on the seen countries alone: each is answered by the table of the others. For
questions, `levelled` keeps a table's level and takes the differences from the model.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import Distributions, alignment_distances
from ace_jax.evaluation.references import moved

LEAST = 1e-4  # added to probabilities, so that none is impossible
WEIGHTS = np.arange(0, 2.55, 0.1)


@dataclass(frozen=True)
class Combined:
    """Predictions with combined answers, and the weight of the model's."""

    predictions: pd.DataFrame
    weight: float


def combined(seen: pd.DataFrame, unseen: pd.DataFrame, attributes: list[str]) -> Combined:
    """Returns the combined answers to the cells of countries that training had not seen.

    Only cells whose question and persona were seen in a country are kept.

    Args:
      seen: predictions (predictions.parquet) of the cells that training saw.
      unseen: predictions of countries that it did not see.
      attributes: the names of the survey's.

    Raises:
      InputError: a country is in both tables, fewer than two were seen, or no cell is in common.
    """
    known = set(seen["country"])
    if shared := sorted(known & set(unseen["country"])):
        raise InputError(f"combined: {shared[0]} is among the countries seen and the unseen")
    if len(known) < 2:
        raise InputError("combined: needs two countries that training saw, or more")
    seen, unseen = (_keyed(of, attributes) for of in (seen, unseen))
    kept = unseen[unseen["key"].isin(seen["key"])].reset_index(drop=True)
    if kept.empty:
        raise InputError("combined: no question and persona of the unseen countries was seen")
    scores = [_left_out(seen, weight) for weight in WEIGHTS]
    weight = float(WEIGHTS[int(np.argmax(scores))])
    answers = pd.Series(_answers(seen, kept, weight), kept.index, object)
    distance = _distances(kept, answers)
    table = kept.drop(columns="key").assign(
        p_model=answers, distance=distance, score=1 - distance, option_mass=1.0
    )
    return Combined(table, weight)


def levelled(predictions: pd.DataFrame, level: pd.Series) -> pd.DataFrame:
    """Returns answers whose differences are the model's, and whose level is a table's.

    The model's cumulative shares, less their mean over the cells of a question, move the level.

    Args:
      predictions: cells and answers (predictions.parquet).
      level: a distribution for each of its cells (float64 arrays), as of the reference `mean`.
    """
    answers = pd.Series(None, predictions.index, object)
    for rows in predictions.groupby("question_id", sort=False).indices.values():
        shares = np.cumsum(np.stack(list(predictions["p_model"].iloc[rows])), axis=1)
        for row, shift in zip(rows, shares - shares.mean(axis=0), strict=True):
            answers.iloc[row] = moved(level.iloc[row], shift)
    distance = _distances(predictions, answers)
    return predictions.assign(p_model=answers, distance=distance, score=1 - distance)


def _left_out(seen: pd.DataFrame, weight: float) -> float:
    """Returns the mean score of each country, answered by the table of the others."""
    scores = []
    for country in seen["country"].unique():
        others, own = seen[seen["country"] != country], seen[seen["country"] == country]
        own = own[own["key"].isin(others["key"])]
        answers = pd.Series(_answers(others, own, weight), own.index, object)
        scores.append(1 - _distances(own, answers).mean())
    return float(np.mean(scores))


def _answers(
    seen: pd.DataFrame, cells: pd.DataFrame, weight: float
) -> list[Float[np.ndarray, "_"]]:
    tables, centres = {}, {}
    for key, its in seen.groupby("key"):
        tables[key] = np.log(np.average(list(its["p_data"]), axis=0, weights=its["n"]) + LEAST)
        centres[key] = np.log(np.stack(list(its["p_model"])) + LEAST).mean(axis=0)
    answers = []
    for key, p in zip(cells["key"], cells["p_model"], strict=True):
        odds = np.exp(tables[key] + weight * (np.log(np.asarray(p) + LEAST) - centres[key]))
        answers.append(odds / odds.sum())
    return answers


def _keyed(predictions: pd.DataFrame, attributes: list[str]) -> pd.DataFrame:
    """Adds what a question and persona are called."""
    who = predictions[["question_id", *attributes]].fillna("").astype(str)
    return predictions.reset_index(drop=True).assign(key=who.agg("|".join, axis=1).to_numpy())


def _distances(cells: pd.DataFrame, answers: pd.Series) -> Float[np.ndarray, "cells"]:
    return alignment_distances(Distributions.of(cells["p_data"]), Distributions.of(answers))
