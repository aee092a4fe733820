"""Alignment scores: how close the model's answers are to the survey's (Eq. 15).

`predictions` is the table that `evaluate` writes: one row a cell, with p_data and p_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ace_jax.errors import InputError
from ace_jax.evaluation.uncertainty import Average, Averaging, in_order, with_all_countries
from ace_jax.survey.personas import Attribute

CELL_VALUES = ("score", "variance", "ceiling", "gain", "gain_variance")


@dataclass(frozen=True)
class Distributions:
    """One distribution a row: float64 probabilities, padded with zeros after its K `options`."""

    p: Float[np.ndarray, "rows width"]
    options: Int[np.ndarray, "rows"]

    @classmethod
    def of(cls, column: pd.Series) -> "Distributions":
        """Stacks a column of arrays, such as `p_data` of predictions."""
        values = column.to_numpy()
        options = np.fromiter(map(len, values), np.int64, len(values))
        p = np.zeros((len(values), int(options.max(initial=1))))
        if len(values):
            p[np.arange(p.shape[1]) < options[:, None]] = np.concatenate(values)
        return cls(p, options)

    @property
    def thresholds(self) -> Bool[np.ndarray, "rows width"]:
        """All options but the last one of each row, where the cumulative share is always 1."""
        return np.arange(self.p.shape[1]) < self.options[:, None] - 1

    @property
    def cumulative(self) -> Float[np.ndarray, "rows width"]:
        """The cumulative shares at the thresholds, zero elsewhere."""
        return np.cumsum(self.p, axis=1) * self.thresholds

    def take(self, rows: Int[np.ndarray, "chosen"]) -> "Distributions":
        """Returns some rows, in the given order."""
        return Distributions(self.p[rows], self.options[rows])


def alignment_distances(one: Distributions, other: Distributions) -> Float[np.ndarray, "rows"]:
    """Returns the 1-Wasserstein distance over option positions, divided by K - 1 (Eq. 15).

    It is in [0, 1]: all mass on the first of three options against the second is 1 / 2.
    """
    moved = np.abs(one.cumulative - other.cumulative).sum(axis=1)
    return moved / (one.options - 1)


def effect_distances(
    one: Float[np.ndarray, "rows width"],
    other: Float[np.ndarray, "rows width"],
    options: Int[np.ndarray, "rows"],
) -> Float[np.ndarray, "rows"]:
    """Returns the distance of two cumulative effects: mean absolute difference (Eq. 11).

    The mean is over the K options. A cumulative effect is `cumulative` at A=1 minus that at A=0.
    """
    return np.abs(one - other).sum(axis=1) / options


def sampling_variance(
    slope: Float[np.ndarray, "rows width"], p: Distributions, n: Float[np.ndarray, "rows"]
) -> Float[np.ndarray, "rows"]:
    """Returns the variance of sum_k slope_k F_k, with F the cumulative shares of n respondents.

    It is unbiased if p is itself a multinomial sample (hence n - 1). `slope` is zero except at the
    thresholds; n counts effective respondents if they are weighted.
    """
    of_answer = np.cumsum(slope[:, ::-1], axis=1)[:, ::-1]
    mean = (p.p * of_answer).sum(axis=1)
    spread = (p.p * of_answer**2).sum(axis=1) - mean**2
    return np.maximum(spread, 0) / np.maximum(n - 1, 1)


def scored_cells(
    predictions: pd.DataFrame, questions: pd.DataFrame, attributes: tuple[Attribute, ...]
) -> pd.DataFrame:
    """Returns one row a cell, with all that tables of scores need and no distributions.

    In the order of `predictions`: country, question_id, granularity, n, the attributes, topic (as
    `topics_of`), combination (the attributes named, joined by +), persona (its levels, joined by
    /), score (0-100) and variance (of the score, from sampling respondents; an upper bound if the
    model is within the sampling error).
    """
    names = [attribute.name for attribute in attributes]
    columns = ["country", "question_id", "granularity", "n", *names]
    data, model = (Distributions.of(predictions[name]) for name in ("p_data", "p_model"))
    slope = np.sign(data.cumulative - model.cumulative) / (data.options[:, None] - 1)
    variance = sampling_variance(slope, data, predictions["effective_n"].to_numpy(np.float64))
    # Few personas are distinct, so their texts are joined once.
    code = predictions.groupby(names, sort=False, dropna=False).ngroup().to_numpy()
    personas = [row[row.notna()] for _, row in predictions[names].drop_duplicates().iterrows()]
    combination, persona = (
        np.array([separator.join(text(levels)) for levels in personas], object)[code]
        for separator, text in (("+", lambda levels: levels.index), ("/", lambda levels: levels))
    )
    return predictions[columns].assign(
        topic=topics_of(predictions["question_id"], questions),
        combination=combination,
        persona=persona,
        score=100 * (1 - alignment_distances(data, model)),
        variance=100**2 * variance,
    )


def topics_of(question_id: pd.Series, questions: pd.DataFrame) -> pd.Series:
    """Returns the topic of each question. Raises InputError if `questions` lacks one."""
    known = questions.drop_duplicates("question_id").set_index("question_id")["topic"]
    topic = question_id.map(known)
    if topic.isna().any():
        raise InputError(
            f"no topic for question {question_id[topic.isna()].iloc[0]!r}: the predictions are of "
            "other questions; use the data that was evaluated"
        )
    return topic


def alignment_table(cells: pd.DataFrame, average: Average, by: Sequence[str] = ()) -> pd.DataFrame:
    """Returns the mean score by granularity and country, and over countries in rows `ALL`.

    `cells` are of `scored_cells`; they may have `ceiling` (`ceilings.cell_ceilings`) and `seed`, or
    be those of several methods (`comparison.stacked`; then `by` has `run`). Columns are average,
    granularity, those of `by`, country, run, n_cells, n_questions and those of `score_means`.
    """
    keys = ["granularity", *by]
    table = with_all_countries(cells, keys, average, partial(score_means, cells))
    return in_order(table, average, keys)


def score_means(cells: pd.DataFrame, means: Averaging) -> pd.DataFrame:
    """Returns what `means` averages: n_cells, n_questions, score, ci_low, ci_high (0 to 100).

    With ceilings also ceiling and percent_of_ceiling; with gains also seed_sd, gain, gain_low,
    gain_high and p_value, as in `comparison.gain_table`.
    """
    values = {name: cells[name].to_numpy() for name in CELL_VALUES if name in cells}
    score = values["score"]
    table = means.intervals(score, values["variance"], ("score", "ci_low", "ci_high"))
    table = means.groups.assign(**table.clip(lower=0, upper=100))
    if "ceiling" in values:
        ceiling = means.means(values["ceiling"])
        table = table.assign(ceiling=ceiling, percent_of_ceiling=100 * table["score"] / ceiling)
    if "gain" in values:
        gain, names = values["gain"], ("gain", "gain_low", "gain_high", "p_value")
        table = table.assign(
            seed_sd=means.seed_deviations(score),
            **means.intervals(gain, values["gain_variance"], names),
        )
    return table


def score_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean score by country and granularity, with a 95 % interval.

    Averages are flat: cells count alike within a country, and countries count alike in `ALL`. A
    mean over one question has no interval here. Columns are country, granularity, n_cells,
    n_questions, score, ci_low, ci_high; scores in [0, 1].
    """
    columns = ["country", "granularity", "question_id"]
    cells = predictions[columns].assign(score=100 * predictions["score"], variance=np.nan)
    table = alignment_table(cells, "flat")
    percent = ["score", "ci_low", "ci_high"]
    table[percent] /= 100
    return table[["country", "granularity", "n_cells", "n_questions", *percent]]
