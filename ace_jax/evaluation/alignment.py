"""Alignment scores: how close the model's answers are to the survey's (Eq. 15).

`predictions` is the table that `evaluate` writes: one row a cell, with p_data and p_model.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.errors import InputError
from ace_jax.evaluation.distributions import (
    Distributions,
    alignment_distances,
    sample_sizes,
    sampling_variance,
)
from ace_jax.evaluation.uncertainty import ALL, Average, Averaging, with_all_countries
from ace_jax.survey.personas import Attribute


def alignment_distance(p: Float[np.ndarray, "K"], q: Float[np.ndarray, "K"]) -> float:
    """Returns `alignment_distances` of a single pair of distributions."""
    one, other = (Distributions.of(pd.Series([row])) for row in (p, q))
    return float(alignment_distances(one, other)[0])


def scored_cells(
    predictions: pd.DataFrame, questions: pd.DataFrame, attributes: tuple[Attribute, ...]
) -> pd.DataFrame:
    """Returns one row a cell, with all that tables of scores need and no distributions.

    Args:
      predictions: of one run.
      questions: columns question_id, topic.
      attributes: what the personas are made of.

    Returns:
      In the order of `predictions`: country, question_id, granularity, n, the attributes, topic,
      combination (the attributes named, joined by +), persona (its levels, joined by /), score
      (0-100) and variance (of the score, from sampling respondents; an upper bound if the model is
      within the sampling error).

    Raises:
      InputError: `questions` lacks a question.
    """
    names = [attribute.name for attribute in attributes]
    columns = ["country", "question_id", "granularity", "n", *names]
    data, model = (Distributions.of(predictions[name]) for name in ("p_data", "p_model"))
    slope = np.sign(data.cumulative - model.cumulative) / (data.options[:, None] - 1)
    variance = sampling_variance(slope, data, sample_sizes(predictions))
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
    """Returns the topic of each question. Raises InputError for an unknown question."""
    known = questions.drop_duplicates("question_id").set_index("question_id")["topic"]
    topic = question_id.map(known)
    if topic.isna().any():
        raise InputError(
            f"no topic for question {question_id[topic.isna()].iloc[0]!r}: the predictions are of "
            "other questions; use the data that was evaluated"
        )
    return topic


def level_cells(cells: pd.DataFrame, attributes: tuple[Attribute, ...]) -> pd.DataFrame:
    """Returns one row for each cell and each attribute that its persona names.

    The columns attribute and level replace the columns of the attributes.
    """
    names = [attribute.name for attribute in attributes]
    others = [name for name in cells if name not in names]
    rows = cells.melt(others, names, var_name="attribute", value_name="level")
    return rows.dropna(subset="level").reset_index(drop=True)


def alignment_table(cells: pd.DataFrame, average: Average, by: Sequence[str] = ()) -> pd.DataFrame:
    """Returns the mean score by granularity and country, and over countries in rows `ALL`.

    Args:
      cells: of `scored_cells` or `level_cells`, or a part of them. They may have `ceiling`
        (`ceilings.cell_ceilings`) and `seed`.
      average: `nested` or `flat` (module `uncertainty`).
      by: further columns that define a mean: topic; attribute and level; persona.

    Returns:
      Columns average, granularity, those of `by`, country, n_cells, n_questions, score, ci_low,
      ci_high; if the cells have a ceiling also ceiling and percent_of_ceiling. On the scale of 0
      to 100.
    """

    def scores(means: Averaging) -> pd.DataFrame:
        score, variance = (cells[name].to_numpy() for name in ("score", "variance"))
        table = means.intervals(score, variance, ("score", "ci_low", "ci_high"))
        table = means.groups.assign(**table.clip(lower=0, upper=100))
        if "ceiling" in cells:
            ceiling = means.means(cells["ceiling"].to_numpy())
            percent = 100 * table["score"] / ceiling
            table = table.assign(ceiling=ceiling, percent_of_ceiling=percent)
        return table

    keys = ["granularity", *by]
    table = with_all_countries(cells, keys, average, scores)
    table = table.assign(average=average, last=table["country"] == ALL)
    table = table.sort_values([*keys, "last", "country"], ignore_index=True)
    rest = [name for name in table if name not in {*keys, "average", "country", "last"}]
    return table[["average", *keys, "country", *rest]]


def score_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean score by country and granularity, with a 95 % interval.

    Averages are flat: cells count alike within a country, and countries count alike in `ALL`. A
    mean over one question has no interval here.

    Args:
      predictions: columns country, granularity, question_id, score.

    Returns:
      Columns country, granularity, n_cells, n_questions, score, ci_low, ci_high; scores in [0, 1].
    """
    columns = ["country", "granularity", "question_id"]
    cells = predictions[columns].assign(score=100 * predictions["score"], variance=np.nan)
    table = alignment_table(cells, "flat")
    percent = ["score", "ci_low", "ci_high"]
    table[percent] /= 100
    return table[["country", "granularity", "n_cells", "n_questions", *percent]]
