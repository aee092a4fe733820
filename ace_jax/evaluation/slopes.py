"""Slopes: how much of the survey's differences a model's answers show.

A toggle is one attribute, or the country. A group is what is alike but for the toggle: for
"gender", one country's answers to one question by Male and Female, all else equal; for "country",
one persona's answers to one question in every country. Within a group, d is how far a cell's
cumulative shares are from the group's mean in the survey, m the same in the model's answers.

    slope = sum m d / (sum d^2 - sum v)

v is what sampling respondents adds to d^2. So noise in the survey does not pull the slope to 0: a
model that shows every true difference has 1, one that answers all alike has 0.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from ace_jax.evaluation.alignment import Distributions
from ace_jax.evaluation.uncertainty import ALL, LEVEL
from ace_jax.survey.estimators import share_variance
from ace_jax.survey.pairs import COUNTRY
from ace_jax.survey.personas import Attribute

ATTRIBUTES = "attributes"  # the toggle of rows over all attributes
PRODUCTS = ["md", "dd", "mm"]
REVERSED, UNCLEAR, NONE = "reversed", "not clear", "no effect learnt"
ALIGNED, PART, TOO_MUCH = "aligned", "learnt in part", "exaggerated"
NEAR = (0.8, 1.25)  # slopes that count as 1 whatever their interval
SMALL = 0.5  # an interval that holds 0 and ends below it says that little was learnt


def products(
    predictions: pd.DataFrame, attributes: tuple[Attribute, ...], min_n: int
) -> pd.DataFrame:
    """Returns the sums that slopes are made of.

    `predictions` has the columns of predictions.parquet. Only cells with `min_n` respondents count,
    and groups of two such cells or more.

    Returned columns: toggle (an attribute or COUNTRY), granularity, question_id, country, n_cells,
    and md, dd, mm: sums over cells and thresholds of m d, d^2 - v and m^2 (float64).
    """
    kept = predictions[predictions["n"] >= min_n].reset_index(drop=True)
    data, model = (Distributions.of(kept[name]) for name in ("p_data", "p_model"))
    shares, answered = data.cumulative, model.cumulative
    noise = share_variance(shares, kept["effective_n"].to_numpy(np.float64)).sum(axis=1)
    names = [attribute.name for attribute in attributes]
    parts = []
    for toggle in (*names, COUNTRY):
        alike = ["granularity", "question_id", COUNTRY, *names]
        alike.remove(toggle)
        group = kept.groupby(alike, sort=False, dropna=False).ngroup().to_numpy()
        size = np.bincount(group, minlength=1)[group]
        # A cell that does not name the attribute is alone in its group.
        used = size > 1
        m, d = (_deviations(of, group) for of in (answered, shares))
        parts.append(
            kept.loc[used, ["granularity", "question_id", COUNTRY]].assign(
                toggle=toggle,
                n_cells=1,
                md=(m * d).sum(axis=1)[used],
                dd=((d**2).sum(axis=1) - _left(noise, group, size))[used],
                mm=(m**2).sum(axis=1)[used],
            )
        )
    keys = ["toggle", "granularity", "question_id", COUNTRY]
    return pd.concat(parts).groupby(keys, sort=False).sum().reset_index()


def slope_table(sums: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Returns slopes by toggle and granularity, over countries in rows ALL.

    The 95 % interval is over questions, which are what a survey chose; with a column `seed` the
    variance between seeds is added. It is NaN for a single question.

    Args:
      sums: of `products`; of several runs or seeds if it has those columns.
      by: more columns that define a row, such as run.

    Returns:
      Columns those of `by`, country, granularity, toggle (ATTRIBUTES: all attributes together),
      n_questions, n_cells, slope, slope_low, slope_high, correlation, sd_ratio (of the model's
      differences to the survey's), positive (share of questions whose own slope is above 0) and
      verdict. Slopes are NaN where the survey's differences are within its noise.
    """
    together = sums[sums["toggle"] != COUNTRY].assign(toggle=ATTRIBUTES)
    sums = pd.concat([sums, together])
    sums = pd.concat([sums, sums.assign(country=ALL)])
    keys = [*by, COUNTRY, "granularity", "toggle"]
    table = ratio_table(sums, keys, "md", "dd")
    table = table.rename(columns={"ratio": "slope", "low": "slope_low", "high": "slope_high"})
    total = sums.groupby(keys)[PRODUCTS].sum().loc[pd.MultiIndex.from_frame(table[keys])]
    md, dd, mm = total.where(total["dd"] > 0).to_numpy().T
    intervals = table[["slope_low", "slope", "slope_high"]].to_numpy()
    return table.assign(
        correlation=md / np.sqrt(dd * np.where(mm > 0, mm, np.nan)),
        sd_ratio=np.sqrt(mm / dd),
        verdict=[verdict(*row) for row in intervals],
    )


def ratio_table(sums: pd.DataFrame, keys: list[str], above: str, below: str) -> pd.DataFrame:
    """Returns sum(above) / sum(below) by `keys`, with 95 % intervals over questions.

    The variance is the jackknife's, which leaves out one question at a time; that between seeds
    (column `seed`, if there is one) is added. The interval is Student's.

    Returned columns: `keys`, n_questions, n_cells (of one seed), ratio, low, high, p_value (that
    the ratio is 0, two-sided), and positive (share of questions with above > 0). The ratio is NaN
    where the sum below is not positive, its interval and p_value also for a single question.
    """
    sums = sums if "seed" in sums else sums.assign(seed=0)
    values = [above, below, "n_cells"]
    runs = sums.groupby([*keys, "seed", "question_id"], sort=False)[values].sum()
    each = runs.groupby([*keys, "question_id"], sort=False).mean()
    groups = each.groupby(keys, sort=False)
    total, count = groups.transform("sum"), groups[above].transform("size")
    with np.errstate(divide="ignore", invalid="ignore"):
        left = (total[above] - each[above]) / (total[below] - each[below])
        away = (left - left.groupby(keys, sort=False).transform("mean")) ** 2 * (count - 1) / count
        square = away.groupby(keys, sort=False).sum()
        by_seed = runs.groupby([*keys, "seed"], sort=False)[values].sum()
        seeds = (by_seed[above] / by_seed[below]).groupby(keys, sort=False)
        of_seeds = (seeds.var() / seeds.size()).fillna(0)
        questions, n = groups.size(), groups.sum()
        # A few questions with large differences carry a slope: they are what is counted.
        share = each[below].clip(lower=0) / total[below]
        counted = 1 / (share**2).groupby(keys, sort=False).sum()
        freedom = square**2 / (counted - 1).clip(lower=1)
        freedom += of_seeds**2 / (seeds.size() - 1).clip(lower=1)
        square = square + of_seeds
        degrees = np.where(freedom > 0, square**2 / freedom, np.inf)
    middle = (n[above] / n[below]).where(n[below] > 0)
    error = np.sqrt(square.where(questions > 1))
    half = stdtrit(degrees, (1 + LEVEL) / 2) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * stdtr(degrees, -(middle / error).abs())
    table = pd.DataFrame(
        {
            "n_questions": questions,
            "n_cells": n["n_cells"].astype(int),
            "ratio": middle,
            "low": middle - half,
            "high": middle + half,
            "p_value": p_value,
            "positive": (each[above] > 0).groupby(keys, sort=False).mean(),
        }
    )
    return table.reset_index()


def slope_differences(sums: pd.DataFrame) -> pd.DataFrame:
    """Returns how much the slopes of every run exceed those of the first, over countries.

    Both are of the same cells, so the difference is paired: by question, and by seed where both
    runs have as many. One row is the primary test: all attributes together, at the finest
    granularity, of the second run. Holm's correction is for all other rows together.

    Args:
      sums: of `products`, with columns run and seed; runs have the same number of seeds, or one.

    Returns:
      Columns run, other (the first), granularity, toggle, n_questions, n_cells, difference,
      difference_low, difference_high, p_value (with seeds), p_holm (NaN in the primary row) and
      primary.
    """
    together = sums[sums["toggle"] != COUNTRY].assign(toggle=ATTRIBUTES)
    (first, before), *others = pd.concat([sums, together]).groupby("run", sort=False)
    cell, parts = ["toggle", "granularity", "question_id", COUNTRY], []
    for name, after in others:
        # A single run is compared with every seed of the other.
        by_seed = [
            of if of["seed"].nunique() > 1 else of.drop(columns="seed") for of in (after, before)
        ]
        on = [*cell, *({"seed"} & set(by_seed[0]) & set(by_seed[1]))]
        pairs = by_seed[0].merge(by_seed[1][[*({"seed"} & set(by_seed[1])), *cell, "md"]], on=on)
        parts.append(pairs.assign(run=name, gained=pairs["md_x"] - pairs["md_y"]))
    keys = ["run", "granularity", "toggle"]
    table = ratio_table(pd.concat(parts, ignore_index=True), keys, "gained", "dd")
    finest = table["granularity"] == table["granularity"].max()
    primary = finest & (table["toggle"] == ATTRIBUTES) & (table["run"] == others[0][0])
    names = {"ratio": "difference", "low": "difference_low", "high": "difference_high"}
    table = table.assign(
        other=first, primary=primary, p_holm=holm(table["p_value"].where(~primary))
    ).rename(columns=names)
    shown = ["n_questions", "n_cells", *names.values(), "p_value", "p_holm", "primary"]
    return table[["run", "other", "granularity", "toggle", *shown]]


def holm(p_values: pd.Series) -> pd.Series:
    """Returns p-values corrected for their number (Holm, 1979); NaN stays and does not count."""
    ordered = p_values.dropna().sort_values()
    corrected = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    return corrected.reindex(p_values.index)


def verdict(low: float, slope: float, high: float) -> str:
    """Returns what a slope and its interval say, in words.

    Nothing is clear without an interval (a single question), or with one from 0 to beyond SMALL.
    """
    if not np.isfinite([low, slope, high]).all() or (low <= 0 and high >= SMALL):
        return UNCLEAR
    if high < 0:
        return REVERSED
    if low <= 0:
        return NONE
    if low <= 1 <= high or NEAR[0] <= slope <= NEAR[1]:
        return ALIGNED
    return PART if slope < 1 else TOO_MUCH


def _deviations(
    shares: Float[np.ndarray, "cells width"], group: np.ndarray
) -> Float[np.ndarray, "cells width"]:
    means = pd.DataFrame(shares).groupby(group).transform("mean")
    return shares - means.to_numpy()


def _left(
    noise: Float[np.ndarray, "cells"], group: np.ndarray, size: np.ndarray
) -> Float[np.ndarray, "cells"]:
    """Returns the expected square of what sampling adds to each cell's deviation.

    A deviation is (1 - 1/k) of the cell's own error and 1/k of each of the others'.
    """
    of_group = np.bincount(group, noise, minlength=1)[group]
    return noise * (1 - 2 / size) + of_group / size**2
