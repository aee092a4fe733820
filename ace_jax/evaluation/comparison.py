"""Methods side by side, paired cell by cell: scores, gains and tests.

A method is one run, or several runs with different seeds. A gain is the difference of two methods
in each cell and seed; only then are means taken.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.sparse import csr_array

from ace_jax.errors import InputError
from ace_jax.evaluation.uncertainty import (
    ALL,
    LEVEL,
    Average,
    Averaging,
    averaging,
    with_all_countries,
)

# A method's cells, or the cells of each of its seeds.
Cells = pd.DataFrame | Sequence[pd.DataFrame]
FLIPS = 1999
TINY = 1e-9  # points: less is rounding
KEY = ["country", "question_id", "persona"]


def gain_table(
    methods: Mapping[str, Cells], average: Average, by: Sequence[str] = (), *, seed: int = 0
) -> pd.DataFrame:
    """Returns each method's score and its gain over the first method, by country and over all.

    Intervals are those of module `uncertainty` and include the variance between seeds. `p_value` is
    that of a permutation test, which flips the sign of each question's contribution to the gain.
    The test generalises over questions, not over seeds.

    Args:
      methods: name -> cells of its run or runs (`alignment.scored_cells`, or the same part of
        them). Gains are over the first method. All methods have the same number of runs, or a
        single one, which is compared with every run of the other.
      average: `nested` or `flat`.
      by: columns that define a mean, besides granularity and country.
      seed: of the permutations.

    Returns:
      Columns average, granularity, those of `by`, country, run, n_cells (of one run), n_questions,
      n_seeds, seed_sd (of the scores; NaN for one), score, ci_low, ci_high, gain, gain_low,
      gain_high, p_value (NaN for the first method), on the scale of 0 to 100.

    Raises:
      InputError: the runs were not evaluated on the same cells.
    """
    keys = ["granularity", *by]
    tables = []
    for name, cells in stacked(methods).items():
        table = with_all_countries(cells, keys, average, partial(compared, cells=cells, seed=seed))
        n_seeds = len(_runs(methods[name]))
        seed_sd = table["seed_sd"] if n_seeds > 1 else np.nan
        tables.append(table.assign(run=name, n_seeds=n_seeds, seed_sd=seed_sd))
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
    """Returns the difference between every two methods over all countries, as in `gain_table`.

    Args:
      methods: as for `gain_table`, at least two.
      average: `nested` or `flat`.
      seed: of the permutations.

    Returns:
      One row for each granularity and two methods. Columns average, granularity, run, other (which
      precedes it in `methods`), n_questions, difference (run minus other), difference_low,
      difference_high, p_value, on the scale of 0 to 100, and clear: whether the 95 % interval
      excludes zero and the test rejects at 5 %. Nothing corrects for the number of tests.

    Raises:
      InputError: as `gain_table` does.
    """
    names = list(methods)
    tables = []
    for place, other in enumerate(names[:-1]):
        later = stacked({name: methods[name] for name in names[place:]})
        for name in names[place + 1 :]:
            means = averaging(later[name], ["granularity"], average, over=("country",))
            table = compared(means, later[name], seed)
            tables.append(table.assign(run=name, other=other))
    table = pd.concat(tables, ignore_index=True)
    # Either alone can be too sure: the interval if questions vary unequally, the test if seeds do.
    beyond_zero = table["gain_low"] * table["gain_high"] > 0
    table = table.assign(average=average, clear=beyond_zero & (table["p_value"] < 1 - LEVEL))
    bounds = {"gain": "difference", "gain_low": "difference_low", "gain_high": "difference_high"}
    kept = ["average", "granularity", "run", "other", "n_questions", *bounds, "p_value", "clear"]
    table = table.sort_values("granularity", kind="stable", ignore_index=True)
    return table[kept].rename(columns=bounds)


def stacked(methods: Mapping[str, Cells]) -> dict[str, pd.DataFrame]:
    """Returns the cells of each method with their gain over the first method, runs concatenated.

    Adds the columns seed (0, 1, ...), gain and gain_variance (from sampling respondents, an upper
    bound). Raises InputError as `gain_table` does.
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
        parts = [
            _gained(runs[i % len(runs)], first[i % len(first)], (names[0], name)).assign(seed=i)
            for i in range(count)
        ]
        tables[name] = pd.concat(parts, ignore_index=True)
    return tables


def compared(
    means: Averaging, cells: pd.DataFrame, seed: int, *, lowest: float = 0.0
) -> pd.DataFrame:
    """Returns score and gain of each group with their intervals and a test.

    Args:
      means: how to average `cells`.
      cells: of one method, from `stacked`.
      seed: of the permutations.
      lowest: the smallest value that a mean score can have.

    Returns:
      The groups' keys, n_cells, n_questions, seed_sd, score, ci_low, ci_high, gain, gain_low,
      gain_high, p_value.
    """
    score, gain = cells["score"].to_numpy(), cells["gain"].to_numpy()
    of_score = means.intervals(score, cells["variance"].to_numpy(), ("score", "ci_low", "ci_high"))
    of_gain = means.intervals(
        gain, cells["gain_variance"].to_numpy(), ("gain", "gain_low", "gain_high")
    )
    return means.groups.assign(
        seed_sd=means.seed_deviations(score),
        **of_score.clip(lower=lowest, upper=100),
        **of_gain,
        p_value=sign_flips(means, gain, seed),
    )


def sign_flips(
    means: Averaging, values: Float[np.ndarray, "cells"], seed: int
) -> Float[np.ndarray, "groups"]:
    """Returns the two-sided p-value of each mean under flips of the signs of questions.

    NaN if all values are zero. With Q questions it is at least 2 ** (1 - Q).
    """
    added, group = means.contributions(values), means.group_of("question")
    # All groups share the draws of signs: the first question of each gets the first sign.
    column = np.arange(len(added)) - np.searchsorted(group, group)
    matrix = csr_array((added, (group, column)), shape=(len(means.groups), int(column.max()) + 1))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (matrix.shape[1], FLIPS))
    observed = np.abs(means.means(values))
    reached = (np.abs(matrix @ signs) >= observed[:, None] - TINY).sum(axis=1)
    known = np.bincount(group, np.abs(added)) > TINY
    return np.where(known, (1 + reached) / (1 + FLIPS), np.nan)


def _runs(cells: Cells) -> Sequence[pd.DataFrame]:
    return [cells] if isinstance(cells, pd.DataFrame) else cells


def _gained(run: pd.DataFrame, first: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    if not np.array_equal(run[KEY].to_numpy(), first[KEY].to_numpy()):
        raise InputError(
            f"the runs {names[0]} and {names[1]} were not evaluated on the same cells; "
            "evaluate both with the same data, hold-out and seed"
        )
    gain = run["score"].to_numpy() - first["score"].to_numpy()
    # Both scores' errors come from the same respondents; at worst they have opposite signs.
    error = np.sqrt(run["variance"].to_numpy()) + np.sqrt(first["variance"].to_numpy())
    return run.assign(gain=gain, gain_variance=np.where(gain == 0, 0, error**2))
