"""Scores and slopes by what training had not seen: the question, the country, both, or neither."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ace_jax.evaluation.alignment import Distributions, alignment_distances, alignment_table
from ace_jax.evaluation.slopes import ATTRIBUTES, products, slope_table
from ace_jax.evaluation.uncertainty import ALL
from ace_jax.evaluation.worth import WORTH, squared_errors, worth_table
from ace_jax.survey.pairs import COUNTRY
from ace_jax.survey.personas import Attribute
from ace_jax.survey.split import HeldOut, full_personas

MODEL, SEEN = "this run", "seen"
KEYS = ["block", "granularity", "run"]
SCORED = ["country", "granularity", "question_id"]
ANSWERS = ("p_data", "p_model")
ERRORS = ["granularity", "question_id", "n_cells", "error", "one_respondent"]
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
    runs: Mapping[str, Sequence[pd.DataFrame]],
    held_out: HeldOut,
    attributes: tuple[Attribute, ...],
    min_n: int,
) -> pd.DataFrame:
    """Returns scores and slopes of each block, over its countries.

    Slopes are within a block: `country` compares its countries only. A score (0-1) is the flat
    mean over every cell. Intervals are over questions and seeds.

    Args:
      runs: name -> predictions of each seed, all of the same cells in the same order.
      held_out: what training had not seen.
      attributes: of the survey.
      min_n: respondents that a cell has at least, in slopes and worth.

    Returns:
      Columns block, granularity, run, n_cells, n_questions, n_countries, score, score_low,
      score_high, for each toggle of attributes (all together) and country: slope,
      slope_low, slope_high, correlation, after the toggle's name; and worth, worth_low, worth_high
      (`worth_table`), NaN for what was seen, because training knows its respondents.
    """
    scored, sums, errors = [], [], []
    for name, seeds in runs.items():
        for seed, cells in enumerate(seeds):
            for block, its in cells.groupby(block_of(cells, held_out, attributes), sort=False):
                keys = {"block": block, "run": name, "seed": seed}
                distance = alignment_distances(*(Distributions.of(its[p]) for p in ANSWERS))
                score = 100 * (1 - distance)
                scored.append(its[SCORED].assign(score=score, variance=np.nan, **keys))
                sums.append(products(its, attributes, min_n).assign(**keys))
                errors.append(squared_errors(its[its["n"] >= min_n])[ERRORS].assign(**keys))
    table = alignment_table(pd.concat(scored, ignore_index=True), "flat", ["block", "run"])
    table = table[table["country"] == ALL].set_index(KEYS)
    counts = pd.concat(scored).groupby(KEYS)["country"].nunique()
    scores = table[["score", "ci_low", "ci_high"]] / 100
    table = table[["n_cells", "n_questions"]].assign(n_countries=counts, **scores)
    table = table.rename(columns={"ci_low": "score_low", "ci_high": "score_high"})
    slopes = slope_table(pd.concat(sums, ignore_index=True), ["block", "run"])
    for toggle in (ATTRIBUTES, COUNTRY):
        its = slopes[(slopes["country"] == ALL) & (slopes["toggle"] == toggle)].set_index(KEYS)
        table = table.join(its[OF_SLOPE].add_prefix(f"{toggle}_"))
    unseen = pd.concat(errors, ignore_index=True).query("block != @SEEN")
    return table.join(worth_table(unseen, KEYS).set_index(KEYS)[WORTH]).reset_index()
