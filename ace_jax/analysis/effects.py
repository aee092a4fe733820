"""How well the model's effects, its shifts under one toggle, follow the survey's (Eq. 5-11)."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import Attribute


def effect_distance(
    effect_model: Float[np.ndarray, "K"], effect_data: Float[np.ndarray, "K"]
) -> float:
    """Returns the mean over the K options of the absolute difference of cumulative effects."""
    return float(np.abs(np.cumsum(effect_model - effect_data)).mean())


def effect_table(
    predictions: pd.DataFrame, attributes: tuple[Attribute, ...], min_n: int
) -> pd.DataFrame:
    """Returns one row a pair: its distance, and the distance of predicting no effect.

    Args:
      predictions: as `evaluate` writes it, finest granularity included.
      attributes: what its personas are made of.
      min_n: respondents that both endpoints have at least.

    Returns:
      Columns attribute, country, question_id, distance, distance_no_effect.
    """
    pairs = toggle_pairs(predictions, attributes, min_n=min_n)
    data, model = predictions["p_data"].to_list(), predictions["p_model"].to_list()
    ends = list(zip(pairs["cell_0"], pairs["cell_1"], strict=True))
    effects = [(model[one] - model[zero], data[one] - data[zero]) for zero, one in ends]
    return pairs[["attribute", "country", "question_id"]].assign(
        distance=[effect_distance(*effect) for effect in effects],
        distance_no_effect=[effect_distance(np.zeros_like(data), data) for _, data in effects],
    )
