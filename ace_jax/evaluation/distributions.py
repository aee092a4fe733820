"""Distributions over ordered options, many in one array, and their distances (Eq. 11, Eq. 15)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Distributions:
    """One distribution a row, padded with zeros after its K options.

    Attributes:
      p: probabilities, float64.
      options: K of each row.
    """

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

    def drawn(self, n: Int[np.ndarray, "rows"], draws: np.random.Generator) -> "Distributions":
        """Returns the shares among n answers drawn from each row."""
        p = self.p / self.p.sum(axis=1, keepdims=True)
        return Distributions(draws.multinomial(n, p) / n[:, None], self.options)


def sample_sizes(predictions: pd.DataFrame) -> Float[np.ndarray, "rows"]:
    """Returns each cell's effective number of respondents: `effective_n`, or `n` without it."""
    column = "effective_n" if "effective_n" in predictions else "n"
    return predictions[column].to_numpy(np.float64)


def alignment_distances(one: Distributions, other: Distributions) -> Float[np.ndarray, "rows"]:
    """Returns the 1-Wasserstein distance over option positions, divided by K - 1 (Eq. 15).

    It is in [0, 1]. Example: all mass on the first of three options against all mass on the second
    is 1 / 2.
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

    It is unbiased if p is itself a multinomial sample (hence n - 1).

    Args:
      slope: zero except at the thresholds.
      p: the shares.
      n: respondents; effective ones if they are weighted.
    """
    of_answer = np.cumsum(slope[:, ::-1], axis=1)[:, ::-1]
    mean = (p.p * of_answer).sum(axis=1)
    spread = (p.p * of_answer**2).sum(axis=1) - mean**2
    return np.maximum(spread, 0) / np.maximum(n - 1, 1)
