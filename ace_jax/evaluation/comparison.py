"""Methods side by side, paired cell by cell: gains and tests; tiers of countries (RQ2).

A method is one run, or several runs with different seeds. A gain is the difference of two methods
in each cell and seed; only then are means taken.

`tier_scores` and `convergence` take tables of scores instead, with the columns granularity, country
and score: of `alignment.alignment_table`, or a published table. Means over them are plain: over the
countries of a tier, then over granularities. Rows `ALL` are ignored.
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
    in_order,
    with_all_countries,
)
from ace_jax.survey.readers.sources import TIERS

# A method's cells, or the cells of each of its seeds.
Cells = pd.DataFrame | Sequence[pd.DataFrame]
FLIPS = 1999
TINY = 1e-9  # points: less is rounding
KEY = ["country", "question_id", "persona"]
MEAN = "mean"  # the granularity of rows that are means over granularities


def gain_table(
    methods: Mapping[str, Cells], average: Average, by: Sequence[str] = (), *, seed: int = 0
) -> pd.DataFrame:
    """Returns each method's score and its gain over the first method, by country and over all.

    Intervals include the variance between seeds. `p_value` is that of a permutation test, which
    flips the sign of each question's contribution; it generalises over questions, not over seeds.

    Args:
      methods: name -> cells of its run or runs (`alignment.scored_cells`, or the same part of
        them). All methods have the same number of runs, or a single one, which is compared with
        every run of the other. InputError if their cells are not the same.
      by: columns that define a mean, besides granularity and country.

    Returns:
      Columns average, granularity, those of `by`, country, run, n_cells (of one run), n_questions,
      n_seeds, seed_sd (of the scores; NaN for one), score, ci_low, ci_high, gain, gain_low,
      gain_high, p_value (NaN for the first method), on the scale of 0 to 100.
    """
    keys = ["granularity", *by]
    tables = []
    for name, cells in stacked(methods).items():
        table = with_all_countries(cells, keys, average, partial(compared, cells=cells, seed=seed))
        n_seeds = len(_runs(methods[name]))
        seed_sd = table["seed_sd"] if n_seeds > 1 else np.nan
        tables.append(table.assign(run=name, n_seeds=n_seeds, seed_sd=seed_sd))
    return in_order(pd.concat(tables), average, keys, ["country", "run"])


def difference_table(
    methods: Mapping[str, Cells], average: Average, *, seed: int = 0
) -> pd.DataFrame:
    """Returns the difference between every two methods over all countries, as in `gain_table`.

    Columns are average, granularity, run, other (which precedes it in `methods`), n_questions,
    difference (run minus other), difference_low, difference_high, p_value, on the scale of 0 to
    100, and clear: whether the 95 % interval excludes zero and the test rejects at 5 %. Nothing
    corrects for the number of tests.
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


def compared(means: Averaging, cells: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Returns score and gain of each group of cells (`stacked`) with their intervals and a test.

    Columns are the groups' keys, n_cells, n_questions, seed_sd, score, ci_low, ci_high, gain,
    gain_low, gain_high, p_value.
    """
    score, gain = cells["score"].to_numpy(), cells["gain"].to_numpy()
    of_score = means.intervals(score, cells["variance"].to_numpy(), ("score", "ci_low", "ci_high"))
    of_gain = means.intervals(
        gain, cells["gain_variance"].to_numpy(), ("gain", "gain_low", "gain_high")
    )
    return means.groups.assign(
        seed_sd=means.seed_deviations(score),
        **of_score.clip(lower=0, upper=100),
        **of_gain,
        p_value=sign_flips(means, gain, seed),
    )


def sign_flips(
    means: Averaging, values: Float[np.ndarray, "cells"], seed: int
) -> Float[np.ndarray, "groups"]:
    """Returns the two-sided p-value of each mean under flips of the signs of questions.

    NaN if all values are zero. With Q questions it is at least 2 ** (1 - Q).
    """
    added, group = means.contributions(values), means.outer("question")
    # All groups share the draws of signs: the first question of each gets the first sign.
    column = np.arange(len(added)) - np.searchsorted(group, group)
    matrix = csr_array((added, (group, column)), shape=(len(means.groups), int(column.max()) + 1))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (matrix.shape[1], FLIPS))
    observed = np.abs(means.means(values))
    reached = (np.abs(matrix @ signs) >= observed[:, None] - TINY).sum(axis=1)
    known = np.bincount(group, np.abs(added)) > TINY
    return np.where(known, (1 + reached) / (1 + FLIPS), np.nan)


def tier_scores(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns the mean score of each tier by granularity, and over granularities (`mean`).

    Columns are run (the key of its scores), granularity, tier, n_countries, score and gain (over
    the first run).
    """
    scores = pd.concat([table.assign(run=name) for name, table in runs.items()], ignore_index=True)
    scores = scores.assign(tier=scores["country"].map(TIERS)).dropna(subset="tier")
    scores = scores.astype({"tier": int, "granularity": object})
    by = scores.groupby(["run", "granularity", "tier"], sort=False)["score"]
    table = by.agg(n_countries="size", score="mean").reset_index()
    tiers = table.groupby(["run", "tier"], as_index=False, sort=False)
    overall = tiers.agg({"n_countries": "max", "score": "mean"}).assign(granularity=MEAN)
    table = pd.concat([table, overall], ignore_index=True)
    first = table[table["run"] == next(iter(runs))].set_index(["granularity", "tier"])["score"]
    before = first.reindex(pd.MultiIndex.from_frame(table[["granularity", "tier"]])).to_numpy()
    return table.assign(gain=table["score"] - before)


def convergence(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns whether countries' scores come closer together than in the first run.

    Columns are run, granularity (and `mean`), gap (tier 1 minus tier 3; NaN without both), closed
    (per cent of the first run's gap that is gone), spread (standard deviation over countries) and
    slope (change of the gain for each point of the first run's score; below zero, countries with
    low scores gain most).
    """
    tiers = tier_scores(runs).pivot(index=["run", "granularity"], columns="tier", values="score")
    gaps = tiers.reindex(columns=[1, 3])
    gap = gaps[1] - gaps[3]
    first = next(iter(runs))
    before = _by_country(runs[first])
    rows = []
    for name, scores in runs.items():
        after = _by_country(scores).reindex(before.index)
        for granularity in after:
            of, was = after[granularity].dropna(), before[granularity].dropna()
            enough = len(was) > 1 and np.ptp(was) > 0
            slope = np.polyfit(was, (of - was), 1)[0] if enough else np.nan
            here, there = (gap.get((run, granularity), np.nan) for run in (name, first))
            closed = 100 * (1 - here / there)
            rows.append((name, granularity, here, closed, of.std(ddof=1), slope))
    return pd.DataFrame(rows, columns=["run", "granularity", "gap", "closed", "spread", "slope"])


def composition_table(
    methods: Mapping[str, Cells], average: Average, *, seed: int = 0
) -> pd.DataFrame:
    """Returns `gain_table` by persona and topic, rows of topic `ALL` last (Fig. 4).

    The methods' cells are of held-out personas only (the paper's: `survey.split.PAPER_PERSONAS`).
    """
    by_topic = gain_table(methods, average, ("persona", "topic"), seed=seed)
    overall = gain_table(methods, average, ("persona",), seed=seed).assign(topic=ALL)
    return pd.concat([by_topic, overall[list(by_topic)]], ignore_index=True)


def _by_country(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns scores with countries in rows, granularities and their mean in columns."""
    table = scores[scores["country"] != ALL]
    table = table.pivot(index="country", columns="granularity", values="score")
    return table.assign(**{MEAN: table.mean(axis=1)})


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
