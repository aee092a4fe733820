"""Scores and slopes by what training had not seen: the question, the country, both, or neither."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ace_jax.evaluation.alignment import score_table
from ace_jax.evaluation.answers import Answers, predictions_table
from ace_jax.evaluation.slopes import ATTRIBUTES, products, slope_table
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.evaluation.worth import WORTH, squared_errors, worth_table
from ace_jax.survey.pairs import COUNTRY
from ace_jax.survey.personas import Attribute
from ace_jax.survey.split import HeldOut, full_personas

MODEL, SEEN = "this run", "seen"
SLOPES = [f"{toggle}_slope" for toggle in (ATTRIBUTES, COUNTRY)]
OF_SLOPE = ["slope", "slope_low", "slope_high", "correlation"]


def block_of(
    cells: pd.DataFrame, held_out: HeldOut, attributes: tuple[Attribute, ...]
) -> pd.Series:
    """Returns the block of each cell: what of it training had not seen, in words."""
    question = cells["question_id"].isin(held_out.questions)
    country = cells["country"].isin(held_out.countries)
    persona = full_personas(cells, attributes).isin(held_out.personas)
    kinds = [question & country, question, country, persona]
    names = ["both unseen", "unseen questions", "unseen countries", "unseen personas"]
    return pd.Series(np.select(kinds, names, SEEN), cells.index, name="block")


def block_table(
    cells: pd.DataFrame,
    answers: Mapping[str, Answers],
    held_out: HeldOut,
    attributes: tuple[Attribute, ...],
    min_n: int,
) -> pd.DataFrame:
    """Returns scores and slopes of each block, over its countries.

    Slopes are within a block: `country` compares its countries only. A score is the flat mean of
    `score_table`, over every cell.

    Args:
      cells: those scored, as in a dataset.
      answers: by name, MODEL and references, to these cells in their order.
      held_out: what training had not seen.
      attributes: of the survey.
      min_n: respondents that a cell has at least, in slopes.

    Returns:
      Columns block, granularity, run, n_cells, n_countries, n_questions, score (0-1), for each
      toggle of attributes (all together) and country: slope, slope_low, slope_high, correlation,
      after the toggle's name; and worth, worth_low, worth_high (`worth_table`), NaN for what was
      seen, because training knows its respondents.
    """
    block, parts = block_of(cells, held_out, attributes), []
    for name, of in answers.items():
        for which, its in predictions_table(cells, of).groupby(block, sort=False):
            table = _one(its, attributes, min_n).assign(block=which, run=name)
            parts.append(table.assign(**dict.fromkeys(WORTH, np.nan)) if which == SEEN else table)
    table = pd.concat(parts, ignore_index=True)
    first = ["block", "granularity", "run"]
    return table[[*first, *table.columns.drop(first)]]


def _one(predictions: pd.DataFrame, attributes: tuple[Attribute, ...], min_n: int) -> pd.DataFrame:
    scores = score_table(predictions)
    scores = scores[scores["country"] == ALL].set_index("granularity")
    table = scores[["n_cells", "n_questions", "score"]].assign(
        n_countries=predictions.groupby("granularity")["country"].nunique()
    )
    slopes = slope_table(products(predictions, attributes, min_n))
    for toggle in (ATTRIBUTES, COUNTRY):
        its = slopes[(slopes["country"] == ALL) & (slopes["toggle"] == toggle)]
        its = its.set_index("granularity")
        table = table.join(its[OF_SLOPE].add_prefix(f"{toggle}_"))
    errors = squared_errors(predictions[predictions["n"] >= min_n])
    worth = worth_table(errors, ["granularity"]).set_index("granularity")[WORTH]
    return table.join(worth).reset_index()
