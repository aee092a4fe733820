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
from ace_jax.evaluation.uncertainty import ALL, Averaging, with_all_countries
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import Attribute

CLASSES = ("Aligned", "Flipped", "Stereotyping", "Erasure")
SIZES = ("data_size", "model_size", "distance_no_effect", "floor")
ERRORS = 2.0  # standard errors within which an effect is the survey's
PERFECT, NO_EFFECT, DRAWS = "perfect model", "no effect", 100


def effect_table(
    predictions: pd.DataFrame, attributes: tuple[Attribute, ...], min_n: int
) -> pd.DataFrame:
    """Returns one row a pair: its effects and their distance.

    Pairs are of the finest cells there are. Both cells of a pair have `min_n` respondents. Raises
    InputError if there is no pair.

    Returns:
      Columns attribute, country, question_id, cell_0 and cell_1 (row positions in `predictions`),
      combination (the two levels), distance, distance_no_effect (of a model without effects),
      model_effect, data_effect, model_size, data_size, variance (of data_effect, from sampling
      respondents) and distance_variance (of distance; an upper bound if the two effects are within
      the sampling error).
    """
    finest = int(predictions["granularity"].max())
    pairs = toggle_pairs(predictions, attributes, min_n=min_n, granularity=finest)
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


def effect_summary(pairs: pd.DataFrame, by: Sequence[str] = ("attribute",)) -> pd.DataFrame:
    """Returns mean distances of effects by country, and over countries in rows `ALL`.

    Pairs count alike. `pairs` is of `effect_table` and may have `floor` (`ceilings.effect_floors`).

    Returns:
      Columns country, those of `by`, n_pairs, n_questions, distance, distance_low, distance_high;
      data_size, model_size (how far the attribute moves answers: Figs. 5, 15),
      distance_no_effect, and floor if given.
    """

    def summary(means: Averaging) -> pd.DataFrame:
        variance = pairs["distance_variance"].to_numpy()
        names = ("distance", "distance_low", "distance_high")
        table = means.groups.rename(columns={"n_cells": "n_pairs"})
        sizes = {name: means.means(pairs[name].to_numpy()) for name in SIZES if name in pairs}
        intervals = means.intervals(pairs["distance"].to_numpy(), variance, names)
        return table.assign(**intervals, **sizes)

    table = with_all_countries(pairs, list(by), "flat", summary)
    return table[["country", *(name for name in table if name != "country")]]


def question_effects(pairs: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Returns the mean signed effect of each toggle on each question, by country and over all.

    Signed effects are not averaged over questions, whose scales may run opposite ways, nor over
    the toggles of an attribute of several levels. `pairs` is of `effect_table`.

    Returns:
      Columns those of `by`, country (`ALL`: over countries), attribute, combination, question_id,
      n_pairs, data_effect, model_effect, data_size, model_size and data_se (standard error of
      data_effect from sampling respondents).
    """
    everywhere = pd.concat([pairs, pairs.assign(country=ALL)])
    keys = [*by, "country", "attribute", "combination", "question_id"]
    groups = everywhere.groupby(keys, sort=False)
    columns = ["data_effect", "model_effect", "data_size", "model_size", "variance"]
    table = groups[columns].mean().assign(n_pairs=groups.size())
    # The pairs of a toggle share no cell.
    table["data_se"] = np.sqrt(table.pop("variance") / table["n_pairs"])
    return table.reset_index()


def classify(
    model_effect: Float[np.ndarray, "effects"],
    data_effect: Float[np.ndarray, "effects"],
    threshold: float | Float[np.ndarray, "effects"],
) -> np.ndarray:
    """Returns the first of these classes that holds, for each effect (RQ3).

    Aligned       |model - data| <= threshold, whatever the signs
    Flipped       the signs are opposite: model * data < 0
    Stereotyping  |model| > |data|
    Erasure       |model| < |data|, also if the model has no effect

    The paper's definitions overlap. Here a difference up to the threshold counts as none.
    """
    aligned = np.abs(model_effect - data_effect) <= threshold
    flipped = np.sign(model_effect) * np.sign(data_effect) < 0
    larger = np.abs(model_effect) > np.abs(data_effect)
    return np.select([aligned, flipped, larger], CLASSES[:3], CLASSES[3])


def class_shares(effects: pd.DataFrame) -> pd.DataFrame:
    """Returns how many effects of each run and country are in each class (Figs. 6, 16).

    `effects` is of `question_effects` by run (and seed). The threshold of an effect is ERRORS of
    its standard errors. Two runs are added to compare with: PERFECT, which has the true effects
    (drawn DRAWS times from the survey's standard errors), and NO_EFFECT.

    Returns:
      Columns run, country, class (every one, in the order of CLASSES), n and share (0-100).
    """
    first = effects[effects["run"] == effects["run"].iloc[0]]
    errors = np.random.default_rng(0).standard_normal((DRAWS, len(first)))
    drawn = [first["data_effect"] + error * first["data_se"] for error in errors]
    perfect = pd.concat([first.assign(run=PERFECT, model_effect=each) for each in drawn])
    none = first.assign(run=NO_EFFECT, model_effect=0.0)
    every = pd.concat([effects, perfect, none], ignore_index=True)
    columns = ["model_effect", "data_effect", "data_se"]
    model, data, error = every[columns].to_numpy(np.float64).T
    classes = pd.Categorical(classify(model, data, ERRORS * error), CLASSES)
    by, every = ["run", "country"], every.assign(**{"class": classes})
    counts = every.groupby([*by, "class"], observed=False, sort=False).size()
    counts = counts.unstack("class")[list(CLASSES)].stack().rename("n").reset_index()
    total = counts.groupby(by)["n"].transform("sum")
    return counts[total > 0].assign(share=100 * counts["n"] / total.clip(lower=1))
