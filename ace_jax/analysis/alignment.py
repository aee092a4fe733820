"""How close the model's answers are to the survey's (Eq. 15).

`predictions` is the table that `evaluate` writes: a row a cell, with p_data and p_model.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.analysis.uncertainty import bootstrap_means


def alignment_distance(p: Float[np.ndarray, "K"], q: Float[np.ndarray, "K"]) -> float:
    """Returns the 1-Wasserstein distance over option positions, divided by its maximum K - 1.

    Example: all mass on the first of three options against all on the second is 1 / 2.
    """
    return float(np.abs(np.cumsum(p - q))[:-1].sum() / (len(p) - 1))


def score_table(predictions: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Returns the mean score by country and granularity, with a 95 % interval.

    Flat averages: every cell counts alike in its country, every country alike in `ALL`.
    The interval resamples questions (`uncertainty.bootstrap_means`).

    Args:
      predictions: columns country, granularity, question_id, score.
      seed: of the bootstrap.

    Returns:
      Columns country, granularity, n_cells, score, ci_low, ci_high; scores in [0, 1].
    """
    rows = []
    for granularity, cells in predictions.groupby("granularity"):
        groups = [(str(country), part) for country, part in cells.groupby("country")]
        for country, part in [*groups, ("ALL", cells)]:
            mean, low, high = bootstrap_means(part, "score", seed)
            rows.append((country, granularity, len(part), mean, low, high))
    columns = ["country", "granularity", "n_cells", "score", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)
