"""Estimates of a cell's distribution that borrow from its question and country.

A finest cell (all attributes named) is drawn towards a main-effects model of its context;
docs/estimators.md describes the model and measures its worth. Everything is estimated from the
cells alone.

Shapes: C contexts, F finest personas, K options (of the longest question; others are padded).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ace_jax.survey.personas import Attribute

# Half a respondent an option and context (Jeffreys), so that no option is impossible.
UNSEEN = 0.5
START_STRENGTH, ROUNDS, RAKINGS = 100.0, 3, 50
# The correlation of two respondents' answers in a cell beyond main effects: 1 / (tau + 1).
CORRELATIONS = (1e-5, 0.5)


def shrunk(
    cells: pd.DataFrame, attributes: tuple[Attribute, ...]
) -> tuple[list[Float[np.ndarray, "_"]], dict[str, float]]:
    """Returns the shrunk distribution (float64) of every cell of `cells.aggregate`, in its order.

    A finest cell is the posterior mean (n p + tau m) / (n + tau), with effective_n for n. A coarser
    cell moves by the n-weighted mean of the moves of its finest cells. The second result is tau
    (respondents) by question_id.
    """
    mean, strength = main_effects(cells, attributes)
    names = [attribute.name for attribute in attributes]
    estimate = _padded(cells["p"])
    is_finest = cells[names].notna().all(axis=1).to_numpy()
    finest = cells[is_finest]
    tau = finest["question_id"].map(strength).to_numpy(np.float64)
    drawn = tau / (finest["effective_n"].to_numpy() + tau)
    # The number of answers that move, so that coarser cells are sums.
    moves = (drawn * finest["n"].to_numpy())[:, None] * (mean - estimate[is_finest])
    moved = finest[["question_id", "country", *names, "n"]].join(
        pd.DataFrame(moves, index=finest.index)
    )
    for granularity in range(1, len(names) + 1):
        for named in combinations(names, granularity):
            these = (cells[names].notna() == [name in named for name in names]).all(axis=1)
            keys = ["question_id", "country", *named]
            sums = moved.groupby(keys, observed=True).sum(numeric_only=True)
            sums = sums.loc[pd.MultiIndex.from_frame(cells.loc[these, keys])]
            estimate[these] += sums.drop(columns="n").to_numpy() / sums[["n"]].to_numpy()
    # Below zero only by rounding, or where survey weights and n weigh finest cells differently.
    estimate = np.maximum(estimate, 0)
    estimate /= estimate.sum(axis=1, keepdims=True)
    rows = zip(estimate, cells["p"], strict=True)
    return [row[: len(p)] for row, p in rows], strength


def share_variance(
    shares: Float[np.ndarray, "cells width"], n: Float[np.ndarray, "cells"]
) -> Float[np.ndarray, "cells width"]:
    """Returns the variance of cumulative shares from sampling n respondents a cell, unbiased."""
    return shares * (1 - shares) / np.maximum(n - 1, 1)[:, None]


def pair_precision(cells: pd.DataFrame, pairs: Int[np.ndarray, "Q 2"]) -> Float[np.ndarray, "Q"]:
    """Returns a weight for each pair, of mean 1: 1 / (v + sigma^2).

    v is the variance of the pair's effect (its cumulative shares) from sampling respondents, and
    sigma^2 that of true effects: what the effects of all pairs have beyond their v. So a large
    cell counts for more only as far as noise, and not the effects themselves, sets pairs apart.

    Args:
      cells: columns p and effective_n.
      pairs: positions of both ends in `cells`.
    """
    shares = np.cumsum(_padded(cells["p"]), axis=1)
    n = cells["effective_n"].to_numpy(np.float64)
    v = share_variance(shares, n).sum(axis=1)[pairs].sum(axis=1)
    moved = ((shares[pairs[:, 1]] - shares[pairs[:, 0]]) ** 2).sum(axis=1)
    variance = v + max(float((moved - v).mean()), 0.0)
    precision = 1 / np.maximum(variance, np.finfo(float).tiny)
    return precision / precision.mean()


def main_effects(
    cells: pd.DataFrame, attributes: tuple[Attribute, ...]
) -> tuple[Float[np.ndarray, "finest K"], dict[str, float]]:
    """Fits the main-effects model of every question and country, and how far it can be trusted.

    Returns what finest cells are drawn towards, in their order, and tau (respondents) by
    question_id, by the method of moments: from how much farther a question's cells lie from the
    model than chance has it.
    """
    names = [attribute.name for attribute in attributes]
    finest = cells[cells[names].notna().all(axis=1)].reset_index(drop=True)
    context = finest.groupby(["question_id", "country"], sort=False, observed=True).ngroup()
    persona = finest.groupby(names, sort=False, observed=True).ngroup()
    p, n = _padded(finest["p"]), finest["effective_n"].to_numpy()
    answers = np.zeros((context.max() + 1, persona.max() + 1, p.shape[1]))
    answers[context, persona] = n[:, None] * p
    total = answers.sum(axis=2, keepdims=True)
    options = finest["p"].map(len).groupby(context).first().to_numpy()
    is_option = np.arange(p.shape[1]) < options[:, None, None]
    smoothed = answers + UNSEEN * is_option * total / total.sum(axis=1, keepdims=True)
    levels = finest[names].groupby(persona).first()
    codes = [pd.factorize(levels[name])[0] for name in names]
    # Fitting the terms brings the model closer to a context's cells than the truth is.
    terms = 1 + sum(int(code.max()) for code in codes)
    free = np.maximum(1 - terms / context.map(context.value_counts()).to_numpy(), 0)
    question, ids = pd.factorize(finest["question_id"])
    tau = np.full(len(n), START_STRENGTH)
    for _ in range(ROUNDS):
        # An answer counts less where cells differ beyond the model.
        weight = np.zeros_like(total)
        weight[context, persona, 0] = (tau + 1) / (tau + n)
        mean = _raked(weight * smoothed, codes)[context, persona]
        beyond = _beyond_chance(n, p, mean, free)
        excess, scale = (np.bincount(question, each) for each in beyond)
        # Each question also counts the average context, so that one with few cells follows.
        excess += excess.sum() / len(answers)
        scale += scale.sum() / len(answers)
        strength = [_strength(*of) for of in zip(excess, scale, strict=True)]
        tau = np.array(strength)[question]
    return mean, dict(zip(ids, strength, strict=True))


def _raked(
    answers: Float[np.ndarray, "C F K"], levels: list[Int[np.ndarray, "F"]]
) -> Float[np.ndarray, "C F K"]:
    """Returns the most likely distributions of a log-linear model with a term a level and option.

    Raking (iterative proportional fitting) makes the answers of each level add up to a given sum.
    Here it is the level's own, drawn towards the context's answers as far as chance explains the
    differences between an attribute's levels, over all contexts.
    """
    total = answers.sum(axis=2, keepdims=True)
    overall = answers.sum(axis=1, keepdims=True) / total.sum(axis=1, keepdims=True)
    members = [np.eye(level.max() + 1)[:, level] for level in levels]
    aims = []
    for one in members:
        n = np.maximum(one @ total, UNSEEN)
        p = one @ answers / n
        excess, scale = _beyond_chance(n[..., 0], p, overall, 1 - 1 / len(one))
        tau = _strength(excess.sum(), scale.sum())
        aims.append(n * (n * p + tau * overall) / (n + tau))
    fitted = total * overall
    for _ in range(RAKINGS):
        for level, one, aim in zip(levels, members, aims, strict=True):
            has = one @ fitted
            fitted *= np.divide(aim, has, out=np.zeros_like(aim), where=has > 0)[:, level]
        has = fitted.sum(axis=2, keepdims=True)
        fitted *= np.divide(total, has, out=np.zeros_like(has), where=has > 0)
    return np.divide(fitted, total, out=np.zeros_like(fitted), where=total > 0)


def _beyond_chance(
    n: Float[np.ndarray, "*R"],
    p: Float[np.ndarray, "*R K"],
    mean: Float[np.ndarray, "*S K"],
    free: float | Float[np.ndarray, "*R"],
) -> tuple[Float[np.ndarray, "*R"], Float[np.ndarray, "*R"]]:
    """Returns how much farther p lies from its mean than chance has it, and that at tau = 0.

    The square of the distance of n answers is expected to be (1 + (n - 1) / (tau + 1)) times that
    by chance. `free` is the share of it that is left after the mean was fitted to the answers.
    """
    chance = (1 - (mean**2).sum(axis=-1)) * free
    distance = n * ((p - mean) ** 2).sum(axis=-1) * (chance > 0)
    return distance - chance, chance * np.maximum(n - 1, 0)


def _strength(excess: float, scale: float) -> float:
    """Returns tau, the largest where the cells are too few to estimate it."""
    low, high = CORRELATIONS
    return float(1 / np.clip(excess / max(scale, low), low, high) - 1)


def _padded(p: Sequence[np.ndarray] | pd.Series) -> Float[np.ndarray, "cells width"]:
    padded = np.zeros((len(p), max(map(len, p))))
    for row, one in zip(padded, p, strict=True):
        row[: len(one)] = one
    return padded
