"""How close the model's answers are to the survey's (Eq. 15).

`predictions` is the table that `evaluate` writes: a row a cell, with p_data and p_model.
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
from ace_jax.evaluation.uncertainty import Average, averaging
from ace_jax.survey.personas import Attribute

ALL = "ALL"


def alignment_distance(p: Float[np.ndarray, "K"], q: Float[np.ndarray, "K"]) -> float:
    """Returns the 1-Wasserstein distance over option positions, divided by its maximum K - 1.

    Example: all mass on the first of three options against all on the second is 1 / 2.
    """
    return float(np.abs(np.cumsum(p - q))[:-1].sum() / (len(p) - 1))


def scored_cells(
    predictions: pd.DataFrame, questions: pd.DataFrame, attributes: tuple[Attribute, ...]
) -> pd.DataFrame:
    """Returns what every table of scores is made from: a row a cell, without distributions.

    Args:
      predictions: of one run.
      questions: columns question_id, topic.
      attributes: what the personas are made of.

    Returns:
      In the order of `predictions`: country, question_id, granularity, n, the attributes, topic,
      combination (the attributes named, joined by +), persona (its levels, joined by /), score
      (0-100) and variance (of the score, from sampling respondents; from above where the model is
      within the sampling error).

    Raises:
      InputError: a question that `questions` does not have.
    """
    names = [attribute.name for attribute in attributes]
    columns = ["country", "question_id", "granularity", "n", *names]
    data, model = (Distributions.of(predictions[name]) for name in ("p_data", "p_model"))
    slope = np.sign(data.cumulative - model.cumulative) / (data.options[:, None] - 1)
    variance = sampling_variance(slope, data, sample_sizes(predictions))
    return predictions[columns].assign(
        topic=topics_of(predictions["question_id"], questions),
        combination=_joined(predictions[names].notna(), names, "+"),
        persona=_personas(predictions[names]),
        score=100 * (1 - alignment_distances(data, model)),
        variance=100**2 * variance,
    )


def topics_of(question_id: pd.Series, questions: pd.DataFrame) -> pd.Series:
    """Returns the topic of each question named. Raises InputError for an unknown question."""
    known = questions.drop_duplicates("question_id").set_index("question_id")["topic"]
    topic = question_id.map(known)
    if topic.isna().any():
        raise InputError(
            f"no topic for question {question_id[topic.isna()].iloc[0]!r}: the questions are not "
            "those of the predictions; use the data that was evaluated"
        )
    return topic


def level_cells(cells: pd.DataFrame, attributes: tuple[Attribute, ...]) -> pd.DataFrame:
    """Returns a row a cell and attribute that its persona names: columns attribute, level.

    In the place of a column an attribute.
    """
    names = [attribute.name for attribute in attributes]
    others = cells.drop(columns=names)
    rows = []
    for name in names:
        named = cells[name].notna()
        rows.append(others[named].assign(attribute=name, level=cells.loc[named, name]))
    return pd.concat(rows, ignore_index=True)


def alignment_table(cells: pd.DataFrame, average: Average, by: Sequence[str] = ()) -> pd.DataFrame:
    """Returns the mean score by granularity and country, and over countries in rows `ALL`.

    Args:
      cells: of `scored_cells`, maybe with `ceiling` (`ceilings.cell_ceilings`), or any part or
        repetition of them (`level_cells`).
      average: `nested` or `flat` (module `averages`).
      by: further columns to tell apart: topic; attribute and level; persona.

    Returns:
      Columns average, granularity, those of `by`, country, n_cells, n_questions, score, ci_low,
      ci_high; where cells have a ceiling also ceiling and percent_of_ceiling. On the scale of 0
      to 100.
    """
    keys = ["granularity", *by]
    tables = [_scores(cells, [*keys, "country"], average)]
    tables.append(_scores(cells, keys, average, over=("country",)).assign(country=ALL))
    table = pd.concat(tables, ignore_index=True)
    table = table.assign(average=average, last=table["country"] == ALL)
    table = table.sort_values([*keys, "last", "country"], ignore_index=True)
    rest = [name for name in table if name not in {*keys, "average", "country", "last"}]
    return table[["average", *keys, "country", *rest]]


def score_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean score by country and granularity, with a 95 % interval.

    Flat averages: every cell counts alike in its country, every country alike in `ALL`. A mean
    over one question has no interval here (`scored_cells` knows its sampling error).

    Args:
      predictions: columns country, granularity, question_id, score.

    Returns:
      Columns country, granularity, n_cells, score, ci_low, ci_high; scores in [0, 1].
    """
    columns = ["country", "granularity", "question_id"]
    cells = predictions[columns].assign(score=100 * predictions["score"], variance=np.nan)
    table = alignment_table(cells, "flat")
    percent = ["score", "ci_low", "ci_high"]
    table[percent] /= 100
    return table[["country", "granularity", "n_cells", *percent]]


def _scores(
    cells: pd.DataFrame, by: Sequence[str], average: Average, over: Sequence[str] = ()
) -> pd.DataFrame:
    means = averaging(cells, by, average, over=over)
    score, variance = (cells[name].to_numpy() for name in ("score", "variance"))
    intervals = means.intervals(score, variance).clip(lower=0, upper=100)
    table = means.groups.assign(
        score=intervals["mean"], ci_low=intervals["low"], ci_high=intervals["high"]
    )
    if "ceiling" in cells:
        ceiling = means.means(cells["ceiling"].to_numpy())
        percent = 100 * table["score"] / ceiling
        table = table.assign(ceiling=ceiling, percent_of_ceiling=percent)
    return table


def _personas(levels: pd.DataFrame) -> pd.Series:
    """The levels that each row names, joined by /; distinct personas are few, so they go first."""
    distinct = levels.drop_duplicates()
    named = ["/".join(row[row.notna()]) for _, row in distinct.iterrows()]
    code = levels.groupby(list(levels), sort=False, dropna=False).ngroup()
    return pd.Series(np.array(named, object)[code.to_numpy()], index=levels.index)


def _joined(named: pd.DataFrame, names: Sequence[str], separator: str) -> pd.Series:
    code = (named.to_numpy() * 2 ** np.arange(len(names))).sum(axis=1)
    text = [
        separator.join(name for bit, name in enumerate(names) if code >> bit & 1)
        for code in range(2 ** len(names))
    ]
    return pd.Series(np.array(text, object)[code], index=named.index)
