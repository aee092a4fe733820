"""How sure one can be of a mean over cells."""

import numpy as np
import pandas as pd

REPLICATES = 2000


def bootstrap_means(cells: pd.DataFrame, column: str, seed: int) -> tuple[float, float, float]:
    """Returns a mean and its 95 % percentile interval under resampling of questions.

    Cells of one question share its difficulty, so questions are drawn, not cells (a cluster
    bootstrap). A mean is flat within a country and flat over countries. One question alone says
    nothing about others: its interval is NaN.

    Args:
      cells: columns country, question_id and `column`.
      column: what to average.
      seed: of the draws.
    """
    sums = cells.pivot_table(column, "country", "question_id", aggfunc="sum", fill_value=0)
    counts = cells.pivot_table(column, "country", "question_id", aggfunc="count", fill_value=0)

    def mean(drawn: np.ndarray) -> np.ndarray:
        total, number = drawn @ sums.to_numpy().T, drawn @ counts.to_numpy().T
        by_country = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
        return np.nanmean(by_country, axis=1)

    questions = sums.shape[1]
    centre = float(mean(np.ones((1, questions)))[0])
    if questions == 1:
        return centre, np.nan, np.nan
    draws = np.random.default_rng(seed).multinomial(
        questions, np.full(questions, 1 / questions), size=REPLICATES
    )
    low, high = np.percentile(mean(draws), [2.5, 97.5])
    return centre, float(low), float(high)
