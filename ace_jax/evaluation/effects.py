"""Effects: how answers shift when one attribute of a persona changes (Eq. 5-11, RQ3).

`distance` compares the model's shift with the survey's, option by option (Eq. 11). The signed
effect is the difference of mean option positions, A=1 minus A=0, over K - 1, times 100: positive
towards the last option. The size is the alignment distance between the two cells of a pair, times
100: nothing cancels in it, but it includes sampling noise.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.evaluation.alignment import (
    Distributions,
    alignment_distances,
    effect_distances,
    sampling_variance,
)
from ace_jax.evaluation.uncertainty import Averaging, with_all_countries
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import Attribute

CLASSES = ("Aligned", "Flipped", "Stereotyping", "Erasure")
SIZES = ("data_size", "model_size", "distance_no_effect", "floor")


def effect_table(
    predictions: pd.DataFrame, attributes: tuple[Attribute, ...], min_n: int
) -> pd.DataFrame:
    """Returns one row a pair: its effects and their distance.

    Both cells of a pair have `min_n` respondents. Raises InputError if there is no pair.

    Returns:
      Columns attribute, country, question_id, cell_0 and cell_1 (row positions in `predictions`),
      combination (the two levels), distance, distance_no_effect (of a model without effects),
      model_effect, data_effect, model_size, data_size, variance (of data_effect, from sampling
      respondents) and distance_variance (of distance; an upper bound if the two effects are within
      the sampling error).
    """
    pairs = toggle_pairs(predictions, attributes, min_n=min_n)
    zero, one = pairs["cell_0"].to_numpy(), pairs["cell_1"].to_numpy()
    data, model = (Distributions.of(predictions[name]) for name in ("p_data", "p_model"))
    options = data.options[zero]
    moved, model_moved = (of.cumulative[one] - of.cumulative[zero] for of in (data, model))
    n = predictions["effective_n"].to_numpy(np.float64)

    def variance(slope: Float[np.ndarray, "pairs width"]) -> Float[np.ndarray, "pairs"]:
        ends = (sampling_variance(slope, data.take(end), n[end]) for end in (zero, one))
        return sum(ends, np.zeros(len(pairs)))

    names = [attribute.name for attribute in attributes]
    levels = predictions[names].to_numpy(object)
    toggled = pd.Index(names).get_indexer(pd.Index(pairs["attribute"]))
    columns = ["attribute", "country", "question_id", "cell_0", "cell_1"]
    return pairs[columns].assign(
        combination=levels[zero, toggled] + " > " + levels[one, toggled],
        distance=effect_distances(model_moved, moved, options),
        distance_no_effect=effect_distances(np.zeros_like(moved), moved, options),
        data_effect=-100 * moved.sum(axis=1) / (options - 1),
        model_effect=-100 * model_moved.sum(axis=1) / (options - 1),
        data_size=100 * alignment_distances(data.take(zero), data.take(one)),
        model_size=100 * alignment_distances(model.take(zero), model.take(one)),
        variance=variance(100 * data.take(zero).thresholds / (options[:, None] - 1)),
        distance_variance=variance(np.sign(model_moved - moved) / options[:, None]),
    )


def effect_summary(pairs: pd.DataFrame, by: Sequence[str] = ("attribute", "topic")) -> pd.DataFrame:
    """Returns mean effects by country, and over countries in rows `ALL`; pairs count alike.

    `pairs` is of `effect_table`, with the columns of `by` (for topic: `alignment.topics_of`), and
    may have `floor` (`ceilings.effect_floors`).

    Returns:
      Columns country, those of `by`, n_pairs, n_questions; data_effect, data_low, data_high,
      model_effect, model_low, model_high, distance, distance_low, distance_high; data_size,
      model_size (how far the attribute moves answers: Figs. 5, 15), distance_no_effect, and floor
      if given; data_se (standard error of data_effect from sampling respondents, for these
      questions only).
    """
    variance = pairs["variance"].to_numpy()
    # Sampling respondents changes the survey's answers, not the model's.
    intervals = {
        ("data_effect", "data_low", "data_high"): variance,
        ("model_effect", "model_low", "model_high"): np.zeros(len(pairs)),
        ("distance", "distance_low", "distance_high"): pairs["distance_variance"].to_numpy(),
    }

    def summary(means: Averaging) -> pd.DataFrame:
        table = means.groups.rename(columns={"n_cells": "n_pairs"})
        for names, of in intervals.items():
            table = table.assign(**means.intervals(pairs[names[0]].to_numpy(), of, names))
        sizes = {name: means.means(pairs[name].to_numpy()) for name in SIZES if name in pairs}
        return table.assign(**sizes, data_se=means.sampling_errors(variance))

    table = with_all_countries(pairs, list(by), "flat", summary)
    return table[["country", *(name for name in table if name != "country")]]


def classify(
    model_effect: Float[np.ndarray, "effects"],
    data_effect: Float[np.ndarray, "effects"],
    epsilon: float,
) -> np.ndarray:
    """Returns the first of these classes that holds, for each effect (RQ3).

    Aligned       |model - data| <= epsilon, whatever the signs
    Flipped       the signs are opposite: model * data < 0
    Stereotyping  |model| > |data|
    Erasure       |model| < |data|, also if the model has no effect

    The paper's definitions overlap. Here a difference up to the threshold counts as none.
    """
    aligned = np.abs(model_effect - data_effect) <= epsilon
    flipped = np.sign(model_effect) * np.sign(data_effect) < 0
    larger = np.abs(model_effect) > np.abs(data_effect)
    return np.select([aligned, flipped, larger], CLASSES[:3], CLASSES[3])


def class_shares(summary: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """Returns how many effects of each country are in each class (Figs. 6, 16).

    `summary` is of `effect_summary`; rows `ALL` count as one more country. Columns are run (if it
    has one), country, class, n, share (0-100); every class, in the order of CLASSES.
    """
    model, data = (summary[f"{of}_effect"].to_numpy() for of in ("model", "data"))
    classes = pd.Categorical(classify(model, data, epsilon), CLASSES)
    by = [name for name in ("run", "country") if name in summary]
    effects = summary[by].assign(**{"class": classes})
    counts = effects.groupby([*by, "class"], observed=False).size().rename("n").reset_index()
    return counts.assign(share=100 * counts["n"] / counts.groupby(by)["n"].transform("sum"))
