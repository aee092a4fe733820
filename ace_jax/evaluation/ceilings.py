"""What a perfect model would score, given that the survey is a sample.

A model that answers with a population's true shares still differs from the shares among n
respondents. By how much is simulated: draw a truth, draw a sample of size n from it, compare. The
survey's own shares p vary too much to serve as the truth; it is drawn from what is plausible given
p and the country's other answers to the question (empirical Bayes):

    pi ~ Dirichlet(n p + tau m)

Here m is the country's answer to the question, and 1 / (tau + 1) the share of an answer's variance
that lies between cells, estimated by moments over all contexts at once. If every context has a
single cell, p itself serves as the truth.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.evaluation.alignment import (
    Distributions,
    alignment_distances,
    effect_distances,
)

# Draws of each cell: more if there are few cells. Means over many cells need few draws of each.
DRAWN_CELLS, FEWEST, MOST = 2_000_000, 6, 400
SMALLEST_SHARE, LARGEST_SHARE = 1e-6, 0.99


def cell_ceilings(predictions: pd.DataFrame, seed: int) -> Float[np.ndarray, "cells"]:
    """Returns the expected score (0-100) of a perfect model in each cell, given its respondents.

    `predictions` has country, question_id, granularity, p_data and effective_n, which is rounded.
    """
    distances = _simulated(predictions, seed, alignment_distances)
    return 100 * (1 - distances)


def effect_floors(
    predictions: pd.DataFrame, pairs: pd.DataFrame, seed: int
) -> Float[np.ndarray, "pairs"]:
    """Returns the expected effect distance (Eq. 11) of a perfect model at each pair.

    `pairs` is of `effects.effect_table`, for the same predictions.
    """
    ends = np.concatenate([pairs["cell_0"].to_numpy(), pairs["cell_1"].to_numpy()])
    rows, position = np.unique(ends, return_inverse=True)
    zero, one = position[: len(pairs)], position[len(pairs) :]

    def distances(sample: Distributions, truth: Distributions) -> Float[np.ndarray, "pairs"]:
        drawn, true = (of.cumulative[one] - of.cumulative[zero] for of in (sample, truth))
        return effect_distances(drawn, true, truth.options[zero])

    return _simulated(predictions.iloc[rows], seed, distances)


def _simulated(
    predictions: pd.DataFrame,
    seed: int,
    distances: Callable[[Distributions, Distributions], np.ndarray],
) -> np.ndarray:
    """Returns the mean of `distances(sample, truth)` over many draws of every cell."""
    data, n = Distributions.of(predictions["p_data"]), predictions["effective_n"].to_numpy(float)
    plausible = _posterior(predictions, data, n)
    size = np.maximum(np.rint(n), 1).astype(np.int64)
    draws = np.random.default_rng(seed)
    rounds = int(np.clip(DRAWN_CELLS // max(len(predictions), 1), FEWEST, MOST))
    total: np.ndarray | float = 0.0
    for _ in range(rounds):
        weight = draws.standard_gamma(plausible)
        truth = weight / weight.sum(axis=1, keepdims=True)
        sample = draws.multinomial(size, truth / truth.sum(axis=1, keepdims=True)) / size[:, None]
        total = total + distances(*(Distributions(p, data.options) for p in (sample, truth)))
    return np.asarray(total / rounds)


def _posterior(
    predictions: pd.DataFrame, data: Distributions, n: Float[np.ndarray, "cells"]
) -> Float[np.ndarray, "cells width"]:
    """Returns the Dirichlet parameters of each cell's plausible truths."""
    context = predictions.groupby(["country", "question_id"], sort=False).ngroup().to_numpy()
    answers = np.zeros((context.max(initial=-1) + 1, data.p.shape[1]))
    np.add.at(answers, context, n[:, None] * data.p)
    marginal = (answers / answers.sum(axis=1, keepdims=True))[context]
    granularity = predictions["granularity"].to_numpy()
    full = granularity == granularity.max(initial=0)
    share = _share_between(data.p[full], marginal[full], n[full], context[full])
    return n[:, None] * data.p + (1 / share - 1) * marginal


def _share_between(
    p: Float[np.ndarray, "full width"],
    marginal: Float[np.ndarray, "full width"],
    n: Float[np.ndarray, "full"],
    context: np.ndarray,
) -> float:
    """Returns the share of an answer's variance that lies between the cells of a context."""
    own = n / np.bincount(context, n)[context]
    variance = 1 - (marginal**2).sum(axis=1)
    square = ((p - marginal) ** 2).sum(axis=1)
    # The mean that a cell is compared with includes the cell.
    sampling = variance * (1 - own) / n
    others = np.bincount(context, own**2)[context] - own**2
    between = variance * (1 - 1 / n) * ((1 - own) ** 2 + others)
    if between.sum() <= 0:
        return SMALLEST_SHARE
    share = (square - sampling).sum() / between.sum()
    return float(np.clip(share, SMALLEST_SHARE, LARGEST_SHARE))
