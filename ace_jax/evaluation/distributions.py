"""Distributions over ordered options, those of all cells in one array."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Distributions:
    """A distribution a row, zero beyond its K options, so that rows of any K are one array.

    Attributes:
      p: float64, as wide as the longest.
      options: K of each row.
    """

    p: Float[np.ndarray, "rows width"]
    options: Int[np.ndarray, "rows"]

    @classmethod
    def of(cls, column: pd.Series) -> "Distributions":
        """Stacks a column whose values are arrays, such as `p_data` of predictions."""
        values = column.to_numpy()
        options = np.fromiter(map(len, values), np.int64, len(values))
        p = np.zeros((len(values), int(options.max(initial=1))))
        if len(values):
            p[np.arange(p.shape[1]) < options[:, None]] = np.concatenate(values)
        return cls(p, options)

    @property
    def thresholds(self) -> Bool[np.ndarray, "rows width"]:
        """Which positions have a cumulative share that can differ: all but the last option."""
        return np.arange(self.p.shape[1]) < self.options[:, None] - 1

    @property
    def cumulative(self) -> Float[np.ndarray, "rows width"]:
        """The cumulative shares at the thresholds, zero elsewhere."""
        return np.cumsum(self.p, axis=1) * self.thresholds

    def take(self, rows: Int[np.ndarray, "chosen"]) -> "Distributions":
        """Returns some rows, in the order given."""
        return Distributions(self.p[rows], self.options[rows])

    def drawn(self, n: Int[np.ndarray, "rows"], draws: np.random.Generator) -> "Distributions":
        """Returns the shares among n answers drawn from each row."""
        p = self.p / self.p.sum(axis=1, keepdims=True)
        return Distributions(draws.multinomial(n, p) / n[:, None], self.options)


def sample_sizes(predictions: pd.DataFrame) -> Float[np.ndarray, "rows"]:
    """Returns the respondents that each cell is worth: effective_n, or n where there is none."""
    column = "effective_n" if "effective_n" in predictions else "n"
    return predictions[column].to_numpy(np.float64)


def alignment_distances(one: Distributions, other: Distributions) -> Float[np.ndarray, "rows"]:
    """Returns the 1-Wasserstein distance of each two rows over positions, divided by K - 1.

    In [0, 1] (Eq. 15).
    """
    moved = np.abs(one.cumulative - other.cumulative).sum(axis=1)
    return moved / (one.options - 1)


def effect_distances_of(
    one: Float[np.ndarray, "rows width"],
    other: Float[np.ndarray, "rows width"],
    options: Int[np.ndarray, "rows"],
) -> Float[np.ndarray, "rows"]:
    """Returns the mean over K options of |difference| of two cumulative effects (Eq. 11)."""
    return np.abs(one - other).sum(axis=1) / options


def sampling_variance(
    slope: Float[np.ndarray, "rows width"], p: Distributions, n: Float[np.ndarray, "rows"]
) -> Float[np.ndarray, "rows"]:
    """Returns the variance of sum_k slope_k F_k, F the cumulative shares among n respondents.

    Exact for a multinomial sample, and unbiased where p is such a sample itself (hence n - 1).

    Args:
      slope: zero but at the thresholds.
      p: the shares.
      n: respondents; effective ones where they are weighted.
    """
    of_answer = np.cumsum(slope[:, ::-1], axis=1)[:, ::-1]
    mean = (p.p * of_answer).sum(axis=1)
    spread = (p.p * of_answer**2).sum(axis=1) - mean**2
    return np.maximum(spread, 0) / np.maximum(n - 1, 1)
