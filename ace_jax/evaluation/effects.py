"""How well the model's effects, its shifts under one toggle, follow the survey's (Eq. 5-11, RQ3).

Three numbers say how far a toggle moves answers. `distance` compares the model's movement with the
survey's option by option (Eq. 11). A signed effect is the difference of mean option positions, A=1
less A=0, over K - 1, times 100: from -100 to 100, positive towards the last option; the paper
compares signs and sizes of effects without saying of what, and this is the signed fellow of the
alignment distance. A size, for heatmaps, is the alignment distance between the two ends times 100:
nothing cancels in it, but sampling noise is part of it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from ace_jax.evaluation.alignment import ALL
from ace_jax.evaluation.distributions import (
    Distributions,
    alignment_distances,
    effect_distances_of,
    sample_sizes,
    sampling_variance,
)
from ace_jax.evaluation.uncertainty import averaging
from ace_jax.survey.pairs import toggle_pairs
from ace_jax.survey.personas import Attribute

CLASSES = ("Aligned", "Flipped", "Stereotyping", "Erasure")
SIZES = ("data_size", "model_size", "distance_no_effect", "floor")


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
      Columns attribute, country, question_id, cell_0 and cell_1 (row positions in `predictions`),
      combination (the two levels), distance, distance_no_effect, model_effect, data_effect,
      model_size, data_size, variance (of data_effect, from sampling respondents) and
      distance_variance (of distance; from above where the two are within the sampling error).

    Raises:
      InputError: there is no pair.
    """
    pairs = toggle_pairs(predictions, attributes, min_n=min_n)
    zero, one = pairs["cell_0"].to_numpy(), pairs["cell_1"].to_numpy()
    data, model = (Distributions.of(predictions[name]) for name in ("p_data", "p_model"))
    options = data.options[zero]
    moves = {}
    for name, p in (("data", data), ("model", model)):
        cumulative = p.cumulative
        moves[name] = cumulative[one] - cumulative[zero]
    n = sample_sizes(predictions)

    def variance(slope: Float[np.ndarray, "pairs width"]) -> Float[np.ndarray, "pairs"]:
        ends = (sampling_variance(slope, data.take(end), n[end]) for end in (zero, one))
        return sum(ends, np.zeros(len(pairs)))

    signed = {
        f"{name}_effect": -100 * move.sum(axis=1) / (options - 1) for name, move in moves.items()
    }
    sizes = {
        f"{name}_size": 100 * alignment_distances(p.take(zero), p.take(one))
        for name, p in (("model", model), ("data", data))
    }
    columns = ["attribute", "country", "question_id", "cell_0", "cell_1"]
    return pairs[columns].assign(
        combination=_levels(predictions, pairs),
        distance=effect_distances_of(moves["model"], moves["data"], options),
        distance_no_effect=effect_distances_of(0 * moves["data"], moves["data"], options),
        **signed,
        **sizes,
        variance=variance(100 * data.take(zero).thresholds / (options[:, None] - 1)),
        distance_variance=variance(np.sign(moves["model"] - moves["data"]) / options[:, None]),
    )


def effect_summary(pairs: pd.DataFrame, by: Sequence[str] = ("attribute", "topic")) -> pd.DataFrame:
    """Returns mean effects by country, and over countries in rows `ALL`; pairs count alike.

    Args:
      pairs: of `effect_table`, with the columns of `by` (topic: `alignment.topics_of`) and maybe
        `floor` (`ceilings.effect_floors`).
      by: what to tell apart besides countries.

    Returns:
      Columns country, those of `by`, n_pairs, n_questions; data_effect, data_low, data_high,
      data_se (standard error from sampling respondents to these questions alone); model_effect,
      model_low, model_high; distance, distance_low, distance_high; data_size, model_size,
      distance_no_effect, and floor if given.
    """
    tables = [_summary(pairs, ["country", *by], ())]
    tables.append(_summary(pairs, list(by), ("country",)).assign(country=ALL))
    table = pd.concat(tables, ignore_index=True)
    return table[["country", *(name for name in table if name != "country")]]


def heterogeneity(summary: pd.DataFrame) -> pd.DataFrame:
    """Returns what Figs. 5 and 15 show: how far each attribute moves the survey's answers.

    Args:
      summary: of `effect_summary` by attribute and topic.

    Returns:
      Columns country, topic, attribute, data_size, model_size, and dominant: whether the attribute
      moves the survey's answers most in its country and topic.
    """
    most = summary.groupby(["country", "topic"])["data_size"].transform("max")
    table = summary.assign(dominant=summary["data_size"] == most)
    return table[["country", "topic", "attribute", "data_size", "model_size", "dominant"]]


def classify(
    model_effect: Float[np.ndarray, "effects"],
    data_effect: Float[np.ndarray, "effects"],
    epsilon: float,
) -> np.ndarray:
    """Returns one of CLASSES for each effect; the first that holds (RQ3).

    Aligned       |model - data| <= epsilon, whatever the signs
    Flipped       the signs are opposite: model * data < 0
    Stereotyping  |model| > |data|
    Erasure       |model| < |data|, no effect at all included

    The paper's definitions overlap and leave this open: two tiny effects of opposite signs are
    both its Flipped and its Aligned. Here a difference below the threshold is none. An effect of
    exactly zero has no sign to flip.
    """
    aligned = np.abs(model_effect - data_effect) <= epsilon
    flipped = np.sign(model_effect) * np.sign(data_effect) < 0
    larger = np.abs(model_effect) > np.abs(data_effect)
    return np.select([aligned, flipped, larger], CLASSES[:3], CLASSES[3])


def class_shares(
    summary: pd.DataFrame, epsilon: float, by: Sequence[str] = ("country",)
) -> pd.DataFrame:
    """Returns how many effects are of each class (Figs. 6, 16).

    Args:
      summary: of `effect_summary`; rows `ALL` count as a country of their own.
      epsilon: in points, as the effects are.
      by: what to tell apart.

    Returns:
      Columns of `by`, class, n, share (0-100); every class, in the order of CLASSES.
    """
    of = classify(summary["model_effect"].to_numpy(), summary["data_effect"].to_numpy(), epsilon)
    return _counted(summary[list(by)].assign(**{"class": of}), by, {"class": CLASSES})


def threshold_sweep(summary: pd.DataFrame, epsilons: Sequence[float]) -> pd.DataFrame:
    """Returns `class_shares` of all rows at each threshold: columns epsilon, class, n, share."""
    tables = [class_shares(summary, each, ()).assign(epsilon=each) for each in epsilons]
    return pd.concat(tables, ignore_index=True)[["epsilon", "class", "n", "share"]]


def transitions(
    before: pd.DataFrame, after: pd.DataFrame, epsilon: float, by: Sequence[str] = ()
) -> pd.DataFrame:
    """Returns how many effects went from which class to which.

    Args:
      before, after: of `effect_summary`, of two runs on the same cells.
      epsilon: in points.
      by: what to tell apart.

    Returns:
      Columns of `by`, before, after, n, share (0-100, of all effects of the group); all 16 rows.
    """
    classes = {
        name: classify(table["model_effect"].to_numpy(), table["data_effect"].to_numpy(), epsilon)
        for name, table in (("before", before), ("after", after))
    }
    return _counted(
        before[list(by)].assign(**classes), by, dict.fromkeys(("before", "after"), CLASSES)
    )


def _levels(predictions: pd.DataFrame, pairs: pd.DataFrame) -> np.ndarray:
    text = np.empty(len(pairs), object)
    for name in pairs["attribute"].unique():
        rows = np.flatnonzero(pairs["attribute"] == name)
        level = predictions[name].to_numpy(object)
        zero, one = (level[pairs[end].to_numpy()[rows]] for end in ("cell_0", "cell_1"))
        text[rows] = zero + " > " + one
    return text


def _summary(pairs: pd.DataFrame, by: list[str], over: Sequence[str]) -> pd.DataFrame:
    means = averaging(pairs, by, "flat", over=over)
    variance = pairs["variance"].to_numpy()
    # Sampling respondents moves the survey's answers, not the model's.
    known = {
        "data": ("data_effect", variance),
        "model": ("model_effect", np.zeros(len(pairs))),
        "distance": ("distance", pairs["distance_variance"].to_numpy()),
    }
    columns: dict[str, pd.Series] = {}
    for name, (column, its_variance) in known.items():
        interval = means.intervals(pairs[column].to_numpy(), its_variance)
        columns |= {
            column: interval["mean"],
            f"{name}_low": interval["low"],
            f"{name}_high": interval["high"],
        }
    sizes = {name: means.means(pairs[name].to_numpy()) for name in SIZES if name in pairs}
    groups = means.groups.rename(columns={"n_cells": "n_pairs"})
    return groups.assign(**columns, **sizes, data_se=means.sampling_errors(variance))


def _counted(
    effects: pd.DataFrame, by: Sequence[str], classes: dict[str, tuple[str, ...]]
) -> pd.DataFrame:
    # Every class is counted, also one that no effect is of, but only groups that there are.
    groups = effects[list(by)].drop_duplicates() if by else pd.DataFrame(index=[0])
    for name, of in classes.items():
        groups = groups.merge(pd.DataFrame({name: of}), how="cross")
    counted = effects.groupby([*by, *classes]).size().rename("n").reset_index()
    table = groups.merge(counted, how="left").fillna({"n": 0}).astype({"n": int})
    total = table.groupby(list(by))["n"].transform("sum") if by else table["n"].sum()
    return table.assign(share=100 * table["n"] / total)
