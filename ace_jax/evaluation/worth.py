"""How many real respondents a model is worth.

Ask m respondents of a cell: the cumulative shares of their answers have the expected squared error
sum F (1 - F) / m. A model's squared error is its squared distance to the survey's shares, less what
sampling the survey's own respondents adds. The m at which both are equal is the model's worth.
"""

import numpy as np
import pandas as pd

from ace_jax.evaluation.alignment import Distributions
from ace_jax.evaluation.slopes import ratio_table
from ace_jax.survey.estimators import share_variance

WORTH = ["worth", "worth_low", "worth_high"]


def squared_errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """Returns the sums that worth is made of, a row a cell.

    `predictions` has the columns of predictions.parquet. The answers must not know the cells'
    respondents: a model that saw them looks better than it is.

    Returned columns: those of predictions, n_cells (1), error (the model's squared error, noise
    taken out) and one_respondent (that of asking one respondent), both float64.
    """
    data, model = (Distributions.of(predictions[name]) for name in ("p_data", "p_model"))
    n = predictions["effective_n"].to_numpy(np.float64)
    noise = share_variance(data.cumulative, n).sum(axis=1)
    apart = ((model.cumulative - data.cumulative) ** 2).sum(axis=1)
    return predictions.assign(n_cells=1, error=apart - noise, one_respondent=noise * n)


def worth_table(errors: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Returns the worth in respondents a cell by `keys`, with 95 % intervals over questions.

    `errors`: of `squared_errors`, with a column seed for several seeds. Returned columns: `keys`,
    n_questions, n_cells, worth, worth_low and worth_high. A bound is infinite where the model may
    be as near to the people as the survey can tell.
    """
    table = ratio_table(errors, keys, "error", "one_respondent")
    with np.errstate(divide="ignore"):
        # Its inverse, the error, is what has a symmetric interval.
        inverse = 1 / table[["ratio", "high", "low"]].clip(lower=0)
    inverse.columns = pd.Index(WORTH)
    return table[[*keys, "n_questions", "n_cells"]].join(inverse)
