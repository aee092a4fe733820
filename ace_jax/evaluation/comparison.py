"""Methods side by side, cell by cell: scores, gains and whether they are chance.

A method is one run or several, with different seeds. Everything is paired: a gain is taken in each
cell and seed before anything is averaged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.sparse import csr_array

from ace_jax.errors import InputError
from ace_jax.evaluation.alignment import ALL
from ace_jax.evaluation.uncertainty import LEVEL, Average, Averaging, averaging

# A method's cells, or those of each of its seeds.
Cells = pd.DataFrame | Sequence[pd.DataFrame]
FLIPS = 1999
TINY = 1e-9  # points: less is rounding
KEY = ("country", "question_id", "persona")


def gain_table(
    methods: Mapping[str, Cells], average: Average, by: Sequence[str] = (), *, seed: int = 0
) -> pd.DataFrame:
    """Returns each method's score, and its gain over the first method, by country and over all.

    Intervals are those of module `averages`, seeds included. `p_value` is of a permutation test
    that flips the sign of what a question adds to the gain, question by question: questions are
    what the test generalises over, not seeds.

    Args:
      methods: name -> cells of its run or runs (`alignment.scored_cells`, or the same part of
        them), the first one to compare with. All have the same number of runs, or one: that is
        compared with every run of another.
      average: `nested` or `flat`.
      by: what to tell apart besides granularities and countries.
      seed: of the permutations.

    Returns:
      Columns average, granularity, those of `by`, country, run, n_cells (of one run), n_questions,
      n_seeds, seed_sd (of the scores; NaN for one), score, ci_low, ci_high, gain, gain_low,
      gain_high, p_value (NaN for the first method), on the scale of 0 to 100.

    Raises:
      InputError: runs to be compared were not evaluated on the same cells.
    """
    keys = ["granularity", *by]
    tables = []
    for name, cells in stacked(methods).items():
        of_countries = compared(cells, [*keys, "country"], average, seed=seed)
        of_all = compared(cells, keys, average, over=("country",), seed=seed)
        both = pd.concat([of_countries, of_all.assign(country=ALL)], ignore_index=True)
        n_seeds = len(_runs(methods[name]))
        seed_sd = both["seed_sd"] if n_seeds > 1 else np.nan
        tables.append(both.assign(run=name, n_seeds=n_seeds, seed_sd=seed_sd))
    order = pd.CategoricalDtype(list(methods))
    table = pd.concat(tables, ignore_index=True).assign(average=average)
    table = table.assign(last=table["country"] == ALL, run=table["run"].astype(order))
    table = table.sort_values([*keys, "last", "country", "run"], ignore_index=True)
    first = ["average", *keys, "country", "run"]
    rest = [name for name in table if name not in {*first, "last"}]
    return table[first + rest].astype({"run": object})


def difference_table(
    methods: Mapping[str, Cells], average: Average, *, seed: int = 0
) -> pd.DataFrame:
    """Returns how far each two methods are apart over all countries, paired as in `gain_table`.

    Args:
      methods: as for `gain_table`, at least two.
      average: `nested` or `flat`.
      seed: of the permutations.

    Returns:
      A row for each granularity and two methods. Columns average, granularity, run, other (which
      comes before it in `methods`), n_questions, difference (run less other), difference_low,
      difference_high, p_value, on the scale of 0 to 100, and clear: whether both tell it from zero,
      the 95 % interval and the test at 5 %. Nothing allows for the number of tests.

    Raises:
      InputError: as `gain_table` does.
    """
    names = list(methods)
    tables = []
    for place, other in enumerate(names[:-1]):
        later = stacked({name: methods[name] for name in names[place:]})
        for name in names[place + 1 :]:
            of = compared(later[name], ["granularity"], average, over=("country",), seed=seed)
            tables.append(of.assign(run=name, other=other))
    table = pd.concat(tables, ignore_index=True)
    # Each alone can be too sure: the interval where questions vary unlike, the test where seeds do.
    beyond_zero = table["gain_low"] * table["gain_high"] > 0
    table = table.assign(average=average, clear=beyond_zero & (table["p_value"] < 1 - LEVEL))
    bounds = {"gain": "difference", "gain_low": "difference_low", "gain_high": "difference_high"}
    kept = ["average", "granularity", "run", "other", "n_questions", *bounds, "p_value", "clear"]
    table = table.sort_values("granularity", kind="stable", ignore_index=True)
    return table[kept].rename(columns=bounds)


def stacked(methods: Mapping[str, Cells]) -> dict[str, pd.DataFrame]:
    """Returns the cells of each method, run under run, with the gain over the first method.

    Added columns: seed (0, 1, ...), gain, gain_variance (under sampling of respondents, from
    above). Raises InputError as `gain_table` does.
    """
    names = list(methods)
    first = _runs(methods[names[0]])
    tables = {}
    for name, cells in methods.items():
        runs = _runs(cells)
        count = max(len(runs), len(first))
        if {len(runs), len(first)} - {1, count}:
            raise InputError(
                f"{names[0]} has {len(first)} seeds and {name} {len(runs)}; give both the same "
                "number of seeds, or one of them a single run"
            )
        pairs = ((runs[i % len(runs)], first[i % len(first)]) for i in range(count))
        parts = [
            _gained(run, reference, (names[0], name)).assign(seed=i)
            for i, (run, reference) in enumerate(pairs)
        ]
        tables[name] = pd.concat(parts, ignore_index=True)
    return tables


def compared(
    cells: pd.DataFrame,
    by: Sequence[str],
    average: Average,
    *,
    over: Sequence[str] = (),
    contrast: str | None = None,
    seed: int,
) -> pd.DataFrame:
    """Returns score, gain, their intervals and a test of each group (`averages.averaging`).

    Columns: those of `by`, n_cells, n_questions, seed_sd, score, ci_low, ci_high, gain,
    gain_low, gain_high, p_value. `cells` are of one method, from `stacked`.
    """
    means = averaging(cells, by, average, over=over, contrast=contrast)
    columns: dict[str, Any] = {"seed_sd": means.seed_deviations(cells["score"].to_numpy())}
    for name, known in (("score", "variance"), ("gain", "gain_variance")):
        interval = means.intervals(cells[name].to_numpy(), cells[known].to_numpy())
        if name == "score" and contrast is None:
            interval = interval.clip(lower=0, upper=100)
        low, high = ("ci_low", "ci_high") if name == "score" else ("gain_low", "gain_high")
        columns |= {name: interval["mean"], low: interval["low"], high: interval["high"]}
    columns["p_value"] = sign_flips(means, cells["gain"].to_numpy(), seed)
    return means.groups.assign(**columns)


def sign_flips(
    means: Averaging, values: Float[np.ndarray, "cells"], seed: int
) -> Float[np.ndarray, "groups"]:
    """Returns the two-sided p-value of each mean's being zero, under flips of questions' signs.

    NaN where all values are zero. With few questions it cannot be small: at least 2 ** (1 - Q).
    """
    added = means.contributions(values)
    # A question within a stratum is flipped as one, in every group by the same draw of signs.
    column = np.arange(len(added)) - np.searchsorted(means.cluster_group, means.cluster_group)
    entries = (added, (means.cluster_group, column))
    matrix = csr_array(entries, shape=(len(means.groups), int(column.max()) + 1))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (matrix.shape[1], FLIPS))
    observed = np.abs(means.means(values))
    reached = (np.abs(matrix @ signs) >= observed[:, None] - TINY).sum(axis=1)
    known = np.bincount(means.cluster_group, np.abs(added), len(observed)) > TINY
    return np.where(known, (1 + reached) / (1 + FLIPS), np.nan)


def _runs(cells: Cells) -> Sequence[pd.DataFrame]:
    return [cells] if isinstance(cells, pd.DataFrame) else cells


def _gained(run: pd.DataFrame, first: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    key = list(KEY)
    if len(run) != len(first) or not all((run[name] == first[name]).all() for name in key):
        raise InputError(
            f"the runs {names[0]} and {names[1]} were not evaluated on the same cells; "
            "evaluate both with the same data, hold-out and seed"
        )
    gain = run["score"].to_numpy() - first["score"].to_numpy()
    # The two scores' errors are of the same respondents; at worst they are opposite.
    error = np.sqrt(run["variance"].to_numpy()) + np.sqrt(first["variance"].to_numpy())
    return run.assign(gain=gain, gain_variance=np.where(gain == 0, 0, error**2))
