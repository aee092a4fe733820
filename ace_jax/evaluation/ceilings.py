"""What even a perfect model would reach, because the survey is a sample.

A model that answers with a population's true shares is still some way off the shares among n
respondents. How far is simulated: a truth is drawn, then a sample of size n from it, and the two
are compared.

The survey's own shares p cannot stand in for the truth. They are too far apart: an answer that
nobody happened to give would never be drawn, and the ceiling comes out too high. So a truth is
drawn from what p and the country's other answers to the question leave possible (empirical Bayes):

    pi ~ Dirichlet(n p + tau m)

m being the country's answer to the question, and tau how much cells of full personas differ from
it: 1 / (tau + 1) is the share of an answer's variance that lies between them, by moments, over all
questions and countries at once. Where every context has one cell only there is nothing to learn it
from, and p stands in for the truth after all.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.evaluation.distributions import (
    Distributions,
    alignment_distances,
    effect_distances_of,
    sample_sizes,
)

# Draws a cell: many where cells are few. Means over many cells need few draws of each.
DRAWN_CELLS, FEWEST, MOST = 2_000_000, 6, 400
SMALLEST_SHARE, LARGEST_SHARE = 1e-6, 0.99


def cell_ceilings(predictions: pd.DataFrame, seed: int) -> Float[np.ndarray, "cells"]:
    """Returns the score (0-100) to expect of a perfect model in each cell, given its respondents.

    Args:
      predictions: columns country, question_id, granularity, p_data and effective_n (or n), which
        is rounded.
      seed: of the draws.
    """
    rounds = _rounds(len(predictions))
    distance = np.zeros(len(predictions))
    for truth, sample in _simulated(predictions, rounds, seed):
        distance += alignment_distances(sample, truth)
    return 100 * (1 - distance / rounds)


def effect_floors(
    predictions: pd.DataFrame, pairs: pd.DataFrame, seed: int
) -> Float[np.ndarray, "pairs"]:
    """Returns the effect distance (Eq. 11) to expect of a perfect model at each pair.

    Args:
      predictions: as in `cell_ceilings`.
      pairs: of `effects.effect_table`.
      seed: of the draws.
    """
    ends = np.concatenate([pairs["cell_0"].to_numpy(), pairs["cell_1"].to_numpy()])
    rows, position = np.unique(ends, return_inverse=True)
    zero, one = position[: len(pairs)], position[len(pairs) :]
    rounds = _rounds(len(rows))
    distance = np.zeros(len(pairs))
    for truth, sample in _simulated(predictions.iloc[rows], rounds, seed):
        drawn, true = (of.cumulative[one] - of.cumulative[zero] for of in (sample, truth))
        distance += effect_distances_of(drawn, true, truth.options[zero])
    return distance / rounds


def _simulated(
    predictions: pd.DataFrame, rounds: int, seed: int
) -> Iterator[tuple[Distributions, Distributions]]:
    """Yields a truth for every cell and a sample of it, several times."""
    data, n = Distributions.of(predictions["p_data"]), sample_sizes(predictions)
    possible = _posterior(predictions, data, n)
    size = np.maximum(np.rint(n), 1).astype(np.int64)
    draws = np.random.default_rng(seed)
    for _ in range(rounds):
        weight = draws.standard_gamma(possible)
        truth = Distributions(weight / weight.sum(axis=1, keepdims=True), data.options)
        yield truth, truth.drawn(size, draws)


def _posterior(
    predictions: pd.DataFrame, data: Distributions, n: Float[np.ndarray, "cells"]
) -> Float[np.ndarray, "cells width"]:
    """Returns the Dirichlet parameters of what each cell's truth may be."""
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
    # A cell is compared with a mean that it is part of itself.
    sampling = variance * (1 - own) / n
    others = np.bincount(context, own**2)[context] - own**2
    between = variance * (1 - 1 / n) * ((1 - own) ** 2 + others)
    if between.sum() <= 0:
        return SMALLEST_SHARE
    share = (square - sampling).sum() / between.sum()
    return float(np.clip(share, SMALLEST_SHARE, LARGEST_SHARE))


def _rounds(cells: int) -> int:
    return int(np.clip(DRAWN_CELLS // max(cells, 1), FEWEST, MOST))
