"""Runs side by side, cell by cell: gains in score, and effect distances."""

from collections.abc import Mapping

import pandas as pd

from ace_jax.analysis.effects import effect_table
from ace_jax.analysis.uncertainty import bootstrap_means
from ace_jax.errors import InputError
from ace_jax.survey.personas import Attribute


def score_gains(
    runs: Mapping[str, pd.DataFrame], attributes: tuple[Attribute, ...], seed: int
) -> pd.DataFrame:
    """Returns each run's score by granularity, and its gain over the first run.

    The gain is paired: its 95 % interval resamples the questions that both runs answered.

    Args:
      runs: name -> predictions, the first one to compare with.
      attributes: what their personas are made of.
      seed: of the bootstrap.

    Returns:
      Columns granularity, run, n_cells, score, ci_low, ci_high, gain, gain_low, gain_high,
      on the paper's scale of 0 to 100.

    Raises:
      InputError: the runs were not evaluated on the same cells.
    """
    names = list(runs)
    first = runs[names[0]]
    cell = ["country", "question_id", *(attribute.name for attribute in attributes)]
    rows = []
    for name, predictions in runs.items():
        if not predictions[cell].equals(first[cell]):
            raise InputError(
                f"the runs {names[0]} and {name} were not evaluated on the same cells; "
                "evaluate both with the same data, hold-out and seed"
            )
        gains = predictions.assign(gain=predictions["score"] - first["score"])
        for granularity, cells in gains.groupby("granularity"):
            score, gain = (bootstrap_means(cells, column, seed) for column in ("score", "gain"))
            percent = (100 * value for value in (*score, *gain))
            rows.append((granularity, name, len(cells), *percent))
    columns = ["granularity", "run", "n_cells", "score", "ci_low", "ci_high"]
    table = pd.DataFrame(rows, columns=[*columns, "gain", "gain_low", "gain_high"])
    return table.sort_values("granularity", kind="stable", ignore_index=True)


def effect_distances(
    runs: Mapping[str, pd.DataFrame], attributes: tuple[Attribute, ...], min_n: int
) -> pd.DataFrame:
    """Returns the mean effect distance (Eq. 11) of each run by attribute and over all.

    The column `no effect` says how far off it is to predict that nothing ever changes: an effect
    distance means little beside any other number.
    """
    tables = {
        name: effect_table(predictions, attributes, min_n) for name, predictions in runs.items()
    }
    first = next(iter(tables.values()))
    pairs = first[["attribute"]].assign(
        **{name: table["distance"] for name, table in tables.items()},
        **{"no effect": first["distance_no_effect"]},
    )
    by_attribute = pairs.groupby("attribute", sort=False).mean()
    return pd.concat([by_attribute, pairs.drop(columns="attribute").mean().to_frame("ALL").T])
